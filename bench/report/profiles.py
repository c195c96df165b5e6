"""Tables of what a profiler saw: the operators of a step, and what limits each."""

from collections.abc import Iterator, Sequence

from bench.report.cells import NONE, milliseconds, number, percent
from bench.results.case_result import CaseResult
from bench.results.figures import peaks
from bench.results.profile import OperatorTime, StepProfile
from gan.display.tables import Table
from gan.files.text import significant

MOST_ROWS = 12
"""Operators that a table shows; the others are added up."""
PROFILE_COLUMNS = ("operator", "in", "ms", "of the step", "calls", "GFLOP/s", "GB/s", "limited by")


def profile_tables(results: Sequence[CaseResult]) -> Iterator[Table]:
    """Yield a table for each case that was profiled."""
    for result in results:
        if profile := result.facts.profile:
            title = f"Operators of {result.name}, {profile.num_steps} steps under the profiler"
            rows = list(_rows(result, profile))
            yield Table(title, PROFILE_COLUMNS, 2, rows, ("GFLOP/s", "GB/s", "calls", "of the step"))


def _rows(result: CaseResult, profile: StepProfile) -> Iterator[list[str]]:
    def row(name: str, part: str, seconds: float, *others: str) -> list[str]:
        return [name, part, milliseconds(seconds) if seconds else "0", percent(seconds / profile.seconds), *others]

    on_gpu = result.case.device == "cuda"
    yield row("step", "", profile.seconds, NONE, NONE, NONE, "")
    for operator in profile.operators[:MOST_ROWS]:
        yield row(operator.name, operator.part, operator.seconds, *_rates(result, operator))
    if others := profile.operators[MOST_ROWS:]:
        calls = significant(sum(operator.calls for operator in others), 3)
        yield row("others", "", sum(operator.seconds for operator in others), calls, NONE, NONE, "")
    between = "between kernels" if on_gpu else "between operators"
    kernels = f"{profile.num_kernels:,.0f} kernels" if on_gpu else NONE
    yield row(between, "", profile.gap_seconds, kernels, NONE, NONE, "host")


def _rates(result: CaseResult, operator: OperatorTime) -> tuple[str, str, str, str]:
    """Return calls, FLOP/s, bytes/s and the bound of an operator."""
    limit, fraction = operator.bound(result.case.device, peaks(result))
    gigaflops = operator.flops / operator.seconds / 1e9 if operator.flops else None
    gigabytes = operator.traffic_bytes / operator.seconds / 1e9 if operator.traffic_bytes else None
    reached = "" if fraction is None else f" {percent(fraction)}"
    return (
        significant(operator.calls, 3),
        number(gigaflops, "{:,.0f}"),
        number(gigabytes, "{:,.1f}"),
        f"{limit}{reached}" or NONE,
    )
