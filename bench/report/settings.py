"""Settings: cases that train the same GAN and run its step in different ways, and their ratios to fp32 eager."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.results.case_result import CaseResult
from bench.results.statistics import Interval, difference_interval, exponential
from bench.suite.cases import SETTING_AXES, Case

TIMES_DEFAULT = "× fp32 eager"


def setting_of(case: Case) -> str:
    """Return what a case's setting is called.

    >>> setting_of(Case(precision="bf16", memory_format="channels_last"))
    'bf16 eager channels_last'
    """
    return " ".join(case.labels(SETTING_AXES))


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
        default = by_case.get(default_of(result.case))
        if default is None or default is result:
            continue
        own = result.log_ratios()
        other = default.log_ratios()
        if own is not None and other is not None:
            ratios[result.name] = exponential(difference_interval(other, own))
    return ratios
