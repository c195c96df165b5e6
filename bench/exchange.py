"""The folder through which a case's processes tell the one that launched them how they fare."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPORT_BYTES = 128


@dataclass(frozen=True)
class Report:
    """What a rank said last: its process id, what it was doing, its how manieth report, and when (seconds)."""

    pid: int
    doing: str
    number: int
    time: float


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
        """What the launcher printed."""
        return self.root / "launcher.log"

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

    def _report(self, rank: int) -> Path:
        return self.root / f"rank{rank}.report"

    def reporter(self, rank: int) -> Callable[[str], None]:
        """Return what a rank reports with; a report is one write in place, some microseconds."""
        descriptor = os.open(self._report(rank), os.O_WRONLY | os.O_CREAT, 0o600)
        number = 0

        def report(doing: str) -> None:
            nonlocal number
            number += 1
            line = f"{os.getpid()} {number} {time.time():.3f} {doing}"
            os.pwrite(descriptor, line.encode()[:REPORT_BYTES].ljust(REPORT_BYTES), 0)

        return report

    def report(self, rank: int) -> Report | None:
        """Return a rank's last report, or None before its first."""
        try:
            pid, number, when, doing = self._report(rank).read_text(encoding="utf-8").split(" ", 3)
        except (OSError, ValueError):
            return None
        return Report(int(pid), doing.strip(), int(number), float(when))
