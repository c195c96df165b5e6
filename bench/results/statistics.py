"""Estimates of middles, and how far noise may have moved them: midmeans with bootstrap intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness.windows import LEAST_ROUNDS

Seconds = NDArray[np.float64]

BLOCK = 8
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % confidence interval. The ends are NaN if too little was measured for one."""

    estimate: float
    low: float
    high: float


def midmean(values: Seconds) -> float:
    """Return the mean of the middle half. Outliers move it little, and it varies less than the median."""
    quarter = len(values) // 4
    return float(np.sort(values)[quarter : len(values) - quarter].mean())


def bootstrap_midmeans(launches: Sequence[Seconds], seed: int = 0) -> Seconds:
    """Return the midmeans of RESAMPLES resamples of the rounds of some launches.

    A resample draws launches, and within each of them moving blocks of neighbouring rounds. Blocks keep the
    correlation between neighbours (Künsch 1989, doi:10.1214/aos/1176347265). With one launch, the spread of the
    midmeans is that of the noise within it.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(launches), size=(RESAMPLES, len(launches)))
    parts = [_resampled(launches, slot, rng) for slot in drawn.T]
    length = sum(part.shape[1] for part in parts)
    # Rows of different lengths are sorted at once: NaN pads the shorter ones, and sorts last. The mean of the
    # middle half is then a difference of two cumulative sums, in which NaN counts as 0.
    values = np.sort(np.concatenate(parts, axis=1), axis=1)
    lengths = length - np.isnan(values).sum(1)
    quarters = lengths // 4
    sums = np.concatenate([np.zeros((RESAMPLES, 1)), np.cumsum(np.nan_to_num(values), axis=1)], axis=1)
    rows = np.arange(RESAMPLES)
    middle: Seconds = (sums[rows, lengths - quarters] - sums[rows, quarters]) / (lengths - 2 * quarters)
    return middle


def _resampled(launches: Sequence[Seconds], drawn: NDArray[np.int_], rng: np.random.Generator) -> Seconds:
    """Return a resample of the launch that was drawn for each row: (rows, longest length), NaN beyond its end."""
    longest = max(map(len, launches))
    resampled = np.full((len(drawn), longest), np.nan)
    for index, values in enumerate(launches):
        rows = np.flatnonzero(drawn == index)
        block = BLOCK if len(values) >= LEAST_ROUNDS else max(1, len(values) // 2)  # a single block would not vary
        starts = rng.integers(0, len(values) - block + 1, size=(len(rows), -(-len(values) // block), 1))
        places = (starts + np.arange(block)).reshape(len(rows), -1)[:, : len(values)]
        resampled[rows, : len(values)] = values[places]
    return resampled


def midmean_interval(launches: Sequence[Seconds]) -> Interval:
    """Return the midmean with its 95 % bootstrap interval."""
    return _interval(midmean(np.concatenate(launches)), bootstrap_midmeans(launches), launches)


def difference_interval(a: Sequence[Seconds], b: Sequence[Seconds]) -> Interval:
    """Return the midmean of `b` minus that of `a`, with its 95 % bootstrap interval; they did not take turns."""
    estimate = midmean(np.concatenate(b)) - midmean(np.concatenate(a))
    return _interval(estimate, bootstrap_midmeans(b, seed=1) - bootstrap_midmeans(a), a, b)


def _interval(estimate: float, resampled: Seconds, *samples: Sequence[Seconds]) -> Interval:
    if min(sum(map(len, launches)) for launches in samples) < 2:
        return Interval(float(estimate), math.nan, math.nan)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(estimate), float(low), float(high))


def exponential(interval: Interval) -> Interval:
    """Return the interval of a ratio from that of its logarithm."""
    return Interval(*(float(np.exp(value)) for value in (interval.estimate, interval.low, interval.high)))
