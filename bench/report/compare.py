"""Two results files of one machine, case by case; refused where the difference would not be the code's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.report.tables import NONE, markdown_list, markdown_table, milliseconds
from bench.results.figures import CaseResult
from bench.results.file import Results
from bench.results.statistics import Interval, difference_interval, exponential
from gan.display.tables import Table
from gan.errors import UsageError

MUST_AGREE = ("cpu", "gpus", "gpu_driver", "platform", "python", "packages")
CAVEAT = (
    "B / A below 1 is faster. 'time' compares steps of two sessions, which a shared machine's own speed moves; "
    "'to plain' compares both with the plain loop they took turns with, which removes most of it. Intervals "
    "(95 %) cover the noise within both files, not that from one session to the next: the same code has differed "
    "by up to 7 % there, so that only what goes beyond 8 % to plain is called slower or faster. A case that was "
    "disturbed throughout, in A or B, is not judged."
)
BETWEEN_SESSIONS = 0.08
"""See docs/log.md, what makes ratios agree between runs."""


@dataclass(frozen=True)
class Comparison:
    """A table, and what to know of it."""

    table: Table
    notes: Sequence[str]

    def markdown(self) -> str:
        """Return it for a pull request."""
        return f"### {self.table.title}\n\n{markdown_table(self.table)}\n\n{markdown_list(self.notes)}"


def comparison(a: Results, b: Results, across: Sequence[str] = ()) -> Comparison:
    """Compare the cases that both files have.

    Raises:
        UsageError: Hardware, versions or settings differ that `across` does not name, or no case is in both.
    """
    environments = (_part(a.environment), _part(b.environment))
    _require_alike(*environments, across)
    mine, other = ({(r.case.workload, r.case.id): r for r in file.cases} for file in (a, b))
    common = [key for key in mine if key in other]
    if not common:
        raise UsageError(f"{a.path} and {b.path}: no case is in both; measure the same --suite and axes")
    unknown = set(lacking(*environments))
    for pair in common:
        settings = (_settings(mine[pair]), _settings(other[pair]))
        _require_alike(*settings, across, where=f"{' '.join(pair)}: ")
        unknown |= set(lacking(*settings))
    rows = [[" ".join(key), *_row(mine[key], other[key])] for key in common]
    columns = ("case", "A ms", "B ms", "time B / A", "to plain B / A", "seen")
    notes = [CAVEAT]
    for name, only in (("A", mine.keys() - other.keys()), ("B", other.keys() - mine.keys())):
        if only:
            notes.append(f"only in {name}: {', '.join(' '.join(key) for key in sorted(only))}")
    if unknown:
        notes.append(
            f"only one of the files says what this was, so it was not compared: {', '.join(sorted(unknown))}"
        )
    files = (("A", a), ("B", b))
    notes += [f"{name} is incomplete" for name, file in files if not file.session["complete"]]
    notes += [f"{name}: {file.path.name}; {file.machine}" for name, file in files]
    expendable = ("time B / A", "A ms", "B ms")
    return Comparison(Table("B over A", columns, 1, rows, expendable), notes)


def _part(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: environment[name] for name in MUST_AGREE if name in environment}


def _settings(result: CaseResult) -> dict[str, Any]:
    rank = result.first_rank
    return {"threads": rank["threads"], "flags": rank["flags"], "accelerate": result.record["accelerate"]}


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the dotted name and both values of each leaf that differs; what only one has is in `lacking`."""
    for name in sorted(a.keys() & b.keys()):
        ours, theirs = a[name], b[name]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from differences(ours, theirs, f"{prefix}{name}.")
        elif ours != theirs:
            yield f"{prefix}{name}", (ours, theirs)


def lacking(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of each key that only one has: a version before or after it was recorded."""
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            yield f"{prefix}{name}"
        elif isinstance(a[name], dict) and isinstance(b[name], dict):
            yield from lacking(a[name], b[name], f"{prefix}{name}.")


def _require_alike(a: Mapping[str, Any], b: Mapping[str, Any], across: Sequence[str], where: str = "") -> None:
    unlike = [(key, values) for key, values in differences(a, b) if key not in across]
    if unlike:
        key, (ours, theirs) = unlike[0]
        others = f" (and {', '.join(name for name, _ in unlike[1:])})" if unlike[1:] else ""
        raise UsageError(
            f"{where}{key} is {ours!r} in A and {theirs!r} in B{others}; measure both alike, or say "
            f"--across {' '.join([*across, *(name for name, _ in unlike)])} if this is what you compare"
        )


def _row(a: CaseResult, b: CaseResult) -> list[str]:
    times = [[np.log(windows) for windows in result.windows(result.arms[0])] for result in (a, b)]
    time = exponential(difference_interval(*times))
    ratios = (a.log_ratios(), b.log_ratios())
    to_plain = None
    if ratios[0] is not None and ratios[1] is not None:
        to_plain = exponential(difference_interval(ratios[1], ratios[0]))
    return [
        milliseconds(a.median()),
        milliseconds(b.median()),
        _shown(time),
        NONE if to_plain is None else _shown(to_plain),
        NONE if to_plain is None else "disturbed" if a.disturbed() or b.disturbed() else _seen(to_plain),
    ]


def _shown(ratio: Interval) -> str:
    interval = f" ({ratio.low:.3f}–{ratio.high:.3f})" if math.isfinite(ratio.low) else ""
    return f"{ratio.estimate:.3f}{interval}"


def _seen(ratio: Interval) -> str:
    least, most = 1 / (1 + BETWEEN_SESSIONS), 1 + BETWEEN_SESSIONS
    if ratio.low > most:
        return "slower"
    if ratio.high < least:
        return "faster"
    return "no difference" if least <= ratio.low and ratio.high <= most else "unclear"
