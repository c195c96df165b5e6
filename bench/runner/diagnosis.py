"""What a launch that failed says: which of its processes did what, and how its log ends."""

import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from bench.harness.exchange import Exchange
from bench.harness.processes import ask_where_it_stands, ending, last_lines, state_of
from gan.files.text import printable, shortened
from gan.process.peers import PEER_GONE

TAIL_LINES = 15
STACK = "Stack (most recent call first):"
STACK_LINES = 8
MOST_CHARACTERS = 300
"""Of a log's line that is shown."""
SECONDS_TO_DUMP = 0.5
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
"""What torchrun prints of the process that ended first."""
DIED_WITH = re.compile(r"died with <Signals\.(\w+)")
"""What `accelerate launch` prints where a signal ended its only process."""


NOWHERE: Mapping[int, Any] = MappingProxyType({})


class CaseError(Exception):
    """A case could not be measured. The message says which process did what, and how its log ends."""


class CaseRefusedError(CaseError):
    """A subject says that it cannot be what the case asks for; the message is its own."""


@dataclass(frozen=True)
class Elsewhere:
    """A rank on another host.

    Attributes:
        host: As it was named.
        state: What its system says of it.
        log: What its node has printed.
    """

    host: str
    state: str
    log: Path


@dataclass(frozen=True)
class NodeEnd:
    """How a node of a launch over several hosts has ended.

    Attributes:
        host: As it was named.
        ranks: Its ranks.
        exit_code: Of its launcher; None if that has not ended, or nobody knows.
        lost: Why nothing more will be heard of it; "" if its launcher has ended.
        log: What it has printed.
    """

    host: str
    ranks: Sequence[int]
    exit_code: int | None
    lost: str
    log: Path


def hung(
    exchange: Exchange,
    num_processes: int,
    complaint: str,
    elsewhere: Mapping[int, Elsewhere] = NOWHERE,
) -> CaseError:
    """Name the processes that came least far, and where they stand.

    A stopped process is named alone, whatever its progress: it is what the others wait for.

    Args:
        exchange: Of the launch.
        num_processes: Of the case.
        complaint: Why it is given up.
        elsewhere: Ranks on other hosts, which have been asked where they stand.
    """
    statuses = {rank: exchange.status(rank) for rank in range(num_processes)}
    here = {rank: status for rank, status in statuses.items() if rank not in elsewhere}
    states = {rank: state_of(status.pid) if status else "not started" for rank, status in here.items()}
    states |= {rank: other.state if statuses[rank] else "not started" for rank, other in elsewhere.items()}

    def progress(rank: int) -> tuple[bool, int]:
        status = statuses[rank]
        return states[rank] != psutil.STATUS_STOPPED, status.number if status else 0

    least = min(map(progress, statuses))
    suspects = [rank for rank in statuses if progress(rank) == least]
    for status in here.values():
        if status:
            ask_where_it_stands(status.pid)
    time.sleep(SECONDS_TO_DUMP)
    words = []
    stacks = []
    for rank in suspects:
        status = statuses[rank]
        other = elsewhere.get(rank)
        name = f"rank {rank}{f' on {other.host}' if other else ''}"
        words.append(f"{name} is {states[rank]}{f', in {status.doing!r}' if status else ''}")
        stacks.append(_stack(exchange, rank) if status or other is None else _tail(other.log))
    standing = "\n".join(stacks)
    return CaseError(f"{complaint}: {'; '.join(words)}; all its processes were ended\n{standing}")


def _stack(exchange: Exchange, rank: int) -> str:
    """Return where a rank stands, as it told on SIGUSR1, or how its log ends where it could not."""
    lines = last_lines(exchange.log(rank))
    headings = [number for number, line in enumerate(lines) if line.endswith(STACK)]
    if not headings:
        return _tail(exchange.log(rank))
    stack = lines[headings[-1] + 1 :]
    return f"rank {rank} stands at:\n{_indented(stack[:STACK_LINES])}"


