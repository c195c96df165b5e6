"""Two results files of one machine, case by case; refused if the difference would not be that of the code."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.report.cells import NONE, milliseconds
from bench.report.markdown import markdown_list, markdown_table
from bench.report.notes import doubt_notes
from bench.report.tables import WorkloadGroup, by_workload
from bench.results.case_result import CaseResult
from bench.results.file import Results
from bench.results.statistics import Interval, difference_interval, exponential
from gan.display.tables import Table
from gan.errors import UsageError
from gan.files.text import in_markdown

BETWEEN_SESSIONS = 0.08
"""A smaller difference is not judged. See docs/log.md, what makes ratios agree between runs."""
CAVEATS = (
    "B / A below 1 means that B is faster",
    "'time' compares the steps of two sessions, so the speed of a shared machine moves it; 'to plain' compares "
    "both with the plain loop that took turns with them, which removes most of that",
    "the intervals (95 %) cover the noise within both files, and not the difference between sessions: the same "
    "code mostly differs by less than 8 % there, so only a larger change of 'to plain' is called slower or faster",
    "a case that was disturbed throughout, in A or in B, is not judged",
)
OTHER_MACHINE = (
    "A and B are of different hardware, so no case is called slower or faster: 'time' compares the machines, and "
    "'to plain' only what each of them gains over its plain loop"
)

HARDWARE = re.compile(r"(hosts\.\d+\.)?(cpu\..+|gpus)")
"""Names of settings that are a machine's: of the one that measured, or of one of the hosts of a case."""

Settings = Mapping[str, object]
"""Names to values, or to further settings."""


@dataclass(frozen=True)
class Comparison:
    """What two files differ in.

    Attributes:
        verdict: How many cases are slower, faster, alike.
        tables: One for each workload.
        notes: What to know about them.
    """

    verdict: str
    tables: Sequence[Table]
    notes: Sequence[str]

    def markdown(self) -> str:
        """Return it for a pull request."""
        tables = "\n\n".join(f"### {table.title}\n\n{markdown_table(table)}" for table in self.tables)
        return f"{in_markdown(self.verdict)}\n\n{tables}\n\n{markdown_list(self.notes)}"


def comparison(a: Results, b: Results, across: Sequence[str] = ()) -> Comparison:
    """Compare the cases that both files have.

    Raises:
        UsageError: Hardware, versions or settings differ that `across` does not name, or no case is in both.
    """
    environment_a = a.environment.identity
    environment_b = b.environment.identity
    unlike = _unlike(environment_a, environment_b, across)
    cases_a = {result.name: result for result in a.cases}
    cases_b = {result.name: result for result in b.cases}
    common = [name for name in cases_a if name in cases_b]
    if not common:
        raise UsageError(f"{a.path} and {b.path}: no case is in both; measure the same --suite and axes")
    unknown = set(lacking(environment_a, environment_b))
    for name in common:
        settings_a = _settings(cases_a[name], cases_b[name])
        settings_b = _settings(cases_b[name], cases_a[name])
        unlike |= _unlike(settings_a, settings_b, across, where=f"{name}: ")
        unknown |= set(lacking(settings_a, settings_b))
    notes = [*CAVEATS]
    for side, only in (("A", cases_a.keys() - cases_b.keys()), ("B", cases_b.keys() - cases_a.keys())):
        if only:
            notes.append(f"only in {side}: {', '.join(sorted(only))}")
    if unknown:
        notes.append(f"only one of the files has this, so it was not compared: {', '.join(sorted(unknown))}")
    notes += [f"{side} is incomplete" for side, file in (("A", a), ("B", b)) if not file.session.complete]
    for side, cases in (("A", cases_a), ("B", cases_b)):
        notes += [f"{side}: {doubts}" for doubts in doubt_notes([cases[name] for name in common])]
    notes += [f"{side}: {file.path.name}; {file.environment.line}" for side, file in (("A", a), ("B", b))]
    groups = by_workload([cases_a[name] for name in common])
    same_machine = not any(map(HARDWARE.fullmatch, unlike))
    if not same_machine:
        notes.insert(0, OTHER_MACHINE)
    tables = [_table(group, cases_b, judged=same_machine) for group in groups]
    conclusions = Counter(row[-1] for table in tables for row in table.rows)
    judged = ", ".join(f"{count} {'not judged' if word == NONE else word}" for word, count in conclusions.items())
    return Comparison(f"B over A, {len(common)} case(s): {judged}", tables, notes)


