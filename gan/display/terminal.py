"""What a person sees: of a run a live bar on a terminal and plain lines elsewhere; and tables and notes."""

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import IO, Any

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from gan.files.text import printable
from gan.quality.scores import MEANING

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_STEPS = 10.0
LEAST_WIDTH = 20
LEAST_LABEL = 12
"""Characters of a label's line before a number's column is left out; longer labels take several lines."""
WIDTH_OF_NOTES = 160
"""Where no terminal shows them."""
FEWEST_OF_LABEL = 4
"""Where no number's column is left to leave out."""
GAP = 2
"""Between columns; half of it on both sides of the table."""


class Display:
    """Shows steps, epochs and messages of the main process."""

    def __init__(self, *, enabled: bool, total_steps: int, console: Console | None = None) -> None:
        self.console = console or Console(quiet=not enabled, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not enabled or not self.console.file.isatty(),  # FORCE_COLOR makes no terminal
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=total_steps, metrics="")
        self._total_steps = total_steps
        self._last_line = time.monotonic()
        self._last_step = -math.inf

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self.console.print(printable(message), markup=False, soft_wrap=True)

    def due(self) -> bool:
        """Say whether a step's line is: after the first step, and when nothing was shown for some seconds."""
        return not self.console.quiet and time.monotonic() - self._last_step >= SECONDS_BETWEEN_STEPS

    def step(self, step: int, description: str, metrics: Mapping[str, Any], seconds_left: float) -> None:
        """Move the bar; with losses and probabilities it fits 80 columns. Print a line where there is no bar."""
        short = (
            "{images_per_second:,.0f} images/s D {loss_d:.2f} G {loss_g:.2f} real {p_real:.2f} fake {p_fake:.2f}"
        )
        self._bar.update(self._task, completed=step, description=description, metrics=short.format(**metrics))
        if not self.console.file.isatty() and self.due():
            left = timedelta(seconds=round(seconds_left))
            self.say(f"{description}  step {step:,}/{self._total_steps:,}  {format_metrics(metrics)}  {left} left")
        self._last_step = time.monotonic()

    def epoch(self, epoch: int, epochs: int, metrics: Mapping[str, Any]) -> None:
        """Print an epoch's line, unless the last one is less than a few seconds old and more will come.

        Scores are printed whenever there are some.
        """
        now, scores = time.monotonic(), format_scores(metrics)
        if epoch == epochs or now - self._last_line >= SECONDS_BETWEEN_LINES or scores:
            self._last_line = self._last_step = now
            self.say(f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {format_metrics(metrics)}")
        if scores:
            self.say(f"  scores: {scores}")


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """Return images/s, losses and probabilities as one short line; what is None is left out."""
    parts = [f"{metrics['images_per_second']:,.0f} images/s"]
    for name, label in (
        ("loss_d", "loss D"),
        ("loss_g", "G"),
        ("p_real", "p(real)"),
        ("p_fake", "p(fake)"),
        ("test_p_real", "test p(real)"),
        ("test_p_fake", "test p(fake)"),
    ):
        if metrics.get(name) is not None:
            parts.append(f"{label} {metrics[name]:.3f}")
    return "  ".join(parts)


def format_scores(metrics: Mapping[str, Any]) -> str:
    """Return the scores among an epoch's metrics as one line; empty where there are none."""
    return "  ".join(" ".join(published(name, metrics[name])) for name in MEANING if metrics.get(name) is not None)


def published(name: str, value: float) -> tuple[str, str]:
    """Return a score's label and number in the unit in which papers print it: KID in thousandths."""
    if name == "kid":
        return "kid ×10³", f"{1000 * value:.4g}"
    return name, f"{value:,}" if name == "modes" else f"{value:.4g}"


@dataclass(frozen=True)
class Table:
    """Cells, ready for any format. The first `num_labels` columns are names, the others numbers.

    Attributes:
        title: Above it.
        columns: Their names.
        num_labels: How many are names.
        rows: Of cells.
        expendable: Columns to leave out of a narrow terminal, the first one first; all numbers but the first, from
            the last one on, where none are named.
    """

    title: str
    columns: Sequence[str]
    num_labels: int
    rows: Sequence[Sequence[str]]
    expendable: Sequence[str] = ()


class Printer:
    """Prints tables as wide as the terminal, or as they are where there is none, and notes. Numbers stay whole."""

    def __init__(
        self, file: IO[str] | None = None, *, wide: bool = False, advice: str = "a wider terminal shows them"
    ) -> None:
        """Print to a file, or standard output.

        Args:
            file: Where to.
            wide: Leave no column out.
            advice: Follows the names of the columns left out: how to see them.
        """
        self._console = Console(file=file, highlight=False)
        narrow = self._console.file.isatty() or "COLUMNS" in os.environ
        self._console.width = max(LEAST_WIDTH, shutil.get_terminal_size().columns) if narrow else WIDTH_OF_NOTES
        self._room = self._console.width if narrow and not wide else None
        self._advice = advice

    def heading(self, text: str) -> None:
        """Print a line across."""
        self._console.rule(Text(printable(text)))

    def line(self, text: object) -> None:
        """Print a line, however long."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a note, which may take several lines."""
        self._console.print(f"• {printable(text)}", markup=False)

    def table(self, table: Table) -> None:
        """Print a table, and which columns it lacks."""
        cells = [[printable(cell) for cell in row] for row in (table.columns, *table.rows)]
        widths = {index: max(map(cell_len, column)) for index, column in enumerate(zip(*cells, strict=True))}
        left_out = [] if self._room is None else _fit(table, cells, widths, self._room)
        self._console.print(Text(printable(table.title), "italic"))
        shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for index, width in widths.items():
            justify: Any = "left" if index < table.num_labels else "right"
            shown.add_column(Text(cells[0][index]), justify=justify, width=width, overflow="fold")
        for row in cells[1:]:
            shown.add_row(*(Text(row[index]) for index in widths))
        narrow, self._console.width = self._console.width, max(self._console.width, _total(widths))
        self._console.print(shown)
        self._console.width = narrow
        if left_out:
            self._console.print(f"left out for lack of width: {', '.join(left_out)}; {self._advice}", markup=False)


def _fit(table: Table, cells: Sequence[Sequence[str]], widths: dict[int, int], room: int) -> list[str]:
    """Make columns fit where they do not: wrap names, leave numbers out; return the names of those left out.

    Where nothing is left to leave out, the table stays too wide.
    """
    labels = range(table.num_labels)
    if _total(widths) > room:
        for index in widths.keys() - set(labels):
            words = cells[0][index].split() or [""]
            widths[index] = max(cell_len(text) for text in (*words, *(row[index] for row in cells[1:])))
    chosen = [table.columns.index(name) for name in table.expendable]
    left_out = []
    for index in chosen or range(len(widths) - 1, table.num_labels, -1):
        if _total({**widths, **{label: min(widths[label], LEAST_LABEL) for label in labels}}) <= room:
            break
        del widths[index]
        left_out.append(table.columns[index])
    while _total(widths) > room and max(widths[label] for label in labels) > FEWEST_OF_LABEL:
        widths[max(labels, key=lambda label: widths[label])] -= 1
    return left_out


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * len(widths)
