"""`python -m bench history`: the changes of stored checks against one pinned revision, and where they jumped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from bench.regress.judge import figures_of, looks_of
from bench.regress.record import CheckRecord, checks_folder, read_record, short_revision
from bench.regress.verdict import SHOWN_ERROR, hodges_lehmann, lower_bound, upper_bound
from gan.command_line import optional
from gan.display.tables import Printer, Table
from gan.errors import UsageError
from gan.files.atomic import require_other_files, whole_file
from gan.files.text import in_plot
from gan.process.program import command_of

PENALTY = 4.0
"""Least gain of a change point: so many squared standard errors, times the logarithm of the number of checks."""
LEAST_ERROR = 0.002
"""Standard error of a log ratio below which no check is believed."""


@dataclass(frozen=True)
class HistoryOptions:
    """Show stored regression checks against one revision, in order, with the places where they jumped."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES ...]", help_behavior_hint="")
    ] = ()
    """Files of `python -m bench regress`; by default all in results/regress/."""
    base: Annotated[str | None, optional(str, "TEXT", "the one that most checks have")] = None
    """The beginning of the revision that the checks compared with."""
    plot: Annotated[Path | None, optional(Path, "PATH", "results/regress/history.png")] = None
    """File for the plot."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


@dataclass(frozen=True)
class Point:
    """One check's figure.

    Attributes:
        time: When the check began.
        revision: HEAD's; ends with `+` if its files differ from it.
        value: ln(HEAD / BASE), where BASE is the pinned revision.
        low: Lower end of the 95 % interval of `value`.
        high: Upper end.
    """

    time: str
    revision: str
    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error."""
        return max(LEAST_ERROR, (self.high - self.low) / (2 * 1.96))


