"""Whether a configuration trains the same GAN, and how soon it trains it well."""

from collections.abc import Callable

import pytest

from bench.results.case_result import CaseResult
from bench.results.warnings import failed_checks
from bench.suite.cases import Case

Measure = Callable[[Case], CaseResult]


def judge(result: CaseResult) -> None:
    """Fail with a line for each check over its limit."""
    if failed := failed_checks(result):
        raise pytest.fail.Exception("\n".join(failed), pytrace=False)


def test_stability(case: Case, measure: Measure) -> None:
    """Determinism, semantics, precision and health, on digits."""
    judge(measure(case))


def test_convergence(case: Case, measure: Measure) -> None:
    """The outcomes of several seeds, against the reference of the recipe if there is one."""
    judge(measure(case))


def test_time_to_quality(case: Case, measure: Measure) -> None:
    """Seconds and images of training until generated digits are as good as a target."""
    judge(measure(case))
