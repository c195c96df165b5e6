"""Run cases under `accelerate launch`, in turns; collect what their processes wrote, leave none behind."""

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import psutil

from bench.cases import Case, Effort
from bench.exchange import DONE, Exchange, Wait
from bench.timing import FIRST_STEP
from gan.records import num_available_cores, read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "accelerate_configs"
POLL_SECONDS = 0.03
TAIL_LINES = 15
STACK = "Stack (most recent call first):"
STACK_LINES = 8
SECONDS_TO_DUMP = 0.5
SECONDS_TO_DIE = 10
# Whatever an outer launcher or a user's shell has set would change what is measured.
NOT_INHERITED = re.compile(
    r"(ACCELERATE|FSDP|TORCHELASTIC|TORCHINDUCTOR|GROUP|ROLE)_.*|(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)"
    r"|OMP_NUM_THREADS|MKL_NUM_THREADS"
)


class CaseError(Exception):
    """A case could not be measured. The message says which process did what, and how its log ends."""


@dataclass(frozen=True)
class Limits:
    """When to give a launch up.

    Attributes:
        case_seconds: A launch may take so long in all.
        stall_seconds: A process that has taken its first steps may be silent for so long.
    """

    case_seconds: float = 600.0
    stall_seconds: float = 60.0


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
            live = [Launch(case, effort, self.limits) for case, effort in efforts.items()]
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
                    self.say(f"{len(live)} cases take turns; started in {time.monotonic() - began:.0f} s")
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
        launch.grant(None if wait.beyond and self.patience_seconds <= 0 else quickest)
        launch.wait()
        seconds = time.monotonic() - began
        if wait.beyond:
            self.patience_seconds -= seconds
        if wait.turn == 0:
            self.say(f"{launch.case.workload} {launch.case.id} is warm ({seconds:.0f} s)")


def _threads(case: Case) -> Threads:
    return case.device, case.num_processes


def _alike(launches: Sequence["Launch"]) -> list[list["Launch"]]:
    """Group launches that one launcher can start: single processes on the CPU with the same flags.

    Forking what has done its imports saves seconds a case; a process that uses CUDA cannot be forked.
    """
    groups: dict[Any, list[Launch]] = {}
    for launch in launches:
        case = launch.case
        can_fork = hasattr(os, "fork") and case.device == "cpu" and case.num_processes == 1
        groups.setdefault(tuple(case.launch_flags().items()) if can_fork else launch, []).append(launch)
    return list(groups.values())


class Launcher:
    """One `accelerate launch`, and the launches of cases whose processes it starts."""

    def __init__(self, launches: list["Launch"], stack: contextlib.ExitStack) -> None:
        self.launches = launches
        self._stack = stack.enter_context(contextlib.ExitStack())
        folder = tempfile.TemporaryDirectory(prefix="gan-bench-", ignore_cleanup_errors=True)
        self._root = Path(self._stack.enter_context(folder))

    def start(self) -> list["Launch"]:
        """Start the launcher in a session of its own, so that Ctrl-C reaches us alone; return the launches."""
        for number, launch in enumerate(self.launches):
            (self._root / str(number)).mkdir()
            launch.prepare(self, Exchange(self._root / str(number)))
        exchanges = [launch.exchange for launch in self.launches]
        case = self.launches[0].case
        with exchanges[0].launcher_log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_command(case), *(str(exchange.spec) for exchange in exchanges)],
                cwd=ROOT,
                env=_environment(case),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._stack.callback(_end_all, self._process, self._root)
        return list(self.launches)

    def exit_code(self) -> int | None:
        """Return the launcher's exit code, if it has ended."""
        return self._process.poll()

    def leave(self, launch: "Launch") -> None:
        """End a launch's processes; with the last one the launcher, and remove the folder."""
        self.launches.remove(launch)
        if not self.launches:
            self._stack.close()
        elif report := launch.exchange.report(0):
            with contextlib.suppress(psutil.Error):
                psutil.Process(report.pid).kill()


