"""What a launch that failed says: which of its processes did what, and how its log ends."""

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import psutil

from bench.harness.exchange import Exchange
from bench.harness.processes import ending, last_lines
from gan.files.text import printable

TAIL_LINES = 15
STACK = "Stack (most recent call first):"
STACK_LINES = 8
SECONDS_TO_DUMP = 0.5
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
"""What torchrun prints of the process that ended first."""
DIED_WITH = re.compile(r"died with <Signals\.(\w+)")
"""What `accelerate launch` prints where a signal ended its only process."""


class CaseError(Exception):
    """A case could not be measured. The message says which process did what, and how its log ends."""


class CaseRefusedError(CaseError):
    """A subject says that it cannot be what the case asks for; the message is its own."""


def hung(exchange: Exchange, num_processes: int, complaint: str) -> CaseError:
    """Name the processes that came least far, and where they stand.

    A stopped process is named alone, whatever its progress: it is what the others wait for.
    """
    statuses = {rank: exchange.status(rank) for rank in range(num_processes)}
    states = {rank: _state(status.pid) if status else "not started" for rank, status in statuses.items()}

    def progress(rank: int) -> tuple[bool, int]:
        status = statuses[rank]
        return states[rank] != psutil.STATUS_STOPPED, status.number if status else 0

    least = min(map(progress, statuses))
    suspects = [rank for rank in statuses if progress(rank) == least]
    for status in statuses.values():
        if status and hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                os.kill(status.pid, signal.SIGUSR1)
    time.sleep(SECONDS_TO_DUMP)
    words = []
    for rank in suspects:
        status = statuses[rank]
        words.append(f"rank {rank} is {states[rank]}{f', in {status.doing!r}' if status else ''}")
    stacks = "\n".join(_stack(exchange, rank) for rank in suspects)
    return CaseError(f"{complaint}: {'; '.join(words)}; all its processes were ended\n{stacks}")


def _stack(exchange: Exchange, rank: int) -> str:
    """Return where a rank stands, as it told on SIGUSR1, or how its log ends where it could not."""
    lines = last_lines(exchange.log(rank))
    headings = [number for number, line in enumerate(lines) if line.endswith(STACK)]
    if not headings:
        return _tail(exchange.log(rank))
    stack = lines[headings[-1] + 1 :]
    return f"rank {rank} stands at:\n{_indented(stack[:STACK_LINES])}"


def _state(pid: int) -> str:
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"


def failed(exchange: Exchange, num_processes: int, exit_code: int) -> CaseError:
    """Return what a process has said, or name the one that ended first, and how.

    Args:
        exchange: Of the launch.
        num_processes: Of the case.
        exit_code: The launcher's, or that of a forked process.
    """
    for rank in range(num_processes):
        if refusal := exchange.refusal(rank):
            return (CaseError if refusal.is_possible else CaseRefusedError)(refusal.reason)
    printed = "\n".join(last_lines(exchange.launcher_log))
    how = ending(exit_code)
    rank = 0
    if exchange.exit_code() is None:  # otherwise it was a fork, whose exit code says everything
        if cause := ROOT_CAUSE.search(printed):
            rank = int(cause[1])
            how = ending(int(cause[2]))
        if num_processes == 1 and (died := DIED_WITH.search(printed)):
            how = f"signal {died[1]}"
    if how == ending(-signal.SIGKILL):
        how += ", as if memory has run out"
    if not last_lines(exchange.log(rank)):
        return CaseError(f"rank {rank} ended with {how}\n{_last_lines(exchange.launcher_log)}")
    return CaseError(f"rank {rank} ended with {how}\n{_tail(exchange.log(rank))}")


def _tail(log: Path) -> str:
    return f"its log ends:\n{_last_lines(log)}"


def _last_lines(log: Path) -> str:
    return _indented(last_lines(log, TAIL_LINES))


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {printable(line)}" for line in lines) or "  (empty)"
