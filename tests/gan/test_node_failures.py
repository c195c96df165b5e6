"""What failures of nodes look like: each ends all other nodes soon, with a line that names the rank."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gan.training.checkpoints import load_checkpoint, newest_first
from tests.conftest import ROOT, NodesMaker
from tests.gan.test_resume import assert_same_run
from tests.namespaces import Node, end

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.multiprocess]

TRAINING = "--recipe mlp-compact --dataset digits --batch-size 50 --num-threads 1 --log-every 5"
TRAINING = f"{TRAINING} --checkpoint-every 1000 --distributed-timeout 60"
LIMIT = 8


def start(node: Node, rank: int, nodes: Sequence[Node], folder: Path, options: str = "") -> subprocess.Popen[str]:
    launcher = (
        f"-m accelerate.commands.launch -q --config_file {ROOT / 'accelerate_configs' / 'multi_node_cpu.yaml'}"
    )
    launcher = f"{launcher} --num_machines {len(nodes)} --num_processes {len(nodes)} --machine_rank {rank}"
    worker = f"{ROOT / 'tests' / 'gan' / 'failure_worker.py'} {TRAINING} --epochs 2000 --output {folder / 'run'}"
    command = f"{launcher} --main_process_ip {nodes[0].address} {worker} {options}"
    environment = {"PYTHONPATH": str(ROOT), "FAULT": "0:0:none", "TIGHT": str(LIMIT)}
    return node.start([sys.executable, *shlex.split(command)], env=environment, cwd=folder)


def wait_for_checkpoint(folder: Path, launchers: Sequence[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + 100
    while not newest_first(folder / "run" / "checkpoints"):
        assert time.monotonic() < until
        assert all(launcher.poll() is None for launcher in launchers)
        time.sleep(0.1)


def error_lines(output: str) -> list[str]:
    return re.findall(r"^error: (.*)", output, re.MULTILINE)


def lose_rank(node: Node) -> None:
    signal_trainers(node, signal.SIGKILL)


def stop_rank(node: Node) -> None:
    signal_trainers(node, signal.SIGSTOP)


def signal_trainers(node: Node, number: signal.Signals) -> None:
    pids = [pid for pid in node.processes() if is_trainer(pid)]
    assert pids
    for pid in pids:
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)


def is_trainer(pid: int) -> bool:
    words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
    return any(word.endswith("failure_worker.py") for word in words) and "accelerate.commands.launch" not in words


def lose_node(node: Node) -> None:
    node.kill()


def lose_link(node: Node) -> None:
    node.plug(connected=False)


@pytest.mark.parametrize("loss", [lose_rank, lose_node, lose_link, stop_rank], ids=lambda loss: loss.__name__)
def test_the_other_nodes_name_the_lost_one(loss, nodes: NodesMaker, tmp_path: Path) -> None:
    made = nodes(3)
    launchers = [start(node, rank, made, tmp_path) for rank, node in enumerate(made)]
    wait_for_checkpoint(tmp_path, launchers)
    began = time.monotonic()
    loss(made[1])
    outputs = end(launchers[0], launchers[2], seconds=60)
    seconds = time.monotonic() - began
    said = [error_lines(output) for output in outputs]
    print(loss.__name__, f"{seconds:.1f} s", [launchers[0].returncode, launchers[2].returncode], said)
    assert [launchers[0].returncode, launchers[2].returncode] == [1, 1]
    for rank, lines in zip((0, 2), said, strict=True):
        (line,) = lines
        assert line.startswith("rank 1 on node1: "), line
        assert re.search(rf"; rank {rank} waited for it in ", line), line
    load_checkpoint(newest_first(tmp_path / "run" / "checkpoints")[0])


def test_a_link_that_comes_back_within_the_limit_does_no_harm(nodes: NodesMaker, tmp_path: Path) -> None:
    made = nodes(2)
    launchers = [start(node, rank, made, tmp_path) for rank, node in enumerate(made)]
    wait_for_checkpoint(tmp_path, launchers)
    made[1].plug(connected=False)
    time.sleep(LIMIT / 2)
    made[1].plug(connected=True)
    before = newest_first(tmp_path / "run" / "checkpoints")[0]
    until = time.monotonic() + 30
    while newest_first(tmp_path / "run" / "checkpoints")[0] == before:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert all(launcher.poll() is None for launcher in launchers)


def test_a_node_that_differs_is_refused(nodes: NodesMaker, tmp_path: Path) -> None:
    made = nodes(2)
    launchers = [start(node, rank, made, tmp_path, f"--seed {rank}") for rank, node in enumerate(made)]
    outputs = end(*launchers, seconds=100)
    (line,) = error_lines("".join(outputs))
    assert line.startswith("--seed: 1 on rank 1 (node1), but 0 on rank 0 (node0)")
    assert not (tmp_path / "run").exists()


def test_lost_nodes_come_back_and_the_run_ends_with_the_same_bits(nodes: NodesMaker, tmp_path: Path) -> None:
    """Launchers start all ranks again once the lost node's launcher is there. GAN_TEST_KILLS says how often."""
    runs = []
    most_kills = int(os.environ.get("GAN_TEST_KILLS", "1"))
    for num_kills in (0, most_kills):
        made = nodes(2)
        folder = tmp_path / str(num_kills)
        folder.mkdir()
        launchers = [start_elastic(node, made, folder, 8 * most_kills) for node in made]
        seen: set[Path] = set()
        for _ in range(num_kills):
            seen |= {wait_for_another_checkpoint(folder, seen)}
            made[1].kill()
            launchers[1].wait(10)
            launchers[1] = start_elastic(made[1], made, folder, 8 * most_kills)
        outputs = end(*launchers, seconds=150)
        assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
        runs.append(folder / "run")
    assert_same_run(*runs)


def start_elastic(node: Node, nodes: Sequence[Node], folder: Path, num_epochs: int) -> subprocess.Popen[str]:
    config = ROOT / "accelerate_configs" / "multi_node_cpu.yaml"
    launcher = f"-m accelerate.commands.launch -q --config_file {config} --rdzv_backend c10d --max_restarts 100"
    options = f"{TRAINING} --epochs {num_epochs} --keep-checkpoints 100 --output {folder / 'run'}"
    command = (
        f"{launcher} --main_process_ip {nodes[0].host} {ROOT / 'tests' / 'gan' / 'failure_worker.py'} {options}"
    )
    environment = {"PYTHONPATH": str(ROOT), "FAULT": "0:0:none", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return node.start([sys.executable, *shlex.split(command)], env=environment, cwd=folder)


def wait_for_another_checkpoint(folder: Path, seen: set[Path]) -> Path:
    until = time.monotonic() + 100
    while not (new := set(newest_first(folder / "run" / "checkpoints")) - seen):
        assert time.monotonic() < until
        time.sleep(0.05)
    return max(new)
