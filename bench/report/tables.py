"""Tables of results, for the terminal and as Markdown."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bench.results.figures import CaseResult
from bench.results.file import Results
from bench.stability.equivalence import samples_of
from bench.suite.cases import AXES
from gan.display.tables import Printer, Table
from gan.files.text import in_markdown, printable

NONE = "–"
NOT_FINITE = "not finite"


Column = tuple[str, Callable[[CaseResult], str]]


def _finite(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else NOT_FINITE


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return NONE if value is None else form.format(value)


def milliseconds(seconds: float | None) -> str:
    """Return seconds as milliseconds of three digits or more."""
    if seconds is None:
        return NONE
    value = 1000 * seconds
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return _number(value, "{:.1%}")


def _mebibytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f}"


def _times_plain(result: CaseResult) -> str:
    ratio = result.times_plain()
    if ratio is None:
        return NONE
    half_width = (ratio.high - ratio.low) / 2
    return f"{ratio.estimate:.2f}" + (f" ± {half_width:.2f}" if math.isfinite(half_width) else "")


def _compile(result: CaseResult) -> str:
    seconds = result.mean("compile_seconds")
    return f"{seconds:.1f}" if seconds else NONE


TIME: Column = ("ms/step", lambda result: milliseconds(result.median()))
IQR: Column = ("IQR", lambda result: _percent(result.relative_iqr))
RATE: Column = ("images/s", lambda result: f"{result.images_per_second():,.0f}")
PLAIN: Column = ("× plain", _times_plain)
MEMORY: Column = ("peak MiB", lambda result: _mebibytes(result.peak_bytes()))
COMPILE: Column = ("compile s", _compile)
KEPT = (IQR[0], RATE[0], PLAIN[0])
"""What goes last where a terminal is too narrow, in this order."""


def _efficiency(result: CaseResult) -> str:
    speedup = result.speedup()
    return NONE if speedup is None else _percent(speedup / result.case.num_processes)


def _slowest(result: CaseResult) -> str:
    seconds = result.rank_seconds()
    return NONE if seconds is None else str(seconds.index(max(seconds)))


def _spread(result: CaseResult) -> str:
    seconds = result.rank_seconds()
    return NONE if seconds is None else f"{max(seconds) / min(seconds) - 1:.1%}"


def _part(name: str) -> Column:
    return f"{name} s", lambda result: _number(result.startup().get(name))


def _tier(name: str) -> Column:
    def cell(result: CaseResult) -> str:
        passed = [check["passed"] for check in result.checks() if check["tier"] == name]
        return f"{sum(passed)} of {len(passed)}" if passed else NONE

    return name, cell


def _verdict(result: CaseResult) -> str:
    if not result.checks():
        return NONE
    return "FAIL" if result.failed_checks() else "undecided" if result.undecided_checks() else "pass"


def _gradient(player: str) -> Column:
    def cell(result: CaseResult) -> str:
        found = [
            check for check in result.checks() if check["name"] == f"{player}'s gradients" and check["reference"]
        ]
        return " ".join(map(_times_reference, found)) or NONE

    return f"{player[0].upper()}'s gradient error", cell


def _times_reference(check: Mapping[str, Any]) -> str:
    value = check["value"]
    return NOT_FINITE if value is None else f"{value:.0e} ({value / check['reference']:,.1f}×)"


def _over_seeds(metric: str) -> Callable[[CaseResult], str]:
    def cell(result: CaseResult) -> str:
        sample = samples_of(result.facts["seeds"])[metric]
        return f"{sample.mean:.3g} ± {sample.sd:.2g}" if math.isfinite(sample.mean) else NOT_FINITE

    return cell


TABLES: dict[str, tuple[str, Sequence[Column]]] = {
    "step": (
        "Training step",
        (
            TIME,
            IQR,
            RATE,
            PLAIN,
            ("roofline", lambda result: _percent(result.roofline_fraction())),
            ("products", lambda result: _percent(result.share("products"))),
            MEMORY,
            ("first s", lambda result: _number(result.startup()["first step"])),
            COMPILE,
        ),
    ),
    "scaling": (
        "Scaling",
        (
            TIME,
            IQR,
            RATE,
            ("× one process", lambda result: _number(result.speedup())),
            ("efficiency", _efficiency),
            ("communication", lambda result: _percent(result.communication_share())),
            ("slowest rank", _slowest),
            ("rank spread", _spread),
            PLAIN,
        ),
    ),
    "phases": ("Phases of the step", ()),
    "epoch": (
        "Whole epoch",
        (("s/epoch", lambda result: _number(result.median())), IQR, RATE, PLAIN),
    ),
    "sampling": ("Sampling", (("ms/batch", TIME[1]), IQR, RATE, PLAIN, MEMORY, COMPILE)),
    "checkpoint": (
        "Checkpoint",
        (
            ("save ms", TIME[1]),
            IQR,
            ("load ms", lambda result: milliseconds(result.median("load"))),
            ("MiB", lambda result: _mebibytes(result.facts["checkpoint_bytes"])),
            ("MiB/s saved", lambda result: f"{result.facts['checkpoint_bytes'] / 2**20 / result.median():,.0f}"),
            ("× torch.save", _times_plain),
        ),
    ),
    "startup": (
        "Start to the end of the first step",
        (
            ("in all s", lambda result: _number(result.median())),
            *map(_part, ("launcher", "imports", "prepare", "first step")),
            COMPILE,
        ),
    ),
    "stability": (
        "Loss stability",
        (
            ("verdict", _verdict),
            *map(_tier, ("T0", "T1", "T2", "T4")),
            *map(_gradient, ("discriminator", "generator")),
        ),
    ),
    "convergence": (
        "What seeds come to",
        (
            ("verdict", _verdict),
            ("seeds", lambda result: str(len(result.facts["seeds"]))),
            *((name, _over_seeds(name)) for name in ("loss_d", "loss_g", "fid", "coverage", "images_to_quality")),
        ),
    ),
    "time_to_quality": (
        "Time to quality",
        (
            ("verdict", _verdict),
            ("target FID", lambda result: f"{result.facts['quality']['target_fid']:.2f}"),
            ("FID", lambda result: _finite(result.facts["quality"]["fid"], "{:.2f}")),
            ("s", lambda result: f"{result.median():.1f}"),
            ("images", lambda result: f"{result.facts['quality']['images']:,}"),
        ),
    ),
}


def tables(results: Sequence[CaseResult]) -> list[Table]:
    """Return a table per workload, in the order of TABLES; axes that do not vary stand in its title."""
    made = []
    for workload, (title, columns) in TABLES.items():
        chosen = [result for result in results if result.case.workload == workload]
        if not chosen:
            continue
        varying = [name for name in AXES if len({getattr(result.case, name) for result in chosen}) > 1]
        varying = varying or ["recipe"]
        constant = chosen[0].case.labels(name for name in AXES if name not in varying)
        heading = f"{title}: {', '.join(constant)}"
        labels = [[AXES[name].label(getattr(result.case, name)) for name in varying] for result in chosen]
        if workload == "phases":
            columns = [("phase", str), *((name, str) for name in ("ms", "of the step", "images/s"))]
            rows = [
                [*label, *row] for result, label in zip(chosen, labels, strict=True) for row in _phases(result)
            ]
        else:
            rows = [
                [*label, *(cell(result) for _, cell in columns)]
                for result, label in zip(chosen, labels, strict=True)
            ]
        names = [*(AXES[name].column for name in varying), *(name for name, _ in columns)]
        num_labels = len(varying) + (workload == "phases")
        others = [name for name in names[:num_labels:-1] if name not in KEPT]
        expendable = (*others, *(name for name in KEPT if name in names[num_labels + 1 :]))
        made.append(Table(heading, names, num_labels, rows, expendable))
    return made


def _phases(result: CaseResult) -> Iterable[list[str]]:
    parts = [arm for arm in result.arms if arm not in ("step", "plain")]
    seconds = {"step": result.median(), **{arm: result.median(arm) for arm in parts}}
    seconds["rest"] = max(0.0, seconds["step"] - sum(seconds[arm] for arm in parts))
    for name, value in seconds.items():
        rate = f"{result.images_per_step('step') / value:,.0f}" if value else NONE
        yield [name, milliseconds(value) if value else "0", _percent(value / seconds["step"]), rate]


def notes(results: Sequence[CaseResult]) -> list[str]:
    """Return what to know of the figures: peaks measured, and each case's warnings."""
    said = []
    for device, precision in dict.fromkeys((result.case.device, result.case.precision) for result in results):
        chosen = [
            result for result in results if (result.case.device, result.case.precision) == (device, precision)
        ]
        flops = [peak for result in chosen if (peak := result.peak("peak_product"))]
        copied = [peak for result in chosen if (peak := result.peak("peak_copy"))]
        if flops and copied:
            said.append(
                f"{device}, {precision}: matrix products up to {max(flops) / 1e9:,.0f} GFLOP/s, "
                f"copies up to {max(copied) / 1e9:,.1f} GB/s, measured in the same processes"
            )
    for result in results:
        said += [f"{result.case.workload} {result.case.id}: {warning}" for warning in result.warnings()]
    return said


