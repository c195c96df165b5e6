"""Measured times, shown to pytest-benchmark as if it measured them now."""

import time
from collections.abc import Iterator


class ReplayedTimer:
    """A timer that shows pytest-benchmark measured times again: each time it is advanced, one of them passes.

    Until there are measured times it is a clock, for a test that uses `benchmark` itself.
    """

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self.windows: Iterator[float] | None = None

    def __call__(self) -> float:
        """Return the replayed seconds."""
        return time.perf_counter() if self.windows is None else self.now_seconds

    def __str__(self) -> str:
        return "replayed"

    def advance(self) -> None:
        """Let the next window pass."""
        assert self.windows is not None
        self.now_seconds += next(self.windows)
