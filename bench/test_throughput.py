"""Throughput of the training step, of its phases, and of whole epochs."""

from collections.abc import Callable

from bench.suite.cases import Case

Measure = Callable[[Case], None]


def test_step(case: Case, measure: Measure) -> None:
    """One step with its data, beside the plain loop and this machine's peaks."""
    measure(case)


def test_phases(case: Case, measure: Measure) -> None:
    """Data, both networks and the optimizers, one by one."""
    measure(case)


def test_epoch(case: Case, measure: Measure) -> None:
    """A whole epoch, log points included."""
    measure(case)
