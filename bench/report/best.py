"""The fastest setting of each recipe that a session measured in several settings."""

from collections.abc import Iterator, Sequence

from bench.report.cells import ratio
from bench.report.settings import default_of, stability_result, times_default
from bench.results.case_result import CaseResult
from bench.suite.cases import TRAINED_AXES, Case

JUDGED = ("T1", "T2")
"""The tiers that say whether a setting trains the same GAN."""


def best_settings(results: Sequence[CaseResult]) -> list[str]:
    """Return a line for each recipe that was measured in several settings: which is fastest and may be used."""
    groups: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        if result.case.workload == "step" and result.case.is_core:
            groups.setdefault(tuple(getattr(result.case, name) for name in TRAINED_AXES), []).append(result)
    several = [group for group in groups.values() if len(group) > 1]
    varied = [name for name in TRAINED_AXES if len({getattr(group[0].case, name) for group in several}) > 1]
    if not all(group[0].case.labels(varied) for group in several):  # a default may have no label
        varied = ["recipe", *varied]
    return [line for group in several for line in _lines(group, varied, results)]


def _lines(group: Sequence[CaseResult], varied: Sequence[str], results: Sequence[CaseResult]) -> Iterator[str]:
    what = " ".join(group[0].case.labels(varied))
    in_turns = all(result.times_plain for result in group)
    speeds = {result.case: _speed(result, in_turns=in_turns) for result in group}
    fastest_first = sorted(group, key=lambda result: -speeds[result.case])
    judged = {result.case: _passed(result.case, results) for result in group}
    usual = next((case for case in speeds if case == default_of(case)), None)
    gains = times_default(group)
    intervals = {result.case: gains[result.name] for result in group if result.name in gains}

    def shown(case: Case) -> str:
        if usual is None or case == usual:
            return case.setting
        times = ratio(intervals[case]) if in_turns else f"{speeds[case] / speeds[usual]:.2f}"
        return f"{case.setting}, {times} × {usual.setting}"

    passed = [result.case for result in fastest_first if judged[result.case]]
    first = next((result.case for result in fastest_first if judged[result.case] is not False), None)
    if passed:
        yield f"{what}: fastest setting that passed T1 and T2: {shown(passed[0])}"
    if first is None:
        yield f"{what}: no setting passed T1 and T2"
    elif judged[first] is None:
        judge = "-k stability" if first.num_processes == 1 else "tune"  # -k stability asks several for T1 alone
        yield f"{what}: fastest setting: {shown(first)}; T1 and T2 not judged, {judge} does so"


def _speed(result: CaseResult, *, in_turns: bool) -> float:
    """Return a setting's speed: over that of the plain loop that took turns with it, if all of them have one."""
    times = result.times_plain
    return times.estimate if in_turns and times else result.images_per_second()


def _passed(case: Case, results: Sequence[CaseResult]) -> bool | None:
    """Say whether a setting has passed T1 and T2 in the same session; None if it was not judged."""
    result = stability_result(case, results)
    checks = [check for check in result.checks if check.tier in JUDGED] if result else []
    if any(check.failed for check in checks):
        return False
    judged = {check.tier for check in checks} == set(JUDGED)
    return True if judged and all(check.passed for check in checks) else None
