"""A link fitted to measured sums, and its error on numbers of processes that it was not fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.predict.model import Cluster, Link, ring_seconds

LARGE_BYTES = 2**20
"""Buckets of gradients are this large, or larger."""


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
    """Return the link whose ring takes the times of samples with the least sum of |ln(predicted / measured)|.

    Of all links that take the times of two samples exactly, or of one without latency, it is the best. Squares
    would let one message move the whole line that the scheduler held up. So would errors relative to the measured
    time: a small message that a shaped link lets through at once would count more than all large ones.

    Args:
        samples: Of at least two sizes.
        num_cores: That all processes share, as in `shared`; None if each has cores of its own.
    """
    terms = np.array([_terms(sample, num_cores) for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    candidates = [np.array([0.0, time / term]) for time, (_, term) in zip(seconds, terms, strict=True) if term]
    pairs = [[*pair] for pair in combinations(range(len(samples)), 2)]
    candidates += [np.linalg.solve(terms[pair], seconds[pair]) for pair in pairs if np.linalg.det(terms[pair])]
    possible = [factors for factors in candidates if factors[0] >= 0 and factors[1] > 0]
    latency, seconds_per_byte = min(possible, key=lambda factors: np.abs(np.log(terms @ factors / seconds)).sum())
    return Link(float(1 / max(seconds_per_byte, 1e-15)), float(latency))


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
