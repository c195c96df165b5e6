"""`python -m bench report` and `compare`."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bench.report.compare import comparison
from bench.report.markdown import markdown
from bench.report.page import page
from bench.report.terminal import show_files
from bench.results.file import Results, read
from bench.results.folder import find
from gan.display.tables import Printer
from gan.errors import UsageError
from gan.files.atomic import require_other_files, whole_file
from gan.files.text import LEGIBLE, printable


@dataclass(frozen=True)
class ReportOptions:
    """Show results: tables, and notes on what makes a figure doubtful.

    A file that cannot be read is named and left out.
    """

    results: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[RESULTS ...]", help_behavior_hint="")
    ] = ()
    """Files, directories, or the beginning of a file's name in results/, such as 0014. Without any, the newest
    file in results/."""
    format: Literal["terminal", "markdown", "html"] = "terminal"
    """markdown: for a pull request. html: one page with plots that opens offline."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(constructor=Path, metavar="PATH", help_behavior_hint="(default: standard output)"),
    ] = None
    """The file to write."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare two results files of one machine: the times of B over those of A."""

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """The file to compare with, or the beginning of its name in results/."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """The file to compare, or the beginning of its name in results/."""
    across: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]", help_behavior_hint="")] = ()
    """Settings that may differ, by the names that a refusal gives: packages.torch, python, gpu_driver, ..."""
    format: Literal["terminal", "markdown"] = "terminal"
    """markdown: for a pull request."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


def show_results(options: ReportOptions) -> None:
    """Show the files that can be read; raise UsageError if none can."""
    paths = find(options.results)
    require_other_files({"--output": options.output}, paths)
    files = []
    for path in paths:
        try:
            files.append(read(path))
        except UsageError as error:
            print(printable(f"skipped: {error}"), file=sys.stderr)
    if not files:
        raise UsageError("none of the results can be read")
    if options.format == "terminal":
        _write(options.output, lambda file: show_files(files, file, wide=options.wide))
    else:
        text = markdown(files) if options.format == "markdown" else page(files)
        _write(options.output, lambda file: file.write(text))


def _write(path: Path | None, write: Callable[[Any], object]) -> None:
    """Let `write` write text to a file, or to standard output."""
    if path is None:
        write(sys.stdout)
        return
    with whole_file(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", errors=LEGIBLE, write_through=True)
        write(text)
        text.detach()


def compare_files(options: CompareOptions) -> None:
    """Show the ratios of two files; raise UsageError if they cannot be compared."""
    result = comparison(_read_one(options.a), _read_one(options.b), options.across)
    if options.format == "markdown":
        print(result.markdown())
        return
    printer = Printer(wide=options.wide, advice="--wide shows them")
    printer.note(result.verdict)
    for table in result.tables:
        printer.table(table)
    for note in result.notes:
        printer.note(note)


def _read_one(name: str) -> Results:
    """Read the only file that a name stands for."""
    paths = find([name])
    if len(paths) > 1:
        raise UsageError(f"{name}: stands for {len(paths)} files; name one of {', '.join(map(str, paths))}")
    return read(paths[0])
