"""The folder through which a case's processes and the one that launched them tell each other what to do."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT_BYTES = 128
WAIT_SECONDS = 0.02
WAITING = "waiting"
DONE = "done"
"""The last report, after a rank's record is written."""


@dataclass(frozen=True)
class Report:
    """What a rank said last: its process id, what it was doing, its how manieth report, and when.

    When is `time.monotonic`, which all processes of a machine share, and which nobody can set.
    """

    pid: int
    doing: str
    number: int
    time: float


@dataclass(frozen=True)
class Wait:
    """What a rank reports between its turns.

    Attributes:
        turn: The turn it waits for.
        quickest_probe: Of its own and those it was told of.
        beyond: Whether it asks for more than its rounds because some were disturbed.
    """

    turn: int
    quickest_probe: float = math.inf
    beyond: bool = False

    def __str__(self) -> str:
        return f"{WAITING} {self.turn} {self.quickest_probe} {int(self.beyond)}"

    @classmethod
    def of(cls, report: "Report | None") -> "Wait | None":
        """Return what a report says of waiting, or None."""
        if report is None or not report.doing.startswith(WAITING):
            return None
        _, turn, quickest, beyond = report.doing.split()
        return cls(int(turn), float(quickest), beyond == "1")


@dataclass(frozen=True)
class Exchange:
    """Where the files of one launch are."""

    root: Path

    @property
    def spec(self) -> Path:
        """What is to be measured."""
        return self.root / "spec.json"

    @property
    def launcher_log(self) -> Path:
        """What the launcher printed; cases that were launched together have one."""
        return self.root.parent / "launcher.log"

    def set_exit_code(self, code: int) -> None:
        """Note how a forked process ended."""
        _write(self.root / "exit_code.json", code)

    def exit_code(self) -> int | None:
        """Return how a forked process ended, if it has."""
        path = self.root / "exit_code.json"
        code: int | None = _read(path) if path.exists() else None
        return code

    def log(self, rank: int) -> Path:
        """What a rank printed."""
        return self.root / f"rank{rank}.log"

    def record(self, rank: int) -> Path:
        """What a rank measured."""
        return self.root / f"rank{rank}.json"

    def scratch(self, rank: int) -> Path:
        """Return a directory for files that a rank's measurement writes."""
        path = self.root / f"rank{rank}"
        path.mkdir(exist_ok=True)
        return path

    def _turn(self, number: int) -> Path:
        return self.root / f"turn{number}.json"

    def grant(self, number: int, quickest_probe: float | None) -> None:
        """Let the processes take a turn, and tell them the quickest probe known; None asks them to finish."""
        _write(self._turn(number), quickest_probe)

    def wait_for(self, number: int) -> float | None:
        """Return what a turn was granted with, once it is; a process reports `Wait` meanwhile."""
        path = self._turn(number)
        while not path.exists():
            time.sleep(WAIT_SECONDS)
        quickest: float | None = _read(path)
        return quickest

    def _report(self, rank: int) -> Path:
        return self.root / f"rank{rank}.report"

    def reporter(self, rank: int) -> Callable[[str], None]:
        """Return what a rank reports with; a report is one write in place, some microseconds."""
        descriptor = os.open(self._report(rank), os.O_WRONLY | os.O_CREAT, 0o600)
        number = 0

        def report(doing: str) -> None:
            nonlocal number
            number += 1
            line = f"{os.getpid()} {number} {time.monotonic():.3f} {doing}"
            os.pwrite(descriptor, line.encode()[:REPORT_BYTES].ljust(REPORT_BYTES), 0)

        return report

    def report(self, rank: int) -> Report | None:
        """Return a rank's last report, or None before its first."""
        try:
            pid, number, when, doing = self._report(rank).read_text(encoding="utf-8").split(" ", 3)
        except (OSError, ValueError):
            return None
        return Report(int(pid), doing.strip(), int(number), float(when))


def _write(path: Path, data: object) -> None:
    """Write JSON that a reader sees whole or not at all."""
    aside = path.with_suffix(".unfinished")
    aside.write_text(json.dumps(data), encoding="utf-8")
    aside.replace(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
