"""Results as one HTML page with plots, which opens offline."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from bench.report.tables import LEGEND, heading, notes, session_notes, tables
from bench.results.figures import CaseResult
from bench.results.file import Results
from bench.suite.cases import AXES
from gan.display.tables import Table
from gan.files.text import in_page, in_plot

STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { margin-top: 3rem; border-bottom: 1px solid #d0d7de; font-size: 1.3rem }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eaeef2 }
th { font-weight: 600; border-bottom: 1px solid #8c959f } .label { text-align: left }
figure { margin: 1.5rem 0 } figure svg { max-width: 100%; height: auto } figcaption, .small { color: #57606a }
code { background: #f3f5f7; padding: .1rem .3rem; border-radius: 3px }
"""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#8c959f"
WINDOW_LIMITS = (0.5, 2.0)
LABEL_DECADES = 0.05


def page(files: Sequence[Results]) -> str:
    """Return the page."""
    parts = [f"<h1>GAN benchmark results</h1><p class=small>{in_page(LEGEND)}</p>"]
    for file in files:
        cases = file.cases
        parts.append(f"<h2>{in_page(heading(file))}</h2><p>{in_page(file.machine)}</p>")
        parts.append(f"<p><code>{in_page(' '.join(file.environment['command']))}</code></p>")
        parts += [_figure(caption, drawn) for caption, draw in FIGURES if (drawn := draw(cases)) is not None]
        parts += [_table(table) for table in tables(cases)]
        said = (*session_notes(file.session), *notes(cases))
        parts.append(f"<h3>Notes</h3><ul>{''.join(f'<li>{in_page(note)}</li>' for note in said)}</ul>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>GAN benchmark results</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        shown = (
            f"<{tag}{' class=label' if index < table.num_labels else ''}>{in_page(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    head = row(table.columns, "th")
    return f"<h3>{in_page(table.title)}</h3><div class=wide><table>{head}{body}</table></div>"


def _figure(caption: str, figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawn = file.getvalue()
    return f"<figure>{drawn[drawn.index('<svg') :]}<figcaption>{in_page(caption)}</figcaption></figure>"


def _bars(num_rows: int) -> Figure:
    return Figure(figsize=(9, 1.2 + 0.32 * num_rows), layout="constrained")


def _throughput(cases: Sequence[CaseResult]) -> Figure | None:
    steps = [case for case in cases if case.case.workload == "step"]
    if not steps:
        return None
    figure = _bars(len(steps))
    axes = figure.add_subplot(xlabel="images/s")
    own = [case.images_per_second() for case in steps]
    plain = [case.images_per_second("plain") if "plain" in case.arms else 0.0 for case in steps]
    rows = np.arange(len(steps))
    axes.barh(rows - 0.2, own, 0.4, color=COLOURS[0], label="this suite's step")
    axes.barh(rows + 0.2, plain, 0.4, color=GREY, label="plain tutorial loop")
    for row, case, rate in zip(rows, steps, own, strict=True):
        ratio = case.times_plain()
        if ratio is not None:
            axes.annotate(f" {ratio.estimate:.2f} ×", (rate, row - 0.2), va="center", fontsize=8)
    axes.set_yticks(rows, [in_plot(case.case.id) for case in steps], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _windows(cases: Sequence[CaseResult]) -> Figure | None:
    timed = [case for case in cases if case.case.workload != "startup"]
    if not timed:
        return None
    figure = _bars(len(timed))
    axes = figure.add_subplot(xlabel="window over the case's median")
    relative = [
        np.clip(np.concatenate(case.windows(case.arms[0])) / case.median(), *WINDOW_LIMITS) for case in timed
    ]
    axes.boxplot(
        relative,
        orientation="horizontal",
        whis=(5, 95),
        widths=0.6,
        tick_labels=[in_plot(f"{case.case.workload} {case.case.id}") for case in timed],
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": GREY},
        medianprops={"color": COLOURS[1]},
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linewidth=0.5)
    return figure


def _scaling(cases: Sequence[CaseResult]) -> Figure | None:
    chosen = [case for case in cases if case.case.workload == "scaling"]
    most = max((case.case.num_processes for case in chosen), default=1)
    if most == 1:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="processes", ylabel="images/s over one process's")
    axes.plot([1, most], [1, most], "--", color=GREY, label="ideal")
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for case in chosen:
        speedup = case.speedup()
        if case.case.num_processes > 1 and speedup is not None:
            name = ", ".join(case.case.labels(each for each in AXES if each not in ("num_processes", "scaling")))
            lines.setdefault((name, case.case.scaling), [(1, 1.0)]).append((case.case.num_processes, speedup))
    for index, ((name, scaling), points) in enumerate(lines.items()):
        marker = "o-" if scaling == "weak" else "s:"
        axes.plot(
            *zip(*sorted(points), strict=True),
            marker,
            color=COLOURS[index % len(COLOURS)],
            label=in_plot(f"{name}, {scaling}"),
        )
    axes.set_xticks(sorted({1, *(case.case.num_processes for case in chosen)}))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _roofline(cases: Sequence[CaseResult]) -> Figure | None:
    placed = [case for case in cases if case.floor_seconds() is not None]
    if not placed:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="FLOPs per least byte", ylabel="GFLOP/s", xscale="log", yscale="log")
    kinds = list(dict.fromkeys((case.case.device, case.case.precision) for case in placed))
    intensities = [case.facts["flops_per_step"] / case.facts["least_bytes_per_step"] for case in placed]
    span = np.geomspace(min(intensities) / 20, max(intensities) * 30, 100)
    for index, kind in enumerate(kinds):
        chosen = [case for case in placed if (case.case.device, case.case.precision) == kind]
        flops, copied = (max(case.peak(arm) or 0 for case in chosen) for arm in ("peak_product", "peak_copy"))
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(
            span, np.minimum(flops, span * copied) / 1e9, color=colour, linewidth=1, label=in_plot(", ".join(kind))
        )
    points = [
        ((case.flops_per_second() or 0) / 1e9, intensity, case)
        for case, intensity in zip(placed, intensities, strict=True)
    ]
    free = 0.0
    for rate, intensity, case in sorted(points, key=lambda point: point[0]):
        colour = COLOURS[kinds.index((case.case.device, case.case.precision)) % len(COLOURS)]
        axes.plot(intensity, rate, "o" if case.case.compile == "no" else "^", color=colour, markersize=5)
        height = max(rate, free)
        free = height * 10**LABEL_DECADES
        axes.annotate(
            in_plot(case.case.id),
            (intensity, rate),
            (max(intensities) * 1.5, height),
            va="center",
            fontsize=7,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.3},
        )
    axes.legend(frameon=False, fontsize=8)
    return figure


FIGURES: tuple[tuple[str, Callable[[Sequence[CaseResult]], Figure | None]], ...] = (
    ("Throughput of the training step, and how many times the plain tutorial loop's it is.", _throughput),
    (
        "Windows of each case: boxes from the 25th to the 75th percentile, whiskers from the 5th to the 95th. "
        "Windows beyond the edge are drawn on it.",
        _windows,
    ),
    (
        "Scaling: weak keeps the batch of a process, strong that of all; against one process alone.",
        _scaling,
    ),
    ("Roofline: lines are this machine's measured peaks, points are steps; triangles are compiled.", _roofline),
)
