"""Run cases under `accelerate launch`, in turns; collect what their processes wrote, leave none behind."""

import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil

from bench.harness import processes
from bench.harness.exchange import Exchange, Grant, Phase, Status, Wait
from bench.harness.host import FEW_SPINS, child_environment
from bench.harness.messages import encode
from bench.harness.windows import Effort
from bench.runner.assignment import Assignment
from bench.runner.leftovers import temporary_directory
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from gan.files.environment import num_available_cores
from gan.files.json_files import read_json
from gan.files.text import printable
from gan.process.launcher import num_threads_asked

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGS = ROOT / "accelerate_configs"
POLL_SECONDS = 0.03
SECONDS_BETWEEN_LINES = 10.0
START_SECONDS = 600.0
SLOW_PHASES = (Phase.PREPARING, Phase.FIRST_STEP, Phase.DONE)
"""These may take long on any machine."""
MOST_SECONDS = 6 * 3600.0
SILENCE_TIMES = 3.0
"""A process may be silent for so many times as long as it has been before, whatever the limit."""
PREFIX = "gan-bench-"
TAIL_LINES = 15
STACK = "Stack (most recent call first):"
STACK_LINES = 8
SECONDS_TO_DUMP = 0.5


class CaseError(Exception):
    """A case could not be measured. The message says which process did what, and how its log ends."""


@dataclass(frozen=True)
class Limits:
    """When to give a launch up.

    Attributes:
        case_seconds: A launch may take so long in all; None for START_SECONDS, and for MOST_SECONDS where it
            trains until something is known.
        stall_seconds: A process that has taken its first steps may be silent for so long.
    """

    case_seconds: float | None = None
    stall_seconds: float = 60.0

    def seconds_of(self, case: Case) -> float:
        """Return how long a launch of a case may take in all."""
        default = MOST_SECONDS if WORKLOADS[case.workload].on_digits else START_SECONDS
        return default if self.case_seconds is None else self.case_seconds

    def silence_of(self, case: Case, phase: Phase, longest: float) -> float:
        """Return how many seconds a process may be silent; imports, compilers and the end may take their time.

        Args:
            case: The case that it measures.
            phase: What it does.
            longest: The most seconds between two reports of it so far: a slow machine, or a large step.
        """
        least = START_SECONDS if phase in SLOW_PHASES else 0.0
        return min(self.seconds_of(case), max(self.stall_seconds, SILENCE_TIMES * longest, least))


Threads = tuple[str, int]
"""A case's device and number of processes, which decide how long a probe takes."""
Outcome = dict[str, Any] | CaseError


