"""Launches of cases: a launcher starts their processes, which then measure, wait and end."""

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil

from bench.harness import processes
from bench.harness.exchange import Exchange, Grant, Phase, Status, Wait
from bench.harness.host import FEW_SPINS, child_environment
from bench.harness.messages import encode
from bench.harness.windows import Effort
from bench.runner.assignment import Assignment
from bench.runner.diagnosis import CaseError, failed, hung
from bench.runner.leftovers import temporary_directory
from bench.runner.limits import Limits
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from gan.files.json_files import read_json

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "accelerate_configs"
POLL_SECONDS = 0.03
PREFIX = "gan-bench-"


class Launcher:
    """One `accelerate launch`, and the launches of cases whose processes it starts."""

    def __init__(self, launches: list["Launch"], stack: contextlib.ExitStack) -> None:
        self.launches = launches
        self._stack = stack.enter_context(contextlib.ExitStack())
        self._root = self._stack.enter_context(temporary_directory(PREFIX))

    def start(self) -> list["Launch"]:
        """Start the launcher in a session of its own, so that Ctrl-C reaches us alone; return the launches."""
        for number, launch in enumerate(self.launches):
            (self._root / str(number)).mkdir()
            launch.prepare(self, Exchange(self._root / str(number)))
        exchanges = [launch.exchange for launch in self.launches]
        case = self.launches[0].case
        scratch = self._root / "tmp"  # torchrun leaves its logs behind
        scratch.mkdir()
        self._process = processes.start(
            [*_command(case), *(str(exchange.assignment) for exchange in exchanges)],
            cwd=ROOT,
            environment={**_environment(case), "TMPDIR": str(scratch)},
            log=exchanges[0].launcher_log,
        )
        self._stack.callback(processes.end, self._process)
        return list(self.launches)

    def exit_code(self) -> int | None:
        """Return the launcher's exit code, if it has ended."""
        return self._process.poll()

    def leave(self, launch: "Launch") -> None:
        """End a launch's processes; with the last one the launcher, and remove the folder."""
        self.launches.remove(launch)
        if not self.launches:
            self._stack.close()
        elif status := launch.exchange.status(0):
            with contextlib.suppress(psutil.Error):
                psutil.Process(status.pid).kill()


class Launch:
    """The processes that measure a case, once."""

    launcher: Launcher
    exchange: Exchange

    def __init__(
        self,
        case: Case,
        effort: Effort,
        limits: Limits,
        on_progress: Callable[[str], None] = lambda _: None,
        num_threads: int | None = None,
    ) -> None:
        self.case = case
        self.limits = limits
        self.waits = Wait(-1)
        self.done = False
        self._granted = -1
        self._granted_at = 0.0
        self._effort = effort
        self._num_threads = num_threads
        self._on_progress = on_progress
        self._seconds = 0.0
        self._last_statuses: dict[int, Status] = {}
        self._silences = dict.fromkeys(range(case.num_processes), 0.0)

    def prepare(self, launcher: Launcher, exchange: Exchange) -> None:
        """Write what is to be measured."""
        self.launcher, self.exchange = launcher, exchange
        assignment = Assignment(self.case, self._effort, os.getpid(), time.monotonic(), self._num_threads)
        exchange.assignment.write_bytes(encode(assignment))

    def grant(self, grant: Grant) -> None:
        """Let the processes take the turn that they wait for, or end."""
        self._granted = self.waits.turn
        self._granted_at = time.monotonic()
        self.exchange.grant(self.waits.turn, grant)

    def wait(self) -> None:
        """Return when every rank waits for the next turn, or has written its record (`done`).

        Raises:
            CaseError: That will not happen, or takes too long.
        """
        began = time.monotonic()
        most = self.limits.seconds_of(self.case)
        while (code := self._exit_code()) is None:
            time.sleep(POLL_SECONDS)
            statuses = {rank: self.exchange.status(rank) for rank in self._silences}
            if all(status and status.phase == Phase.DONE for status in statuses.values()):
                self.done = True
                return
            busy = {rank: status for rank, status in statuses.items() if status and not self._is_waiting(status)}
            seconds = self._seconds + time.monotonic() - began
            if not busy and None not in statuses.values():
                self.waits = cast(Wait, cast(Status, statuses[0]).wait)
                self._seconds = seconds
                return
            if seconds > most:
                raise self._hung(f"not done after {most:g} s")
            for rank, status in busy.items():
                silence = time.monotonic() - max(status.monotonic_seconds, self._granted_at)
                limit = self.limits.silence_of(self.case, status.phase, self._longest_silence(rank, status))
                if silence > limit:
                    raise self._hung(f"no progress for {limit:.0f} s")
            if busy:
                slowest = min(busy.values(), key=lambda status: status.number)
                turn = f"turn {self._granted}, " if self._granted > 0 else ""
                self._on_progress(f"{self.case.workload} {self.case.id}: {turn}{slowest.doing} ({seconds:.0f} s)")
        if code or not all(self.exchange.record(rank).exists() for rank in self._silences):
            raise CaseError(failed(self.exchange, self.case.num_processes, code))
        self.done = True

    def _is_waiting(self, status: Status) -> bool:
        """Say whether a rank waits for a turn after the one that it was granted."""
        return status.wait is not None and status.wait.turn > self.waits.turn

    def _longest_silence(self, rank: int, status: Status) -> float:
        """Return the most seconds between two reports of a rank, without its preparations and its waiting."""
        last = self._last_statuses.get(rank)
        if last and status.number > last.number and last.phase in (Phase.FIRST_STEP, Phase.STEPS):
            seconds = (status.monotonic_seconds - last.monotonic_seconds) / (status.number - last.number)
            self._silences[rank] = max(self._silences[rank], seconds)
        self._last_statuses[rank] = status
        return self._silences[rank]

    def _exit_code(self) -> int | None:
        code = self.exchange.exit_code()
        return self.launcher.exit_code() if code is None else code

    def _hung(self, complaint: str) -> CaseError:
        return CaseError(hung(self.exchange, self.case.num_processes, complaint))

    def ask_to_finish(self) -> bool:
        """Ask for what has been measured; say whether there is anything."""
        for number in (self.waits.turn, self.waits.turn + 1):
            if number > self._granted:
                self.exchange.grant(number, Grant(finish=True))
        return max(self.waits.turn, self._granted + 1) > 1

    def records(self) -> list[dict[str, Any]]:
        """Return what each rank measured."""
        paths = map(self.exchange.record, range(self.case.num_processes))
        return [read_json(path, nonfinite=True) for path in paths]

    def end(self) -> None:
        """End its processes."""
        self.launcher.leave(self)


def _config(case: Case) -> Path:
    kind = "cpu" if case.device == "cpu" else "gpu"
    return CONFIGS / f"{kind}{'_ddp' if case.num_processes > 1 else ''}.yaml"


def _command(case: Case) -> list[str]:
    flags = [part for name, value in case.launch_flags().items() for part in (f"--{name}", str(value))]
    if case.num_processes > 1:
        flags += ["--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(_config(case))]
    return [*launcher, *flags, "--module", "bench.runner.worker"]


def _environment(case: Case) -> dict[str, str]:
    return child_environment(case.device, ROOT, defaults=_spinning(case))


def _spinning(case: Case) -> dict[str, str]:
    return {} if WORKLOADS[case.workload].timed else FEW_SPINS
