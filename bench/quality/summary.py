"""Submissions as a table: how many seeds met the target, after how many images and seconds."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy import stats

from bench.quality.submission import CONFIDENCE, Interval, Submission
from bench.report.cells import three_digits
from gan.display.tables import Printer, Table
from gan.files.text import significant


def show(submissions: Sequence[Submission], *, wide: bool = False) -> None:
    """Print the first submission beside the others, and how many times as fast it is.

    Args:
        submissions: At least one.
        wide: Whether all columns are shown, however narrow the terminal is.
    """
    first, *others = submissions
    rules = first.rules
    columns = ("submission", "seeds", "failed", "images", "seconds", "s per success", "fid")
    printer = Printer(wide=wide, advice="--wide shows them")
    for other in others:
        printer.note(_speed(first, other))
    rows = [*map(_row, submissions)]
    title = f"to a Fréchet distance of {rules.target:g}"
    printer.table(Table(title, columns, 1, rows, ("fid", "images", "seconds", "failed")))
    for submission in submissions:
        printer.note(f"{submission.name}: {submission.machine}")


def _row(submission: Submission) -> list[str]:
    reached = submission.reached
    cells = [submission.name, str(len(submission.seeds)), str(submission.num_failed)]
    if not reached:
        return [*cells, "", "", "", ""]
    images = Interval.of([float(seed.images) for seed in reached])
    seconds = Interval.of([seed.seconds for seed in reached])
    fid = Interval.of([seed.course[-1].fid for seed in reached])
    return [
        *cells,
        _cell(images, "{:,.0f}".format),
        _cell(seconds, partial(significant, digits=3)),
        significant(submission.seconds_per_success, 4),
        significant(fid.mean, 4),
    ]


def _cell(interval: Interval, form: Callable[[float], str]) -> str:
    if math.isnan(interval.half_width):
        return form(interval.mean)
    return f"{form(interval.mean)} ± {form(interval.half_width)}"


def _speed(ours: Submission, other: Submission) -> str:
    """Return how many times as fast ours is, by geometric means over the seeds that met the target."""
    if other.rules != ours.rules:
        return f"{other.name}: by other rules, so the two do not compare"
    logs = [np.log([seed.seconds for seed in side.reached]) for side in (other, ours)]
    if min(map(len, logs)) < 1:
        return f"{ours.name} beside {other.name}: one of them has no seed that met the target"
    ratio = math.exp(float(logs[0].mean() - logs[1].mean()))
    interval = ""
    if min(map(len, logs)) > 1:
        limits = stats.ttest_ind(*logs, equal_var=False).confidence_interval(CONFIDENCE)
        interval = f" ({three_digits(math.exp(limits.low))} to {three_digits(math.exp(limits.high))}, 95 %)"
    return f"{ours.name}: {three_digits(ratio)}{interval} times as fast as {other.name}"
