"""Runs on several nodes that tests disturb: what every rank prints then, its exit code, and after how long.

GAN_TEST_TABLE=FILE writes all of it to a file, as rows of a table.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gan.loop import train
from gan.options import parse_train_options
from gan.training.checkpoints import load_checkpoint, newest_first
from tests.conftest import ROOT
from tests.namespaces import Node

WORKER = ROOT / "tests" / "gan" / "failure_worker.py"
TRAINING = "--recipe mlp-compact --dataset digits --batch-size 50 --num-threads 1 --log-every 5"
TRAINING = f"{TRAINING} --checkpoint-every 1000 --distributed-timeout 60"
LONG = "--epochs 2000"
"""A run that goes on until it is disturbed."""
NUM_NODES = (2, 3)
BEGINNING_SECONDS = 120
"""A machine that is busy with other work may take so long to start three nodes."""
LIMIT = 10
"""Seconds of --distributed-timeout from the first step on. Until then busy machines take longer."""
HEADER = """| failure | nodes | rank | its line | launcher's exit code | rank's | seconds |
|---|--:|--:|---|--:|--:|--:|
"""


@dataclass(frozen=True)
class Outcome:
    """How a node ended.

    Attributes:
        rank: Of its only process.
        exit_code: Of its launcher; None if that still runs.
        rank_exit_code: Of the process, as the launcher reports it; None if it does not.
        seconds: From the failure to the launcher's end.
        lines: The errors that the process printed.
        output: All that was printed.
    """

    rank: int
    exit_code: int | None
    rank_exit_code: int | None
    seconds: float
    lines: list[str]
    output: str

    @property
    def said(self) -> str:
        """What the process printed; what its launcher did, if the process has printed nothing."""
        of_launcher = re.findall(r"^[\w.]*(?:Error|Exception): \S.*", self.output, re.MULTILINE)
        return self.lines[0] if self.lines else f"(launcher: {of_launcher[-1][:150]})" if of_launcher else ""


@dataclass
class NodeRun:
    """A run with a process on each node.

    Attributes:
        nodes: The nodes; the number of a node is its rank, but in an elastic launch.
        folder: Where the nodes share a directory. The run is in its `run`.
        training: The options that all ranks have in common.
        elastic: Whether launchers start the processes again after a loss.
        launchers: By node, those that have been started.
        began: When the failure was, in seconds of `time.monotonic`.
    """

    nodes: Sequence[Node]
    folder: Path
    training: str = TRAINING
    elastic: bool = False
    launchers: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    began: float = 0.0

    def start(
        self,
        number: int,
        options: str = "",
        *,
        launcher: str = "",
        env: Mapping[str, str] | None = None,
        mounts: Mapping[Path, Path | None] | None = None,
    ) -> None:
        """Start a launcher on a node.

        Args:
            number: Of the node.
            options: More options of the training; they take the place of those that all ranks have.
            launcher: More options of the launcher.
            env: Its environment, besides what all have.
            mounts: What this node sees elsewhere: another file or directory, or with None an empty file system.
        """
        num_nodes = len(self.nodes)
        config = ROOT / "accelerate_configs" / "multi_node_cpu.yaml"
        numbers = f"--num_machines {num_nodes} --num_processes {num_nodes}"
        place = f"--machine_rank {number} --main_process_ip {self.nodes[0].address}"
        if self.elastic:
            place = f"--rdzv_backend c10d --max_restarts 100 --main_process_ip {self.nodes[0].host}"
        launch = f"-m accelerate.commands.launch -q --config_file {config} {numbers} {place} {launcher}"
        command = f"{launch} {WORKER} {self.training} --output {self.folder / 'run'} {options}"
        environment = {"PYTHONPATH": str(ROOT), "FAULT": "0:0:none"}
        environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if self.elastic else {"TIGHT": str(LIMIT)}
        words = [sys.executable, *shlex.split(command)]
        for place_there, what in (mounts or {}).items():
            kind = "--bind" if what else "-t tmpfs"
            words = [
                "sh",
                "-c",
                f'mount {kind} "$0" "$1" && shift && exec "$@"',
                what or "tmpfs",
                place_there,
                *words,
            ]
        with self._log(number).open("w") as log:
            self.launchers[number] = self.nodes[number].start(
                words, env={**environment, **(env or {})}, cwd=self.folder, stdout=log
            )

    def start_all(self, options: str = "") -> None:
        """Start a launcher on every node."""
        for number in range(len(self.nodes)):
            self.start(number, options)

    def _log(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-node{number}.log")

    def written(self, number: int) -> str:
        """Return what a node has written."""
        return self._log(number).read_text(encoding="utf-8", errors="replace")

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        return newest_first(self.folder / "run" / "checkpoints")

    def wait_for_another_checkpoint(self, seen: Sequence[Path] = (), seconds: float = 120) -> None:
        """Wait until there is a checkpoint besides those that were seen; all launchers have to go on."""
        until = time.monotonic() + seconds
        while not set(self.checkpoints()) - set(seen):
            written = [self.written(number) for number in self.launchers]
            assert time.monotonic() < until, written
            assert all(launcher.poll() is None for launcher in self.launchers.values()), written
            time.sleep(0.05)

    def fail_now(self) -> None:
        """Note that the failure is now."""
        self.began = time.monotonic()

    def outcomes(self, *numbers: int, seconds: float) -> list[Outcome]:
        """Wait until nodes have ended, for so long in all; return how they ended."""
        ended: dict[int, float] = {}
        while len(ended) < len(numbers) and time.monotonic() < self.began + seconds:
            for number in numbers:
                if number not in ended and self.launchers[number].poll() is not None:
                    ended[number] = time.monotonic() - self.began
            time.sleep(0.02)
        return [self._outcome(number, ended.get(number, seconds)) for number in numbers]

    def _outcome(self, number: int, seconds: float) -> Outcome:
        output = self.written(number)
        reported = re.findall(r"^ *exitcode *: (-?\d+)", output, re.MULTILINE)
        lines = re.findall(r"^error: (.*)", output, re.MULTILINE)
        exit_code = self.launchers[number].poll()
        return Outcome(number, exit_code, int(reported[0]) if reported else None, seconds, lines, output)

    def signal_rank(self, number: int, sent: signal.Signals) -> None:
        """Send a signal to the process that trains on a node, and not to its launcher."""
        pids = [pid for pid in self.nodes[number].processes() if _is_trainer(pid)]
        assert pids
        for pid in pids:
            os.kill(pid, sent)

    def require_no_process_left(self, seconds: float = 10) -> None:
        """Require that no process is left on any node."""
        until = time.monotonic() + seconds
        while any(node.processes() for node in self.nodes):
            assert time.monotonic() < until, [node.processes() for node in self.nodes]
            time.sleep(0.05)

    def require_resumable(self) -> None:
        """Require that the last checkpoint is whole, and that one process can go on with the run for a step."""
        checkpoint = load_checkpoint(self.checkpoints()[0])
        step = checkpoint.counters["progress"]["step"] + 1
        num_threads = torch.get_num_threads()
        words = f"--output {self.folder / 'run'} --resume --steps {step} --batch-size {50 * len(self.nodes)}"
        train(parse_train_options(words.split()))
        torch.set_num_threads(num_threads)
        assert load_checkpoint(self.checkpoints()[0]).counters["progress"]["step"] == step


def _is_trainer(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return str(WORKER) in words and "accelerate.commands.launch" not in words


def note(failure: str, outcomes: Sequence[Outcome], num_nodes: int) -> None:
    """Print how the nodes ended, and add it to the table, if one is asked for."""
    rows = [
        f"| {failure} | {num_nodes} | {one.rank} | {one.said.replace('|', chr(92) + '|')} | {one.exit_code} "
        f"| {'' if one.rank_exit_code is None else one.rank_exit_code} | {one.seconds:.1f} |\n"
        for one in outcomes
    ]
    print("".join(rows))
    if table := os.environ.get("GAN_TEST_TABLE"):
        with Path(table).open("a", encoding="utf-8") as file:
            file.writelines([HEADER] * (file.tell() == 0) + rows)
