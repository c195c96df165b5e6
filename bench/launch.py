"""Run a case under `accelerate launch`, watch its processes, collect what they wrote, leave none behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.cases import Case, Effort
from bench.exchange import Exchange
from bench.timing import FIRST_STEP
from gan.records import write_json

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "accelerate_configs"
POLL_SECONDS = 0.2
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


def run_case(
    case: Case,
    effort: Effort,
    limits: Limits = Limits(),
    *,
    quickest_probe: float | None = None,
    on_launch: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a case in fresh processes and return its record, JSON-ready.

    Args:
        case: What to measure.
        effort: How long.
        limits: When to give up.
        quickest_probe: Seconds of the probe's window when the machine was at rest and had as many threads.
        on_launch: Told of each launch's folder.

    Raises:
        CaseError: A process failed, died or hung, or the case took too long. All its processes are gone.
    """
    launches = []
    for _ in range(effort.launches):
        with tempfile.TemporaryDirectory(prefix="gan-bench-", ignore_cleanup_errors=True) as folder:
            exchange = Exchange(Path(folder))
            spec = {
                "case": case.to_json(),
                "effort": asdict(effort),
                "quickest_probe": quickest_probe,
                "owner": os.getpid(),
                "launched": time.time(),
            }
            write_json(exchange.spec, spec)
            command = _command(case, exchange)
            with _launched(command, _environment(case, exchange), exchange) as process:
                on_launch(exchange)
                _watch(process, exchange, case.num_processes, limits)
            ranks = [
                json.loads(exchange.record(rank).read_text(encoding="utf-8")) for rank in range(case.num_processes)
            ]
            launches.append({"ranks": ranks})
    return {
        "case": case.to_json(),
        "effort": asdict(effort),
        "quickest_probe": quickest_probe,
        "accelerate": {"config_file": _config(case).name, **case.launch_flags()},
        "launches": launches,
    }


def _config(case: Case) -> Path:
    kind = "cpu" if case.device == "cpu" else "gpu"
    return CONFIGS / f"{kind}{'_ddp' if case.num_processes > 1 else ''}.yaml"


def _command(case: Case, exchange: Exchange) -> list[str]:
    flags = [part for name, value in case.launch_flags().items() for part in (f"--{name}", str(value))]
    if case.num_processes > 1:
        flags += ["--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(_config(case))]
    return [*launcher, *flags, "--module", "bench.worker", str(exchange.spec)]


def _environment(case: Case, exchange: Exchange) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not NOT_INHERITED.fullmatch(name)}
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(exchange.root / "inductor")}
    own["TRITON_CACHE_DIR"] = str(exchange.root / "triton")
    return {**kept, **own, **({"CUDA_VISIBLE_DEVICES": ""} if case.device == "cpu" else {})}


@contextlib.contextmanager
def _launched(
    command: list[str], environment: dict[str, str], exchange: Exchange
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the launcher in a session of its own, so that Ctrl-C reaches us alone; end all of its processes."""
    with exchange.launcher_log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end_all(process, exchange)


def _end_all(process: "subprocess.Popen[bytes]", exchange: Exchange) -> None:
    """Kill the launcher and whatever it started, stopped processes and orphans included."""
    doomed = []
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(process.pid)
        doomed = [launcher, *launcher.children(recursive=True)]
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(candidate.cmdline())
            if "bench.worker" in command and str(exchange.root) in command and candidate not in doomed:
                doomed.append(candidate)
    for each in doomed:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()
    psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)


def _watch(process: "subprocess.Popen[bytes]", exchange: Exchange, num_processes: int, limits: Limits) -> None:
    """Return when every rank has written its record; raise CaseError when that will not happen."""
    began = time.monotonic()
    ranks = range(num_processes)
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
        if time.monotonic() - began > limits.case_seconds:
            raise CaseError(_hung(exchange, num_processes, f"not done after {limits.case_seconds:g} s"))
        reports = [exchange.report(rank) for rank in ranks]
        silent = [
            report for report in reports if report and time.time() - report.time > _patience(report.doing, limits)
        ]
        if silent:
            silence = f"no progress for {limits.stall_seconds:g} s"
            raise CaseError(_hung(exchange, num_processes, silence))
    if code or not all(exchange.record(rank).exists() for rank in ranks):
        raise CaseError(_failed(exchange, num_processes, code))


def _patience(doing: str, limits: Limits) -> float:
    """Return how long a process may be silent; imports, compilers and first steps may take their time."""
    slow = doing in ("importing", "preparing", "done") or doing.startswith(FIRST_STEP)
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
