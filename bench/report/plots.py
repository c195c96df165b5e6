"""Figures of the page: throughput, windows, scaling and the roofline."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.time_bars import time_bars
from bench.results.case_result import CaseResult
from bench.results.figures import floor_seconds, flops_per_second, peak, speedup
from bench.suite.cases import AXES
from gan.files.text import in_plot

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#8c959f"
WINDOW_LIMITS = (0.5, 2.0)
LABEL_DECADES = 0.05
"""Least distance between two labels of the roofline, in powers of ten."""


def _bars(num_rows: int) -> Figure:
    return Figure(figsize=(9, 1.2 + 0.32 * num_rows), layout="constrained")


def _throughput(steps: Sequence[CaseResult]) -> Figure:
    figure = _bars(len(steps))
    axes = figure.add_subplot(xlabel="images/s")
    own = [case.images_per_second() for case in steps]
    plain = [case.images_per_second("plain") if "plain" in case.seconds_per_step else 0.0 for case in steps]
    rows = np.arange(len(steps))
    axes.barh(rows - 0.2, own, 0.4, color=COLOURS[0], label="this suite's step")
    axes.barh(rows + 0.2, plain, 0.4, color=GREY, label="plain loop")
    for row, case, rate in zip(rows, steps, own, strict=True):
        if case.times_plain is not None:
            label = f" {case.times_plain.estimate:.2f} ×"
            axes.annotate(label, (rate, row - 0.2), va="center", fontsize=8)
    axes.set_yticks(rows, [in_plot(case.case.id) for case in steps], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def _windows(cases: Sequence[CaseResult]) -> Figure | None:
    timed = [case for case in cases if case.workload.in_windows]
    if not timed:
        return None
    figure = _bars(len(timed))
    axes = figure.add_subplot(xlabel="window over the case's median")
    relative = [
        np.clip(np.concatenate(case.seconds_per_step[case.own_arm]) / case.median(), *WINDOW_LIMITS)
        for case in timed
    ]
    axes.boxplot(
        relative,
        orientation="horizontal",
        whis=(5, 95),
        widths=0.6,
        tick_labels=[in_plot(case.name) for case in timed],
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": GREY},
        medianprops={"color": COLOURS[1]},
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linewidth=0.5)
    return figure


def _scaling(chosen: Sequence[CaseResult]) -> Figure | None:
    most = max(case.case.num_processes for case in chosen)
    lines = _speedups(chosen)
    if most == 1 or not lines:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="processes", ylabel="images/s over one process's")
    axes.plot([1, most], [1, most], "--", color=GREY, label="ideal")
    for index, ((name, scaling), points) in enumerate(lines.items()):
        num_processes, speedups = zip(*sorted(points), strict=True)
        marker = "o-" if scaling == "weak" else "s:"
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(num_processes, speedups, marker, color=colour, label=in_plot(f"{name}, {scaling}"))
    axes.set_xticks(sorted({1, *(case.case.num_processes for case in chosen)}))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _speedups(cases: Sequence[CaseResult]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return points of (processes, speedup) for each configuration and scaling."""
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    others = [name for name in AXES if name not in ("num_processes", "scaling")]
    for result in cases:
        case = result.case
        times_one = speedup(result)
        if case.num_processes > 1 and times_one is not None:
            key = (", ".join(case.labels(others)), case.scaling)
            points.setdefault(key, [(1, 1.0)]).append((case.num_processes, times_one))
    return points


def _roofline(cases: Sequence[CaseResult]) -> Figure | None:
    placed = [case for case in cases if floor_seconds(case) is not None]
    if not placed:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="FLOPs per least byte", ylabel="GFLOP/s", xscale="log", yscale="log")
    kinds = list(dict.fromkeys((case.case.device, case.case.precision) for case in placed))
    colours = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    intensities = [_intensity(case) for case in placed]
    span = np.geomspace(min(intensities) / 20, max(intensities) * 100, 100)
    for kind in kinds:
        chosen = [case for case in placed if (case.case.device, case.case.precision) == kind]
        product_flops, copied_bytes = (
            max(peak(case, arm) or 0 for case in chosen) for arm in ("peak_product", "peak_copy")
        )
        line = np.minimum(product_flops, span * copied_bytes) / 1e9
        axes.plot(span, line, color=colours[kind], linewidth=1, label=in_plot(", ".join(kind)))
    _place_steps(axes, placed, colours, label_at=max(intensities) * 1.5)
    figure.legend(loc="outside upper right", ncols=len(kinds), frameon=False, fontsize=8)
    return figure


def _intensity(result: CaseResult) -> float:
    return result.facts.flops_per_step / result.facts.least_bytes_per_step


def _place_steps(
    axes: Axes, placed: Sequence[CaseResult], colours: Mapping[tuple[str, str], str], label_at: float
) -> None:
    """Draw a point for each step, and its name to the right of all points, above the name of the step before.

    A name has the recipe and what differs between the steps, because whole ids are longer than the plot is wide.
    """
    cases = [result.case for result in placed]
    told = [name for name in AXES if name == "recipe" or len({getattr(case, name) for case in cases}) > 1]
    free_height = 0.0
    for result in sorted(placed, key=_gigaflops):
        case = result.case
        rate = _gigaflops(result)
        colour = colours[case.device, case.precision]
        axes.plot(_intensity(result), rate, "o" if case.compile == "no" else "^", color=colour, markersize=5)
        height = max(rate, free_height)
        free_height = height * 10**LABEL_DECADES
        axes.annotate(
            in_plot("-".join(case.labels(told)) or case.id),
            (_intensity(result), rate),
            (label_at, height),
            va="center",
            fontsize=7,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.3},
        )


def _gigaflops(result: CaseResult) -> float:
    return (flops_per_second(result) or 0) / 1e9


FIGURES: dict[str, tuple[str, Callable[[Sequence[CaseResult]], Figure | None]]] = {
    "throughput": ("Throughput of the training step, and that of the plain loop.", _throughput),
    "windows": (
        "Windows of each case: boxes from the 25th to the 75th percentile, whiskers from the 5th to the 95th. "
        "Windows beyond the edge of the plot are drawn on its edge.",
        _windows,
    ),
    "time": (
        "Where the time of a step goes: its phases or parts above, and the operators of each part below, if the "
        "case was profiled.",
        time_bars,
    ),
    "scaling": (
        "Scaling against one process alone. Weak: each process keeps its batch. Strong: the processes split it.",
        _scaling,
    ),
    "roofline": (
        "Roofline: lines are the measured peaks of this machine, points are steps, triangles are compiled.",
        _roofline,
    ),
}
"""Caption, and what draws the cases whose workload names the figure; None if there is nothing to see."""


def figures(cases: Sequence[CaseResult]) -> Iterator[tuple[str, Figure]]:
    """Yield caption and figure of all that cases have something to show in."""
    for name, (caption, draw) in FIGURES.items():
        chosen = [case for case in cases if name in case.workload.figures]
        if chosen and (figure := draw(chosen)) is not None:
            yield caption, figure
