"""Where a run stands, and the best epoch that it has seen."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gan.files.text import significant

LOWER_IS_BETTER = frozenset({"fid", "kid", "class_kl"})
"""Scores that are distances; of the others, more is better."""


@dataclass
class Progress:
    """Where a run stands. Schedules, averages and checkpoints go by images seen.

    Attributes:
        step: Steps completed.
        epoch: Epochs completed.
        position: Steps completed in the current epoch.
        images_seen: Real images trained on, over all ranks, repeats counted.
        seconds: Wall time of training when the clock was last read, over all sessions of the run.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    _zero = 0.0  # on `time.perf_counter`, when `seconds` was 0; not a field, because no later session can use it

    def start_clock(self) -> None:
        """Let the wall time go on from `seconds`."""
        self._zero = time.perf_counter() - self.seconds

    def read_clock(self) -> None:
        """Set `seconds` to the wall time of training until now."""
        self.seconds = time.perf_counter() - self._zero

    def passed(self, multiple: int, num_images: int) -> bool:
        """Say whether the last `num_images` images passed a multiple of `multiple` images."""
        return self.images_seen // multiple > (self.images_seen - num_images) // multiple


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far.

    Attributes:
        score: The name of the score that decides.
        value: The score.
        epoch: The number of the epoch, from 1.
        images_seen: By then, within the epoch if a run ended there; the name of its checkpoint.
    """

    score: str
    value: float
    epoch: int
    images_seen: int

    def beats(self, other: "Best | None") -> bool:
        """Say whether this evaluation is better than another one, or than none. NaN beats nothing.

        >>> Best("fid", 10.0, 2, 60_000).beats(Best("fid", 12.0, 1, 30_000))
        True
        >>> Best("coverage", 0.4, 2, 60_000).beats(Best("coverage", 0.5, 1, 30_000))
        False
        """
        if math.isnan(self.value):
            return False
        if other is None:
            return True
        return self.value < other.value if self.score in LOWER_IS_BETTER else self.value > other.value

    def __str__(self) -> str:
        """Return the epoch and its score."""
        return f"epoch {self.epoch}, {self.score} {significant(self.value, 4)} after {self.images_seen:,} images"

    def to_json(self) -> dict[str, Any]:
        """Return the fields, JSON-ready."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Best":
        """Return what `to_json` returned; raise KeyError, TypeError or ValueError if it is not that."""
        best = cls(str(data["score"]), float(data["value"]), int(data["epoch"]), int(data["images_seen"]))
        if best.to_json() != data:
            raise ValueError(f"{data} is no record of a best epoch")
        return best