class Launch:
    """The processes that measure a case, once."""

    launcher: Launcher
    exchange: Exchange

    def __init__(self, case: Case, effort: Effort, limits: Limits) -> None:
        self.case = case
        self.limits = limits
        self.waits = Wait(-1)
        self.done = False
        self._granted = -1
        self._granted_at = 0.0
        self._effort = effort
        self._seconds = 0.0

    def prepare(self, launcher: Launcher, exchange: Exchange) -> None:
        """Write what is to be measured."""
        self.launcher, self.exchange = launcher, exchange
        spec = {
            "case": self.case.to_json(),
            "effort": asdict(self._effort),
            "owner": os.getpid(),
            "launched": time.time(),
        }
        write_json(exchange.spec, spec)

    def grant(self, quickest_probe: float | None) -> None:
        """Let the processes take the turn that they wait for; None asks them to finish."""
        self._granted, self._granted_at = self.waits.turn, time.time()
        self.exchange.grant(self.waits.turn, quickest_probe)

    def wait(self) -> None:
        """Return when every rank waits for the next turn, or has written its record (`done`).

        Raises:
            CaseError: That will not happen, or takes too long.
        """
        began = time.monotonic()
        ranks = range(self.case.num_processes)
        while (code := self._exit_code()) is None:
            time.sleep(POLL_SECONDS)
            seconds = self._seconds + time.monotonic() - began
            if seconds > self.limits.case_seconds:
                raise self._hung(f"not done after {self.limits.case_seconds:g} s")
            reports = [self.exchange.report(rank) for rank in ranks]
            if all(report and report.doing == DONE for report in reports):
                self.done = True
                return
            waits = [Wait.of(report) for report in reports]
            if all(wait and wait.turn > self.waits.turn for wait in waits):
                self.waits, self._seconds = cast(Wait, waits[0]), seconds
                return
            silent = [
                report
                for report, wait in zip(reports, waits, strict=True)
                if report
                and not (wait and wait.turn > self.waits.turn)
                and time.time() - max(report.time, self._granted_at) > _patience(report.doing, self.limits)
            ]
            if silent:
                raise self._hung(f"no progress for {self.limits.stall_seconds:g} s")
        if code or not all(self.exchange.record(rank).exists() for rank in ranks):
            raise CaseError(_failed(self.exchange, self.case.num_processes, code))
        self.done = True

    def _exit_code(self) -> int | None:
        code = self.exchange.exit_code()
        return self.launcher.exit_code() if code is None else code

    def _hung(self, complaint: str) -> CaseError:
        return CaseError(_hung(self.exchange, self.case.num_processes, complaint))

    def ask_to_finish(self) -> bool:
        """Ask for what has been measured; say whether there is anything."""
        for number in (self.waits.turn, self.waits.turn + 1):
            if number > self._granted:
                self.exchange.grant(number, None)
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
    return [*launcher, *flags, "--module", "bench.worker"]


def _environment(case: Case) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not NOT_INHERITED.fullmatch(name)}
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, **({"CUDA_VISIBLE_DEVICES": ""} if case.device == "cpu" else {})}


def _end_all(process: "subprocess.Popen[bytes]", root: Path) -> None:
    """Kill the launcher and whatever it started, stopped processes and orphans included."""
    doomed = []
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        doomed = [launcher, *launcher.children(recursive=True)]
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(candidate.cmdline())
            if "bench.worker" in command and str(root) in command and candidate not in doomed:
                doomed.append(candidate)
    for each in doomed:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()
    psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)


def _patience(doing: str, limits: Limits) -> float:
    """Return how long a process may be silent; imports, compilers and first steps may take their time."""
    slow = doing in ("importing", "preparing", DONE) or doing.startswith(FIRST_STEP)
    return limits.case_seconds if slow else limits.stall_seconds


def _hung(exchange: Exchange, num_processes: int, complaint: str) -> str:
    """Name the processes that came least far, and where they stand; a stopped one is what the others wait for."""
    reports = {rank: exchange.report(rank) for rank in range(num_processes)}
    states = {rank: _state(report.pid) if report else "not started" for rank, report in reports.items()}

    def progress(rank: int) -> tuple[bool, int]:
        report = reports[rank]
        return states[rank] != psutil.STATUS_STOPPED, report.number if report else 0

    last = min(map(progress, reports))
    suspects = [rank for rank in reports if progress(rank) == last]
    for report in reports.values():
        if report and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(report.pid, signal.SIGUSR1)
    time.sleep(SECONDS_TO_DUMP)
    said = []
    for rank in suspects:
        report = reports[rank]
        said.append(f"rank {rank} is {states[rank]}{f', in {report.doing!r}' if report else ''}")
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
    how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
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
    return "\n".join(f"  {line.strip()}" for line in lines) or "  (empty)"
