"""Which part of the step its time belongs to, computed from the parts of windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.results.case_result import CaseResult
from bench.results.statistics import Interval, Seconds, exponential, midmean_interval
from bench.results.work import StepWork


@dataclass(frozen=True)
class PhaseTime:
    """The time of a phase.

    Attributes:
        name: Of the phase.
        share: Of the step.
        seconds: That share of the untouched step's median.
        work: What the phase does; None if it was not counted.
    """

    name: str
    share: float
    seconds: float
    work: StepWork | None


@dataclass(frozen=True)
class Attribution:
    """How the time of a step divides into phases.

    Attributes:
        phases: In the order of the step; their shares add up to 1.
        covered: Their sum over the windows that they are parts of.
        disturbance: The time of a step whose phases are marked over that of an untouched one; the two took turns.
    """

    phases: Sequence[PhaseTime]
    covered: float
    disturbance: Interval


def attribution(result: CaseResult) -> Attribution | None:
    """Return how the step divides into phases, or, of several processes, into what `exposure` adds up.

    None for an older file, in which phases were measured apart. Of several processes it is the mean. The sums are
    over the middle half of the windows by their length: outliers are left out, and a sum over windows divides
    without a rest, which medians do not.
    """
    parts = {name: arm.part_of for name, arm in result.first_rank.arms.items() if arm.part_of}
    if not parts:
        return None
    (whole_arm,) = set(parts.values())
    middle = middle_windows(result, whole_arm)
    sums = {name: _sum_over(result, name, middle) for name in parts}
    total = sum(sums.values())
    step_seconds = result.median()
    phases = [
        PhaseTime(name, seconds / total, seconds / total * step_seconds, result.facts.phases.get(name))
        for name, seconds in sums.items()
    ]
    covered = total / _sum_over(result, whole_arm, middle)
    return Attribution(phases, covered, _disturbance(result, whole_arm))


def middle_windows(result: CaseResult, arm: str) -> NDArray[np.intp]:
    """Return the numbers of the middle half of an arm's windows, over all launches, by their length."""
    whole = np.concatenate(result.seconds_per_step[arm])
    quarter = len(whole) // 4
    return np.argsort(whole)[quarter : len(whole) - quarter]


def _sum_over(result: CaseResult, arm: str, windows: NDArray[np.intp]) -> float:
    """Return the seconds of an arm in these windows, on average over the processes."""
    of_ranks = [np.concatenate(result.seconds_of_rank(arm, rank)) for rank in range(result.case.num_processes)]
    return float(np.mean(of_ranks, axis=0)[windows].sum())


def _disturbance(result: CaseResult, arm: str) -> Interval:
    ratios: list[Seconds] | None = result.log_ratios(arm)
    assert ratios is not None
    return exponential(midmean_interval(ratios))
