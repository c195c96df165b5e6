"""A link fitted to measured sums, and its error on numbers of processes that it was not fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.predict.model import Cluster, Link, ring_seconds

LARGE_BYTES = 2**20
"""Buckets of gradients are this large, or larger."""
REWEIGHTINGS = 50


@dataclass(frozen=True)
class Sample:
    """A measured all-reduce.

    Attributes:
        num_processes: That formed the sum.
        num_bytes: Of each of them.
        seconds: Of the slowest of them; the median of several.
    """

    num_processes: int
    num_bytes: int
    seconds: float


@dataclass(frozen=True)
class HeldOut:
    """How a link that was fitted to fewer processes predicts more.

    Attributes:
        num_processes: Whose sums were not fitted to.
        median_error: Of |predicted / measured - 1| over the sizes.
        large_error: The same over sizes of at least LARGE_BYTES; None if there are none.
        worst: Predicted over measured, where it is farthest from 1.
        worst_bytes: Where that is.
    """

    num_processes: int
    median_error: float
    large_error: float | None
    worst: float
    worst_bytes: int


def fitted(samples: Sequence[Sample], num_cores: int | None = None) -> Link:
    """Return the link whose ring takes the times of samples with the least absolute relative error.

    Squares would let one message that the scheduler held up move the whole line.

    Args:
        samples: Of at least two sizes.
        num_cores: That all processes share, as in `shared`; None if each has cores of its own.
    """
    rows = np.array([_terms(sample, num_cores) for sample in samples])
    relative = rows / np.array([[sample.seconds] for sample in samples])
    latency, seconds_per_byte = _least_absolute(relative)
    if latency < 0:
        latency = 0.0
        (seconds_per_byte,) = _least_absolute(relative[:, 1:])
    return Link(1 / max(seconds_per_byte, 1e-15), latency)


def _least_absolute(rows: NDArray[np.float64]) -> list[float]:
    """Return the factors for which the rows come to 1 with the least absolute error, by reweighted squares."""
    weights = np.ones(len(rows))
    for _ in range(REWEIGHTINGS):
        factors, *_ = np.linalg.lstsq(rows * weights[:, None], weights, rcond=None)
        weights = 1 / np.sqrt(np.maximum(np.abs(rows @ factors - 1), 1e-9))
    return [float(factor) for factor in factors]


def _terms(sample: Sample, num_cores: int | None) -> tuple[float, float]:
    """Return what a sample's time has of the latency and of the seconds of a byte."""
    crowd = crowding(sample.num_processes, num_cores)
    return (
        crowd * ring_seconds(0, sample.num_processes, Cluster(Link(1.0, 1.0))),
        crowd * ring_seconds(sample.num_bytes, sample.num_processes, Cluster(Link(1.0, 0.0))),
    )


def crowding(num_processes: int, num_cores: int | None) -> float:
    """Return how many times as long copying and computing takes if processes share too few cores."""
    return 1.0 if num_cores is None else max(1.0, num_processes / num_cores)


def shared(link: Link, num_processes: int, num_cores: int | None) -> Link:
    """Return the link that each of several processes on one machine has.

    Between processes of one machine a CPU copies the bytes. More processes than cores take turns.
    """
    crowd = crowding(num_processes, num_cores)
    return Link(link.bytes_per_second / crowd, link.latency_seconds * crowd)


def held_out(link: Link, samples: Sequence[Sample], num_cores: int | None = None) -> list[HeldOut]:
    """Compare what a link predicts with samples that it was not fitted to, for each number of processes."""
    outcomes = []
    for count in sorted({sample.num_processes for sample in samples}):
        cluster = Cluster(shared(link, count, num_cores))
        ratios = {
            sample.num_bytes: ring_seconds(sample.num_bytes, count, cluster) / sample.seconds
            for sample in samples
            if sample.num_processes == count
        }
        worst = max(ratios, key=lambda size: abs(np.log(ratios[size])))
        errors = {size: abs(ratio - 1) for size, ratio in ratios.items()}
        large = [error for size, error in errors.items() if size >= LARGE_BYTES]
        outcomes.append(
            HeldOut(
                num_processes=count,
                median_error=float(np.median([*errors.values()])),
                large_error=float(np.median(large)) if large else None,
                worst=ratios[worst],
                worst_bytes=worst,
            )
        )
    return outcomes
