"""The training step over several processes."""

from collections.abc import Callable

from bench.suite.cases import Case


def test_scaling(case: Case, measure: Callable[[Case], None]) -> None:
    """Weak or strong scaling, beside one process alone and the step without its all-reduce."""
    measure(case)