def _table(group: WorkloadGroup, cases_b: Mapping[str, CaseResult], *, judged: bool) -> Table:
    rows = [
        [*group.labels(result), *_row(result, cases_b[result.name], judged=judged)] for result in group.results
    ]
    columns = [*group.columns, "A ms", "B ms", "time B / A", "to plain B / A", "conclusion"]
    return Table(f"B over A. {group.title}", columns, len(group.axes), rows, ("time B / A", "A ms", "B ms"))


def _settings(result: CaseResult, other: CaseResult) -> Settings:
    """Return the settings of a result, in which variables that only `other` has are empty, if both record some."""
    flags: Mapping[str, Any] = result.first_rank.flags
    other_flags: Mapping[str, Any] = other.first_rank.flags
    if "variables" in flags and "variables" in other_flags:
        unset = dict.fromkeys(other_flags["variables"], "")
        flags = {**flags, "variables": {**unset, **flags["variables"]}}
    hosts = {
        f"{number}": {"cpu": host.cpu, "gpus": host.gpus, "python": host.python, "packages": host.packages}
        for number, host in enumerate(result.hosts)
    }
    return {"threads": result.first_rank.threads, "flags": flags, "accelerate": result.accelerate, "hosts": hosts}


def differences(a: Settings, b: Settings, prefix: str = "") -> Iterator[tuple[str, tuple[object, object]]]:
    """Yield the dotted name and both values of each setting that differs; what only one has is in `lacking`."""
    for name in sorted(a.keys() & b.keys()):
        value_a = a[name]
        value_b = b[name]
        if isinstance(value_a, dict) and isinstance(value_b, dict):
            yield from differences(value_a, value_b, f"{prefix}{name}.")
        elif value_a != value_b:
            yield f"{prefix}{name}", (value_a, value_b)


def lacking(a: Settings, b: Settings, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of each setting that only one has: an older version did not record it."""
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            yield f"{prefix}{name}"
            continue
        value_a = a[name]
        value_b = b[name]
        if isinstance(value_a, dict) and isinstance(value_b, dict):
            yield from lacking(value_a, value_b, f"{prefix}{name}.")


def _unlike(a: Settings, b: Settings, across: Sequence[str], where: str = "") -> set[str]:
    """Return the names of settings that differ; raise UsageError for those that `across` does not name."""
    unlike = dict(differences(a, b))
    refused = [name for name in unlike if name not in across]
    if refused:
        value_a, value_b = unlike[refused[0]]
        others = f" (and {', '.join(refused[1:])})" if refused[1:] else ""
        raise UsageError(
            f"{where}{refused[0]} is {value_a!r} in A and {value_b!r} in B{others}; measure both alike, or say "
            f"--across {' '.join([*across, *refused])} if this is what you compare"
        )
    return set(unlike)


def _row(a: CaseResult, b: CaseResult, *, judged: bool) -> list[str]:
    times = [[np.log(seconds) for seconds in result.seconds_per_step[result.own_arm]] for result in (a, b)]
    time = exponential(difference_interval(*times))
    to_plain = change_to_plain(a, b)
    return [
        milliseconds(a.median()),
        milliseconds(b.median()),
        _shown(time),
        NONE if to_plain is None else _shown(to_plain),
        conclusion_of(to_plain if judged else None, disturbed=a.disturbed or b.disturbed),
    ]


def change_to_plain(a: CaseResult, b: CaseResult) -> Interval | None:
    """Return the time of B over that of A, each as a multiple of its plain loop; None without one."""
    ratios_a = a.log_ratios()
    ratios_b = b.log_ratios()
    if ratios_a is None or ratios_b is None:
        return None
    return exponential(difference_interval(ratios_b, ratios_a))  # ln(plain / A) - ln(plain / B) is ln(B / A)


def _shown(ratio: Interval) -> str:
    interval = f" ({ratio.low:.3f}–{ratio.high:.3f})" if math.isfinite(ratio.low) else ""
    return f"{ratio.estimate:.3f}{interval}"


def conclusion_of(to_plain: Interval | None, *, disturbed: bool) -> str:
    """Return a word for such a ratio."""
    if to_plain is None:
        return NONE
    if disturbed:
        return "disturbed"
    least = 1 / (1 + BETWEEN_SESSIONS)
    most = 1 + BETWEEN_SESSIONS
    if to_plain.low > most:
        return "slower"
    if to_plain.high < least:
        return "faster"
    return "no difference" if least <= to_plain.low and to_plain.high <= most else "unclear"
