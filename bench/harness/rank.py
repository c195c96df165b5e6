"""What a rank of a case does around its measurement: take its assignment, report, wait for turns, and record."""

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bench.harness.exchange import Exchange, Grant, Phase, Refusal, StatusFile, Wait
from bench.harness.host import Load
from bench.harness.messages import decode
from bench.harness.processes import end_with
from bench.harness.world import World


class RankRefusedError(Exception):
    """A rank measures nothing, and why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Owned(Protocol):
    """An assignment."""

    @property
    def owner(self) -> int:
        """The process without which there is nothing to measure."""


A = TypeVar("A", bound=Owned)


@dataclass
class Rank:
    """One process of a case.

    Attributes:
        world: Its place among the processes of the case.
        exchange: Through which it talks to the process that launched it.
        report: What it reports with.
        load: How busy the machine is in its turns.
    """

    world: World
    exchange: Exchange
    report: StatusFile
    load: Load
    _turn: int = 0

    def take_turn(self, quickest_probe: float, only_replaces: bool) -> Grant:
        """Wait for the next turn; the arguments are those of `Wait`."""
        self.load.pause()
        self.report("waiting", Phase.WAITING, Wait(self._turn, quickest_probe, only_replaces))
        grant = self.exchange.wait_for(self._turn)
        self._turn += 1
        self.load.resume()
        return grant


MeasureRank = Callable[[A, Rank], Any]
"""Measures what is assigned and returns the rank's record, JSON-ready."""


def work(assignments: Sequence[Path], kind: type[A], measure: MeasureRank[A]) -> int:
    """Measure what each file assigns, and write the rank's record beside it; return an exit code.

    Several assignments are measured in forks of this process, which has done the imports for all of them.

    Args:
        assignments: The files.
        kind: Of the assignments.
        measure: Measures one; RankRefusedError ends a rank without a traceback.
    """
    if len(assignments) == 1:
        return _work_on(assignments[0], kind, measure)
    children: dict[int, Exchange] = {}
    for path in assignments:
        pid = os.fork()
        if pid:
            children[pid] = Exchange(path.parent)
            continue
        code = 1
        try:
            code = _work_on(path, kind, measure)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while children:
        pid, status = os.wait()
        children.pop(pid).set_ended(os.waitstatus_to_exitcode(status))
    return 0


def _work_on(path: Path, kind: type[A], measure: MeasureRank[A]) -> int:
    exchange = Exchange(path.parent)
    world = World.here()
    with exchange.log(world.rank).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=False)
    assignment = decode(path.read_bytes(), kind)
    end_with(assignment.owner)
    report = exchange.status_file(world.rank)
    report("importing", Phase.PREPARING)
    try:
        record = measure(assignment, Rank(world, exchange, report, Load()))
    except RankRefusedError as error:
        exchange.refuse(world.rank, error.refusal)
        print(error, file=sys.stderr)
        return 2
    exchange.write_record(world.rank, record)
    report("done", Phase.DONE)
    return 0
