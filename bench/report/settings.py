"""Settings: cases that train the same GAN and run its step in different ways, and their ratios to fp32 eager."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.results.case_result import CaseResult
from bench.results.statistics import Interval, difference_interval, exponential
from bench.suite.cases import AXES, SETTING_AXES, Case

TIMES_DEFAULT = "× fp32 eager"
UNLIKE_STABILITY = ("batch_size", "accumulate", "image_shape")
"""Axes on which the verdict of stability does not depend: it is judged on digits, at a batch of its own."""


def default_of(case: Case) -> Case:
    """Return the case that trains the same GAN in fp32 without a compiler, all other settings at their default."""
    return replace(case, **{name: getattr(Case, name) for name in SETTING_AXES})


def times_default(results: Sequence[CaseResult]) -> Mapping[str, Interval]:
    """Return how many times as fast as fp32 eager each case of a session is, by the case's name.

    Both took turns with the same plain loop window by window, so the ratio is that of their ratios to it. Cases
    without a plain loop, fp32 eager itself and cases that were measured without it are left out.
    """
    by_case = {result.case: result for result in results}
    ratios = {}
    for result in results:
        usual = default_of(result.case)
        default = by_case.get(usual) or by_case.get(replace(usual, shared_memory=False))
        if default is None or default is result:
            continue
        own = result.log_ratios()
        other = default.log_ratios()
        if own is not None and other is not None:
            ratios[result.name] = exponential(difference_interval(other, own))
    return ratios


def stability_result(case: Case, results: Sequence[CaseResult]) -> CaseResult | None:
    """Return the result of a session's stability tests on a recipe in a setting; None without one."""
    names = [name for name in AXES if name not in UNLIKE_STABILITY]
    for result in results:
        alike = all(getattr(result.case, name) == getattr(case, name) for name in names)
        if result.case.workload == "stability" and alike:
            return result
    return None
