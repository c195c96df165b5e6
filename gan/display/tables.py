"""Tables and notes, as wide as the terminal."""

import os
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
LEAST_LABEL = 12
"""Characters of a label's line before a number's column is left out; longer labels take several lines."""
WIDTH_OF_NOTES = 160
"""Where no terminal shows them."""
FEWEST_OF_LABEL = 4
"""Where no number's column is left to leave out."""
GAP = 2
"""Between columns; half of it on both sides of the table."""


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