def session_notes(session: Mapping[str, Any]) -> list[str]:
    """Return what is missing from a session."""
    said = [] if session["complete"] else ["INCOMPLETE: the session was interrupted, or cases failed"]
    said += [
        f"failed: {each['case']}: {next(iter(each['reason'].splitlines()), '')}" for each in session["failed"]
    ]
    skipped: dict[str, int] = {}
    for each in session["skipped"]:
        skipped[each["reason"]] = skipped.get(each["reason"], 0) + 1
    return said + [f"skipped: {count} case(s): {reason}" for reason, count in skipped.items()]


LEGEND = (
    "ms/step: median over windows; IQR: their interquartile range over it. × plain: images/s over those of the "
    "plain tutorial loop in the same process, windows taking turns, with the 95 % interval of noise in the run. "
    "roofline: the least time of the step's FLOPs and bytes at this machine's measured peaks, over its time. "
    "products: the step's matrix products alone, over its time. compile s: time in torch.compile, its cache empty."
    " Sampling's plain loop is the tutorial's network; torch.save neither verifies nor syncs."
)


def show(printer: Printer, results: Sequence[CaseResult], session: Mapping[str, Any], machine: str) -> None:
    """Print tables, notes and the machine."""
    for table in tables(results):
        printer.table(table)
    for note in (*session_notes(session), *notes(results)):
        printer.note(note)
    printer.line(machine)


def heading(file: Results) -> str:
    """Return a file's suite and time."""
    return f"{file.session['suite']}, {file.environment['time'][:16].replace('T', ' ')} UTC"


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    rules = ["---" if index < table.num_labels else "---:" for index in range(len(table.columns))]
    rows = (table.columns, rules, *table.rows)
    return "\n".join("| " + " | ".join(map(in_markdown, row)) + " |" for row in rows)


def markdown_list(said: Sequence[str]) -> str:
    """Return notes as a list in Markdown."""
    return "\n".join(f"- {in_markdown(note)}" for note in said)


def markdown(files: Sequence[Results]) -> str:
    """Return the files as Markdown, for a pull request or a README."""
    parts = ["# Results", "Made by `python -m bench report --format markdown`.", LEGEND]
    for file in files:
        command = printable(" ".join(file.environment["command"])).replace("`", "'")
        parts += [f"## {in_markdown(heading(file))}", f"{in_markdown(file.machine)}.", f"`{command}`"]
        for table in tables(file.cases):
            parts += [f"### {in_markdown(table.title)}", markdown_table(table)]
        parts.append(markdown_list((*session_notes(file.session), *notes(file.cases))))
    return "\n\n".join(filter(None, parts)) + "\n"
