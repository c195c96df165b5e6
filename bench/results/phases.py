"""Which phase of the step its time belongs to, computed from the parts of windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    """Return how the step divides into phases; None for an older file, in which phases were measured apart.

    The sums are over the middle half of the windows by their length: outliers are left out, and a sum over windows
    divides without a rest, which medians do not.
    """
    parts = {name: arm.part_of for name, arm in result.first_rank.arms.items() if arm.part_of}
    if not parts:
        return None
    (whole_arm,) = set(parts.values())
    whole = np.concatenate(result.seconds_per_step[whole_arm])
    quarter = len(whole) // 4
    middle = np.argsort(whole)[quarter : len(whole) - quarter]
    sums = {name: float(np.concatenate(result.seconds_per_step[name])[middle].sum()) for name in parts}
    total = sum(sums.values())
    step_seconds = result.median()
    phases = [
        PhaseTime(name, seconds / total, seconds / total * step_seconds, result.facts.phases.get(name))
        for name, seconds in sums.items()
    ]
    return Attribution(phases, total / float(whole[middle].sum()), _disturbance(result, whole_arm))


def _disturbance(result: CaseResult, arm: str) -> Interval:
    ratios: list[Seconds] | None = result.log_ratios(arm)
    assert ratios is not None
    return exponential(midmean_interval(ratios))
