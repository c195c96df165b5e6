"""Measured times, shown to pytest-benchmark as if it measured them now."""

from collections.abc import Iterator


class ReplayedTimer:
    """A timer that shows pytest-benchmark measured times again: each time it is advanced, one of them passes."""

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self.windows: Iterator[float] = iter(())

    def __call__(self) -> float:
        """Return the replayed seconds."""
        return self.now_seconds

    def __str__(self) -> str:
        return "replayed"

    def advance(self) -> None:
        """Let the next window pass."""
        self.now_seconds += next(self.windows)