def change_points(values: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Return where new levels begin: the segmentation of least squared error plus PENALTY · ln n for each change.

    Errors are in units of the standard error, or of the scale by which neighbours differ if that is larger. All
    segmentations are searched by dynamic programming (Auger & Lawrence 1989).

    >>> change_points([0.0, 0.001, 0.0, 0.05, 0.051, 0.05], [0.002] * 6)
    [3]
    """
    count = len(values)
    if count < 3:
        return []
    array = np.asarray(values)
    # 1.4826 makes a median absolute difference a standard deviation; a difference of two has √2 times that of one.
    scale = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
    weights = 1 / np.maximum(np.asarray(errors), scale) ** 2
    sums = [np.concatenate([[0.0], np.cumsum(weights * array**power)]) for power in range(3)]

    def cost(first: int, end: int) -> float:
        weight, mean, square = (total[end] - total[first] for total in sums)
        return float(square - mean**2 / weight)

    best = [0.0]
    before = [0]
    for end in range(1, count + 1):
        costs = [
            best[first] + cost(first, end) + (PENALTY * math.log(count) if first else 0) for first in range(end)
        ]
        before.append(int(np.argmin(costs)))
        best.append(min(costs))
    changes = []
    end = count
    while end := before[end]:
        changes.append(end)
    return changes[::-1]


def history(options: HistoryOptions) -> None:
    """Print each series and write the plot; raise UsageError where there is nothing to show."""
    paths = options.files or tuple(sorted(checks_folder().glob("*.json")))
    require_other_files({"--plot": options.plot}, paths)
    if not paths:
        raise UsageError(
            f"{checks_folder()}: holds no checks; make some with: {command_of('bench')} regress --base REVISION"
        )
    printer = Printer(wide=options.wide, advice="--wide shows them")
    records = _read_changes(paths, printer)
    base = _pinned(records, options.base)
    series = series_of([record for record in records if record.revisions.base == base])
    if not series:
        raise UsageError(
            f"{', '.join(map(str, paths))}: no check has enough launch pairs for an interval; "
            f"raise --budget in {command_of('bench')} regress"
        )
    for (machine, case, what), points in series.items():
        printer.table(_table_of_series(f"{case}, {what}, over {base[:10]}; {machine}", points))
    plot = options.plot or checks_folder() / "history.png"
    _plot(plot, base, series)
    printer.line(plot)


def _read_changes(paths: Sequence[Path], printer: Printer) -> list[CheckRecord]:
    """Return the checks without injected work; say which files are skipped; raise UsageError if none is left."""
    records = []
    for path in paths:
        try:
            records.append(read_record(path))
        except UsageError as error:
            printer.note(f"skipped: {error}")
    records = [record for record in records if not record.options.inject]
    if not records:
        raise UsageError(f"no check of a change in {', '.join(map(str, paths))}: work was injected, or see above")
    return records


def _pinned(records: Sequence[CheckRecord], beginning: str | None) -> str:
    """Return the BASE, of those that begin so, that most checks are against; raise UsageError if there is none."""
    bases = [record.revisions.base for record in records]
    matching = [base for base in bases if beginning is None or base.startswith(beginning)]
    if not matching:
        known = ", ".join(sorted(set(bases)))
        raise UsageError(f"--base {beginning}: no check was against it; choose one of {known}")
    return max(matching, key=matching.count)


Series = dict[tuple[str, str, str], list[Point]]


def series_of(records: Sequence[CheckRecord]) -> Series:
    """Return the points of each machine, case and figure, in order of time; machines are never mixed.

    A start-up is that of the first case of a check.

    Checks of too few pairs for an interval are left out.
    """
    series: Series = {}
    for record in sorted(records, key=lambda record: record.time):
        most_pairs = looks_of(record)[-1].pairs
        for figure in figures_of(record):
            values = figure.log_ratios[:most_pairs]
            low = lower_bound(values, SHOWN_ERROR)
            high = upper_bound(values, SHOWN_ERROR)
            if not figure.is_tested or not math.isfinite(high - low):
                continue
            point = Point(record.time, record.revisions.head, hodges_lehmann(values), low, high)
            case = figure.case or next(iter(record.cases))  # whose first step ends the start-up
            series.setdefault((record.machine, case, figure.what), []).append(point)
    return series


def _table_of_series(title: str, points: Sequence[Point]) -> Table:
    changes = _changes_of(points)
    rows = [
        [
            point.time[:16].replace("T", " "),
            short_revision(point.revision),
            f"{math.expm1(point.value):+.1%}",
            f"{math.expm1(point.low):+.1%} to {math.expm1(point.high):+.1%}",
            "◄ changed" if index in changes else "",
        ]
        for index, point in enumerate(points)
    ]
    columns = ("time", "revision", "change", "95 % interval", "")
    return Table(title, columns, 2, rows, columns[3:4])


def _changes_of(points: Sequence[Point]) -> list[int]:
    return change_points([point.value for point in points], [point.error for point in points])


def _plot(path: Path, base: str, series: Series) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.4 * len(series)), layout="constrained")
    axes = figure.subplots(len(series), 1, squeeze=False)
    for axis, ((_, case, what), points) in zip(axes[:, 0], series.items(), strict=True):
        change = [100 * math.expm1(point.value) for point in points]
        spread = [
            [value - 100 * math.expm1(point.low) for value, point in zip(change, points, strict=True)],
            [100 * math.expm1(point.high) - value for value, point in zip(change, points, strict=True)],
        ]
        axis.errorbar(range(len(points)), change, yerr=spread, fmt="o", markersize=4, capsize=2)
        axis.axhline(0, color="0.6", linewidth=0.8)
        for index in _changes_of(points):
            axis.axvline(index - 0.5, color="tab:red", linestyle="--")
        axis.set_xticks(
            range(len(points)), [in_plot(short_revision(point.revision, 7)) for point in points], rotation=45
        )
        axis.set_ylabel("change, %")
        axis.set_title(in_plot(f"{case}, {what}, over {base[:10]}"), fontsize=9)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
