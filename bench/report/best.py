"""The fastest setting of each recipe that a session measured in several settings."""

from collections.abc import Iterator, Sequence

from bench.results.case_result import CaseResult
from bench.suite.cases import AXES, SETTING_AXES, Case

JUDGED = ("T1", "T2")
"""The tiers that say whether a setting trains the same GAN."""
AXES_OF_TRAINING = tuple(name for name in AXES if name not in SETTING_AXES)
UNLIKE_STABILITY = ("batch_size", "accumulate", "image_shape")
"""Axes on which the verdict of stability does not depend: it is judged on digits, at a batch of its own."""


def best_settings(results: Sequence[CaseResult]) -> list[str]:
    """Return a line for each recipe that was measured in several settings: which is fastest and may be used."""
    groups: dict[tuple[object, ...], list[CaseResult]] = {}
    for result in results:
        if result.case.workload == "step" and result.case.is_core:
            groups.setdefault(_values(result.case, AXES_OF_TRAINING), []).append(result)
    several = [group for group in groups.values() if len(group) > 1]
    varied = [name for name in AXES_OF_TRAINING if len({getattr(group[0].case, name) for group in several}) > 1]
    return [line for group in several for line in _lines(group, varied or ["recipe"], results)]


def _values(case: Case, names: Sequence[str]) -> tuple[object, ...]:
    return tuple(getattr(case, name) for name in names)


def _lines(group: Sequence[CaseResult], varied: Sequence[str], results: Sequence[CaseResult]) -> Iterator[str]:
    what = " ".join(group[0].case.labels(varied))
    in_turns = all(result.times_plain for result in group)
    speeds = {result.case: _speed(result, in_turns=in_turns) for result in group}
    fastest_first = sorted(group, key=lambda result: -speeds[result.case])
    judged = {result.case: _passed(result.case, results) for result in group}
    usual = next((case for case in speeds if not _changes(case)), None)

    def shown(case: Case) -> str:
        name = " ".join(case.labels(SETTING_AXES))
        if usual is None or case == usual:
            return name
        return f"{name}, {speeds[case] / speeds[usual]:.2f} × {' '.join(usual.labels(SETTING_AXES))}"

    passed = [result.case for result in fastest_first if judged[result.case]]
    first = next((result.case for result in fastest_first if judged[result.case] is not False), None)
    if passed:
        yield f"{what}: fastest setting that passed T1 and T2: {shown(passed[0])}"
    if first is None:
        yield f"{what}: no setting passed T1 and T2"
    elif judged[first] is None:
        yield f"{what}: fastest setting: {shown(first)}; T1 and T2 not judged, -k stability does so"


def _changes(case: Case) -> list[str]:
    return [name for name in SETTING_AXES if getattr(case, name) != getattr(Case, name)]


def _speed(result: CaseResult, *, in_turns: bool) -> float:
    """Return a setting's speed: over that of the plain loop that took turns with it, if all of them have one."""
    ratio = result.times_plain
    return ratio.estimate if in_turns and ratio else result.images_per_second()


def _passed(case: Case, results: Sequence[CaseResult]) -> bool | None:
    """Say whether a setting has passed T1 and T2 in the same session; None if it was not judged."""
    names = [name for name in AXES if name not in UNLIKE_STABILITY]
    for result in results:
        if result.case.workload == "stability" and _values(result.case, names) == _values(case, names):
            checks = [check for check in result.checks if check.tier in JUDGED]
            judged = {check.tier for check in checks} == set(JUDGED)
            if any(check.failed for check in checks):
                return False
            return True if judged and all(check.passed for check in checks) else None
    return None
