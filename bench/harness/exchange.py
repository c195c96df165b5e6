"""The folder through which a case's processes and the one that launched them talk to each other.

Each rank says what it does in a file of its own, over and over: `Status`. It measures when the launching process
grants it a turn, with a file per turn: `Grant`.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

from bench.harness.messages import MessageError, decode, encode

STATUS_BYTES = 512
WAIT_SECONDS = 0.02
T = TypeVar("T")


class Phase(StrEnum):
    """What a rank does, as far as that decides how long it may be silent."""

    PREPARING = "preparing"
    """It imports, or builds what it measures: that may take long on any machine."""
    FIRST_STEP = "first step"
    """A first step may compile. A later step takes no longer than the first."""
    STEPS = "steps"
    BETWEEN_STEPS = "between steps"
    """It does something else than steps, and says nothing until that is done: it scores images, saves, loads."""
    WAITING = "waiting"
    DONE = "done"
    """Its record is written."""


@dataclass(frozen=True)
class Wait:
    """What a rank asks for between its turns.

    Attributes:
        turn: The sequence number of the turn that it waits for.
        quickest_probe: The least seconds of a probe that it knows of.
        only_replaces: Whether it has its rounds, and measures more only to replace disturbed ones.
    """

    turn: int
    quickest_probe: float = math.inf
    only_replaces: bool = False


@dataclass(frozen=True)
class Status:
    """What a rank said last.

    Attributes:
        pid: Its process id.
        number: The sequence number of this status.
        monotonic_seconds: When, by `time.monotonic`, which all processes of a machine share and nobody can set.
        phase: What it does.
        doing: The same for people, in words.
        wait: What it waits for, in Phase.WAITING.
    """

    pid: int
    number: int
    monotonic_seconds: float
    phase: Phase
    doing: str
    wait: Wait | None = None


@dataclass(frozen=True)
class Grant:
    """Lets a rank take a turn.

    Attributes:
        quickest_probe: The least seconds of a probe that any process knows of.
        finish: Whether the rank is to end its measurement instead.
        beside_others: Whether other cases end at the same time, so that nothing more can be measured.
    """

    quickest_probe: float = math.inf
    finish: bool = False
    beside_others: bool = False


@dataclass(frozen=True)
class Ended:
    """How a forked process ended."""

    exit_code: int


@dataclass(frozen=True)
class Refusal:
    """Why a rank measures nothing.

    Attributes:
        reason: In one line.
        is_possible: Whether what was asked for should have been possible; otherwise the case is skipped.
    """

    reason: str
    is_possible: bool = True


class Report(Protocol):
    """Takes what a process does, in words. A process that reports nothing for long is taken to hang.

    How long that is depends on the phase. What is no step has to be reported before it begins, in another phase
    than STEPS.
    """

    def __call__(self, doing: str, phase: Phase = Phase.STEPS) -> None:
        """Report it."""


def no_report(doing: str, phase: Phase = Phase.STEPS) -> None:
    """Report to nobody."""


def reported(steps: Iterator[object], report: Report, doing: str) -> Iterator[None]:
    """Take steps, and report every second: a window of many steps may take longer than a process may be silent."""
    last = time.monotonic()
    for number, _ in enumerate(steps, 1):
        if time.monotonic() - last > 1:
            last = time.monotonic()
            report(f"{doing}, step {number}")
        yield


class StatusFile:
    """Where a rank says what it does: one write in place, because there is a status after each window."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._number = 0

    def __call__(self, doing: str, phase: Phase = Phase.STEPS, wait: Wait | None = None) -> None:
        """Replace the last status."""
        self._number += 1
        self.put(Status(os.getpid(), self._number, round(time.monotonic(), 3), phase, doing, wait))

    def close(self) -> None:
        """Write no more."""
        os.close(self._descriptor)

    def put(self, status: Status) -> None:
        """Replace the last status by one that a rank on another host has reported."""
        while len(line := encode(status)) > STATUS_BYTES:
            status = replace(status, doing=status.doing[: len(status.doing) // 2])
        os.pwrite(self._descriptor, line.rjust(STATUS_BYTES), 0)


@dataclass(frozen=True)
class Exchange:
    """Where the files of one launch are."""

    root: Path

    @property
    def assignment(self) -> Path:
        """What is to be measured."""
        return self.root / "assignment.json"

    @property
    def launcher_log(self) -> Path:
        """What the launcher printed; cases that were launched together have one."""
        return self.root.parent / "launcher.log"

    def log(self, rank: int) -> Path:
        """What a rank printed."""
        return self.root / f"rank{rank}.log"

    def record(self, rank: int) -> Path:
        """What a rank measured."""
        return self.root / f"rank{rank}.json"

    def write_record(self, rank: int, record: object) -> None:
        """Write what a rank measured, JSON-ready."""
        _write(self.record(rank), json.dumps(record).encode())

    def refuse(self, rank: int, refusal: Refusal) -> None:
        """Note why a rank measures nothing."""
        _write(self._refusal(rank), encode(refusal))

    def refusal(self, rank: int) -> Refusal | None:
        """Return why a rank measures nothing; None if it did not say so."""
        return _read(self._refusal(rank), Refusal)

    def scratch(self, rank: int) -> Path:
        """Return a directory for files that a rank's measurement writes."""
        path = self.root / f"rank{rank}"
        path.mkdir(exist_ok=True)
        return path

    def status_file(self, rank: int) -> StatusFile:
        """Return what a rank reports with."""
        return StatusFile(self._status(rank))

    def status(self, rank: int) -> Status | None:
        """Return a rank's last status, or None before its first."""
        try:
            return _read(self._status(rank), Status)
        except MessageError:  # it is being written
            return None

    def grant(self, turn: int, grant: Grant) -> None:
        """Let all ranks take a turn, or end."""
        _write(self._turn(turn), encode(grant))

    def wait_for(self, turn: int) -> Grant:
        """Return a turn's grant as soon as there is one."""
        while (grant := _read(self._turn(turn), Grant)) is None:
            time.sleep(WAIT_SECONDS)
        return grant

    def set_ended(self, exit_code: int) -> None:
        """Note how a forked process ended."""
        _write(self.root / "ended.json", encode(Ended(exit_code)))

    def exit_code(self) -> int | None:
        """Return the exit code of a forked process that has ended, or None."""
        ended = _read(self.root / "ended.json", Ended)
        return None if ended is None else ended.exit_code

    def _status(self, rank: int) -> Path:
        return self.root / f"rank{rank}.status"

    def _refusal(self, rank: int) -> Path:
        return self.root / f"rank{rank}.refusal.json"

    def _turn(self, turn: int) -> Path:
        return self.root / f"turn{turn}.json"


def _write(path: Path, data: bytes) -> None:
    """Write a file that a reader sees whole or not at all."""
    aside = path.with_suffix(".unfinished")
    aside.write_bytes(data)
    aside.replace(path)


def _read(path: Path, kind: type[T]) -> T | None:
    """Return a file's message; None where there is none yet."""
    try:
        return decode(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
