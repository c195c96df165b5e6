"""Tables and notes on a terminal, or in a file."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gan.files.text import printable

LEAST_WIDTH = 20
"""Columns of characters; a narrower terminal is treated like this one."""
LEAST_LABEL = 12
"""Characters to which labels are wrapped before a column of numbers is left out."""
FEWEST_OF_LABEL = 4
"""Characters to which labels are wrapped if no column of numbers is left to leave out."""
WIDTH_OF_NOTES = 160
"""Characters of a line where there is no terminal."""
NUMBER = re.compile(r"\d[\d,.:x]*%?")
GAP = 2
"""Characters between columns; half of it on both sides of the table."""


@dataclass(frozen=True)
class Table:
    """The cells of a table as text, for any format.

    Attributes:
        title: The line above the table.
        columns: Names of the columns. The first `num_labels` hold labels, the others numbers.
        num_labels: The number of columns of labels.
        rows: Rows of cells.
        expendable: Columns that a narrow terminal may leave out, in this order. If empty: all numbers but the
            first, from the last column on.
    """

    title: str
    columns: Sequence[str]
    num_labels: int
    rows: Sequence[Sequence[str]]
    expendable: Sequence[str] = ()


class Printer:
    """Prints tables and notes. A table is fitted to the terminal, if there is one; its numbers stay whole."""

    def __init__(
        self, file: IO[str] | None = None, *, wide: bool = False, advice: str = "a wider terminal shows them"
    ) -> None:
        """Print to a file, or standard output.

        Args:
            file: The file; None is standard output.
            wide: Leave no column out.
            advice: How to see the columns that were left out; ends the line that names them.
        """
        self._console = Console(file=file, highlight=False, emoji=False)
        narrow = self._console.file.isatty() or "COLUMNS" in os.environ
        self._console.width = max(LEAST_WIDTH, shutil.get_terminal_size().columns) if narrow else WIDTH_OF_NOTES
        self._most_width = self._console.width if narrow and not wide else None
        self._advice = advice

    def heading(self, text: str) -> None:
        """Print a heading in a rule across the terminal."""
        self._console.rule(Text(printable(text)))

    def line(self, text: object) -> None:
        """Print a line without wrapping it."""
        self._console.print(printable(text), markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a note, wrapped into several lines if it is long."""
        self._console.print(f"• {printable(text)}", markup=False)

    def table(self, table: Table) -> None:
        """Print a table, and the names of columns that were left out."""
        cells = [[printable(cell) for cell in row] for row in (table.columns, *table.rows)]
        widths = {index: max(map(cell_len, column)) for index, column in enumerate(zip(*cells, strict=True))}
        left_out = [] if self._most_width is None else _fit(table, cells, widths, self._most_width)
        self._console.print(Text(printable(table.title), "italic"))
        shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for index, width in widths.items():
            justify: Any = "left" if index < table.num_labels else "right"
            shown.add_column(Text(cells[0][index]), justify=justify, width=width, overflow="fold")
        for row in cells[1:]:
            shown.add_row(*(Text(row[index]) for index in widths))
        console_width = self._console.width
        self._console.width = max(console_width, _total(widths))  # or rich would cut numbers
        self._console.print(shown)
        self._console.width = console_width
        if left_out:
            self._console.print(f"left out for lack of width: {', '.join(left_out)}; {self._advice}", markup=False)


def _fit(table: Table, cells: Sequence[Sequence[str]], widths: dict[int, int], most_width: int) -> list[str]:
    """Fit `widths` to a terminal, and return the names of the columns that were left out of them.

    First the names of columns of numbers are wrapped, then columns are left out until the rest fits with labels
    wrapped to LEAST_LABEL, then labels are wrapped as far as needed. A table that is still too wide stays so.
    """
    labels = range(table.num_labels)
    if _total(widths) > most_width:
        for index in widths.keys() - set(labels):
            words = cells[0][index].split() or [""]
            widths[index] = max(cell_len(text) for text in (*words, *(row[index] for row in cells[1:])))
    expendable = [table.columns.index(name) for name in table.expendable]
    left_out = []
    for index in expendable or range(len(widths) - 1, table.num_labels, -1):
        if _total({**widths, **{label: min(widths[label], LEAST_LABEL) for label in labels}}) <= most_width:
            break
        del widths[index]
        left_out.append(table.columns[index])
    least = {label: max(map(_least_width, (row[label] for row in cells[1:])), default=0) for label in labels}
    while _total(widths) > most_width:
        wrappable = [label for label in labels if widths[label] > max(FEWEST_OF_LABEL, least[label])]
        if not wrappable:
            break
        widths[max(wrappable, key=lambda label: widths[label])] -= 1
    return left_out


def _least_width(label: str) -> int:
    """Return the width of the longest number in a label: a batch size, for example, is not cut either."""
    return max(map(len, NUMBER.findall(label)), default=0)


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * len(widths)