def run_case(
    case: Case,
    effort: Effort,
    limits: Limits = Limits(),
    *,
    on_launch: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a case by itself, as `Turns` does; raise its CaseError."""
    outcomes: dict[Case, Outcome] = {}
    Turns(limits, on_launch=on_launch).run({case: effort}, outcomes)
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise outcome
    return outcome


@dataclass
class Turns:
    """Measures cases side by side: each in processes of its own, which wait while others take their turn.

    A neighbour may slow a shared machine for longer than a case takes. Cases that take turns over minutes see its
    good and its bad times alike, and a disturbed one goes on when the others are done.

    Attributes:
        limits: When to give a launch up.
        patience_seconds: Most that is measured in the stead of disturbed rounds; it is used up.
        quickest_probes: The probe's least seconds yet, by what decides them.
        on_launch: Told of each launch's folder.
        say: Told how the measurement goes, in lines.
    """

    limits: Limits
    patience_seconds: float = math.inf
    quickest_probes: dict[Threads, float] = field(default_factory=dict)
    on_launch: Callable[[Exchange], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    _said_at: float = -math.inf

    def run(self, efforts: Mapping[Case, Effort], outcomes: dict[Case, Outcome]) -> None:
        """Measure cases in fresh processes; no process is left behind, however it ends.

        Args:
            efforts: How long to measure each.
            outcomes: Takes each case's record, JSON-ready, or why there is none. After an interruption it lacks
                cases of which there was nothing to keep.
        """
        launches: dict[Case, list[Any]] = {case: [] for case in efforts}
        try:
            for number in range(max(effort.launches for effort in efforts.values())):
                due = {
                    case: effort
                    for case, effort in efforts.items()
                    if effort.launches > number and case not in outcomes
                }
                self._launch(due, launches, outcomes)
        finally:
            for case, effort in efforts.items():
                if launches[case] and case not in outcomes:
                    outcomes[case] = {
                        "case": case.to_json(),
                        "effort": asdict(effort),
                        "quickest_probe": self.quickest_probes.get(_threads(case)),
                        "accelerate": {"config_file": _config(case).name, **case.launch_flags()},
                        "launches": launches[case],
                    }

    def _launch(
        self, efforts: Mapping[Case, Effort], launches: dict[Case, list[Any]], outcomes: dict[Case, Outcome]
    ) -> None:
        """Launch each case once, let all take turns to their end, and collect what their ranks wrote."""
        with contextlib.ExitStack() as stack:
            num_threads, asked_by = num_threads_asked() or (None, "")
            live = [
                Launch(case, effort, self.limits, self._say_sometimes, num_threads)
                for case, effort in efforts.items()
            ]
            launchers = [Launcher(launches, stack) for launches in _alike(live)]

            def attempt(launch: Launch, action: Callable[[], None]) -> None:
                try:
                    action()
                except CaseError as error:
                    outcomes[launch.case] = error
                    live.remove(launch)
                    launch.end()

            began = time.monotonic()
            try:
                threads = f", {num_threads} thread(s) a process ({asked_by})" if num_threads else ""
                self._say(f"starting {len(live)} case{'s' if len(live) > 1 else ''}{threads}")
                starting: list[Launch] = []
                for launcher in launchers:
                    starting += launcher.start()
                    while len({each.launcher for each in starting}) >= num_available_cores():
                        first = starting.pop(0)
                        attempt(first, first.wait)
                    for launch in launcher.launches:
                        self.on_launch(launch.exchange)
                for launch in starting:
                    attempt(launch, launch.wait)
                if len(live) > 1:
                    self._say(f"{len(live)} cases take turns; started in {time.monotonic() - began:.0f} s")
                while live:
                    for launch in list(live):
                        attempt(launch, partial(self._turn, launch))
                        if launch.done:
                            live.remove(launch)
                            launches[launch.case].append({"ranks": launch.records()})
                            launch.end()
            except KeyboardInterrupt:
                measured = [launch for launch in live if launch.ask_to_finish()]
                for launch in measured:
                    with contextlib.suppress(CaseError):
                        while not launch.done:
                            launch.wait()
                        launches[launch.case].append({"ranks": launch.records()})
                raise

    def _turn(self, launch: "Launch") -> None:
        """Let a case take a turn, or come to an end where patience has run out."""
        threads, wait = _threads(launch.case), launch.waits
        quickest = min(wait.quickest_probe, self.quickest_probes.get(threads, math.inf))
        if quickest < math.inf:
            self.quickest_probes[threads] = quickest
        began = time.monotonic()
        launch.grant(Grant(quickest, finish=wait.only_replaces and self.patience_seconds <= 0))
        launch.wait()
        seconds = time.monotonic() - began
        if wait.only_replaces:
            self.patience_seconds -= seconds
        if wait.turn == 0:
            self._say(f"{launch.case.workload} {launch.case.id} is warm ({seconds:.0f} s)")

    def _say(self, line: str) -> None:
        self._said_at = time.monotonic()
        self.say(line)

    def _say_sometimes(self, line: str) -> None:
        """Say what is being done where nothing has been said for a while."""
        if time.monotonic() - self._said_at > SECONDS_BETWEEN_LINES:
            self._say(line)


def _threads(case: Case) -> Threads:
    return case.device, case.num_processes


def _alike(launches: Sequence["Launch"]) -> list[list["Launch"]]:
    """Group launches that one launcher can start: single processes on the CPU, flags and environment the same.

    Forking what has done its imports saves seconds a case; a process that uses CUDA cannot be forked.
    """
    groups: dict[Any, list[Launch]] = {}
    for launch in launches:
        case = launch.case
        can_fork = hasattr(os, "fork") and case.device == "cpu" and case.num_processes == 1
        alike = (*case.launch_flags().items(), *_spinning(case).items())
        groups.setdefault(alike if can_fork else launch, []).append(launch)
    return list(groups.values())


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
            raise CaseError(_failed(self.exchange, self.case.num_processes, code))
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
        return CaseError(_hung(self.exchange, self.case.num_processes, complaint))

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


def _hung(exchange: Exchange, num_processes: int, complaint: str) -> str:
    """Name the processes that came least far, and where they stand; a stopped one is what the others wait for."""
    statuses = {rank: exchange.status(rank) for rank in range(num_processes)}
    states = {rank: _state(status.pid) if status else "not started" for rank, status in statuses.items()}

    def progress(rank: int) -> tuple[bool, int]:
        status = statuses[rank]
        return states[rank] != psutil.STATUS_STOPPED, status.number if status else 0

    last = min(map(progress, statuses))
    suspects = [rank for rank in statuses if progress(rank) == last]
    for status in statuses.values():
        if status and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(status.pid, signal.SIGUSR1)
    time.sleep(SECONDS_TO_DUMP)
    said = []
    for rank in suspects:
        status = statuses[rank]
        said.append(f"rank {rank} is {states[rank]}{f', in {status.doing!r}' if status else ''}")
    places = "\n".join(_place(exchange, rank) for rank in suspects)
    return f"{complaint}: {'; '.join(said)}; all its processes were ended\n{places}"


def _place(exchange: Exchange, rank: int) -> str:
    """Return where a rank stands, as it told on SIGUSR1, or how its log ends where it could not."""
    _, found, stack = _read(exchange.log(rank)).rpartition(STACK)
    if not found:
        return _tail(exchange, rank)
    return f"rank {rank} stands at:\n{_indented(stack.strip().splitlines()[:STACK_LINES])}"


def _state(pid: int) -> str:
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"


ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


def _failed(exchange: Exchange, num_processes: int, code: int) -> str:
    """Name the process that ended first, and how."""
    printed = _read(exchange.launcher_log)
    cause = ROOT_CAUSE.search(printed)
    exit_code = int(cause[2]) if cause else code
    rank = int(cause[1]) if cause else 0
    if (own := exchange.exit_code()) is not None:
        exit_code = own
    how = processes.ending(exit_code)
    if num_processes == 1 and (died := re.search(r"died with <Signals\.(\w+)", printed)):
        how = f"signal {died[1]}"
    if not _read(exchange.log(rank)).strip():
        return f"rank {rank} ended with {how}\n{_last_lines(printed)}"
    return f"rank {rank} ended with {how}\n{_tail(exchange, rank)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tail(exchange: Exchange, rank: int) -> str:
    return f"its log ends:\n{_last_lines(_read(exchange.log(rank)))}"


def _last_lines(text: str) -> str:
    return _indented([line for line in text.splitlines() if line.strip()][-TAIL_LINES:])


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {printable(line.strip())}" for line in lines) or "  (empty)"
