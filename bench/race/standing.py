"""How contenders stand: figures that are functions of a race's record alone."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.race.record import FIRST, Entry, RaceRecord
from bench.regress.verdict import hodges_lehmann, lower_bound, upper_bound

LEVEL = 0.025
"""Error of each end of an interval, which is a 95 % one."""
LEAST_PAIRS = 6
"""The fewest launch pairs that have an exact interval of this level."""


@dataclass(frozen=True)
class Ratio:
    """The time per image of a contender over the first one's.

    Attributes:
        estimate: The Hodges–Lehmann estimate over launch pairs.
        low: Lower end of the 95 % interval: the signed-rank test inverted. 0 if there are too few pairs.
        high: Upper end; infinite if there are too few pairs.
        spread: Standard deviation of the pairs' log ratios; 0 for one pair.
    """

    estimate: float
    low: float
    high: float
    spread: float

    @classmethod
    def of(cls, log_ratios: Sequence[float]) -> "Ratio":
        """Return the ratio that launch pairs say."""
        return cls(
            estimate=math.exp(hodges_lehmann(log_ratios)),
            low=math.exp(lower_bound(log_ratios, LEVEL)),
            high=math.exp(upper_bound(log_ratios, LEVEL)),
            spread=statistics.stdev(log_ratios) if len(log_ratios) > 1 else 0.0,
        )

    @property
    def has_interval(self) -> bool:
        """Whether there are enough pairs for the interval."""
        return self.high < math.inf

    @property
    def is_different(self) -> bool:
        """Whether the interval excludes that both take the same time."""
        return self.has_interval and not self.low <= 1 <= self.high

    @property
    def half_width(self) -> float:
        """Half of the interval, as a fraction of the estimate."""
        return (self.high - self.low) / (2 * self.estimate)


@dataclass(frozen=True)
class Standing:
    """What a race says of a contender.

    Attributes:
        letter: Of the contender.
        name: What it is called.
        step_seconds: The median over all windows.
        images_per_step: Real images over all processes.
        ratio: Of its time per image to the first one's; None for the first.
        peak_bytes: The median over launches.
        num_parameters: Of all networks; None if it shows none.
        startup_seconds: The median over launches.
        entry: Of the last launch, which has its losses.
    """

    letter: str
    name: str
    step_seconds: float
    images_per_step: int
    ratio: Ratio | None
    peak_bytes: float
    num_parameters: int | None
    startup_seconds: float
    entry: Entry

    @property
    def images_per_second(self) -> float:
        """Real images a second."""
        return self.images_per_step / self.step_seconds


def standings_of(record: RaceRecord) -> list[Standing]:
    """Return how the contenders of a record that can be read stand, in their order."""
    standings = []
    for letter in record.contenders:
        entries = [launch.entries[letter] for launch in record.launches]
        last = entries[-1]
        windows = [seconds for launch in record.launches for seconds in launch.step_seconds(letter)]
        is_first = letter == FIRST
        standing = Standing(
            letter=letter,
            name=record.name(letter),
            step_seconds=statistics.median(windows),
            images_per_step=last.images_per_step,
            ratio=None if is_first else Ratio.of([launch.log_ratio(letter) for launch in record.launches]),
            peak_bytes=statistics.median(entry.peak_bytes for entry in entries),
            num_parameters=None if last.num_parameters is None else sum(last.num_parameters.values()),
            startup_seconds=statistics.median(entry.startup_seconds for entry in entries),
            entry=last,
        )
        standings.append(standing)
    return standings


def failures_of(record: RaceRecord) -> list[str]:
    """Return why a contender failed, a line each.

    Its losses are not finite, so that its steps train nothing, or a second launch failed.
    """
    lines = []
    for letter in record.contenders:
        readings = [
            reading
            for launch in record.launches
            for reading in (launch.entries[letter].early_losses, launch.entries[letter].last_losses)
        ]
        if bad := next((reading for reading in readings if reading.not_finite), None):
            names = ", ".join(bad.not_finite)
            lines.append(f"{record.name(letter)}: not finite after {bad.step} steps: {names}")
    if record.has_failed:
        pairs = f"{len(record.launches)} of {record.num_pairs} launch pairs"
        lines.append(f"a second launch failed, which ended the race after {pairs}: {record.failed_launches[-1]}")
    return lines


def outcome_of(record: RaceRecord) -> dict[str, Any]:
    """Return the figures of a record, JSON-ready; a bound that is not finite is None."""
    rows = {}
    for standing in standings_of(record):
        ratio = None
        if standing.ratio:
            fields = asdict(standing.ratio)
            ratio = {name: value if math.isfinite(value) else None for name, value in fields.items()}
        rows[standing.letter] = {
            "name": standing.name,
            "time_per_image_over_first": ratio,
            "step_seconds": standing.step_seconds,
            "images_per_second": standing.images_per_second,
            "peak_bytes": standing.peak_bytes,
            "startup_seconds": standing.startup_seconds,
        }
    return {"standings": rows, "failures": failures_of(record)}
