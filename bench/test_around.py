"""What surrounds the step."""

from collections.abc import Callable

from bench.suite.cases import Case

Measure = Callable[[Case], None]


def test_sampling(case: Case, measure: Measure) -> None:
    """Images from a generator in evaluation mode."""
    measure(case)


def test_checkpoint(case: Case, measure: Measure) -> None:
    """Saving and loading everything that a run needs to continue."""
    measure(case)


def test_startup(case: Case, measure: Measure) -> None:
    """From the command to the end of the first step."""
    measure(case)