def failed(exchange: Exchange, num_processes: int, exit_code: int) -> CaseError:
    """Return what a process has said, or name the one that ended first, and how.

    Args:
        exchange: Of the launch.
        num_processes: Of the case.
        exit_code: The launcher's, or that of a forked process.
    """
    if refused := _refused(exchange, num_processes):
        return refused
    printed = "\n".join(last_lines(exchange.launcher_log))
    how = ending(exit_code)
    rank = 0
    if exchange.exit_code() is None:  # otherwise it was a fork, whose exit code says everything
        if cause := ROOT_CAUSE.search(printed):
            rank = int(cause[1])
            how = ending(int(cause[2]))
        if num_processes == 1 and (died := DIED_WITH.search(printed)):
            how = f"signal {died[1]}"
    how = _with_cause(how)
    if not last_lines(exchange.log(rank)):
        return CaseError(f"rank {rank} ended with {how}\n{_last_lines(exchange.launcher_log)}")
    return CaseError(f"rank {rank} ended with {how}\n{_tail(exchange.log(rank))}")


def failed_on_hosts(exchange: Exchange, num_processes: int, ends: Sequence[NodeEnd]) -> CaseError:
    """Return what a process has said, or name the node or the rank that most likely made the others fail.

    When a rank or a host is gone, the ranks that are left fail, too: a node of which nothing is heard comes first,
    then a rank that a signal has ended, then one whose log does not end with a broken connection.

    Args:
        exchange: Of the launch.
        num_processes: Of the case.
        ends: Its nodes, this host's first.
    """
    elsewhere = {rank: node.host for node in ends[1:] for rank in node.ranks}
    if refused := _refused(exchange, num_processes, elsewhere):
        return refused
    explained = [_explained(exchange, node) for node in ends if node.lost or node.exit_code]
    if not explained:
        return CaseError("its processes ended without a record")
    return CaseError(min(explained, key=lambda order_and_words: order_and_words[0])[1])


def _explained(exchange: Exchange, node: NodeEnd) -> tuple[int, str]:
    """Return how far down in the order of causes the end of a node is, and what to say of it."""
    if node.lost:
        logs = [node.log, *(log for rank in node.ranks if last_lines(log := exchange.log(rank)))]
        tails = "\n".join(map(_tail, logs if last_lines(node.log) else logs[1:] or logs))
        return 0, f"{node.host}: {node.lost}\n{tails}"
    assert node.exit_code
    cause = ROOT_CAUSE.search("\n".join(last_lines(node.log)))
    if cause is None:
        return 2, f"{node.host}: its launcher ended with {ending(node.exit_code)}\n{_tail(node.log)}"
    rank = int(cause[1])
    code = int(cause[2])
    log = exchange.log(rank)
    of_a_peer = PEER_GONE.search("\n".join(last_lines(log, TAIL_LINES)))
    order = 1 if code < 0 else 3 if of_a_peer else 2
    tail = _tail(log) if last_lines(log) else _last_lines(node.log)
    return order, f"rank {rank} on {node.host} ended with {_with_cause(ending(code))}\n{tail}"


def _refused(exchange: Exchange, num_processes: int, elsewhere: Mapping[int, str] = NOWHERE) -> CaseError | None:
    """Return what a rank says that measures nothing; with its host, if that is in `elsewhere`."""
    for rank in range(num_processes):
        if refusal := exchange.refusal(rank):
            where = f" (on {elsewhere[rank]})" if rank in elsewhere else ""
            return (CaseError if refusal.is_possible else CaseRefusedError)(f"{refusal.reason}{where}")
    return None


def _with_cause(how: str) -> str:
    return f"{how}, as if memory has run out" if how == ending(-signal.SIGKILL) else how


def _tail(log: Path) -> str:
    return f"its log ends:\n{_last_lines(log)}"


def _last_lines(log: Path) -> str:
    return _indented(last_lines(log, TAIL_LINES))


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {printable(shortened(line, MOST_CHARACTERS))}" for line in lines) or "  (empty)"
