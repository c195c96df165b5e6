"""What a launch that failed says: which of its processes did what, and how its log ends."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import psutil

from bench.harness import processes
from bench.harness.exchange import Exchange
from gan.files.text import printable

TAIL_LINES = 15
STACK = "Stack (most recent call first):"
STACK_LINES = 8
SECONDS_TO_DUMP = 0.5
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)


class CaseError(Exception):
    """A case could not be measured. The message says which process did what, and how its log ends."""


def hung(exchange: Exchange, num_processes: int, complaint: str) -> str:
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


def failed(exchange: Exchange, num_processes: int, code: int) -> str:
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
