"""`python -m bench report`, `compare`, `reference`, `regress`, `history`, `pairs` and `pool`."""

import io
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
try:
    import tyro

    from bench.reference import ReferenceOptions, reference
    from bench.regress.command import regress
    from bench.regress.history import HistoryOptions, history
    from bench.regress.options import RegressOptions
    from bench.regress.study.pairs import PairsOptions, pairs
    from bench.regress.study.pool import PoolOptions, pool
    from bench.report.compare import comparison
    from bench.report.markdown import markdown
    from bench.report.page import page
    from bench.report.terminal import show_files
    from bench.results.file import read
    from bench.results.folder import find
    from gan.display.tables import Printer
    from gan.errors import UsageError, require_known
    from gan.files.atomic import require_other_files, whole_file
    from gan.files.text import LEGIBLE, printable
    from gan.options import parse
    from gan.process.script import exit_code_of
except Exception as error:  # the working tree's code; with a traceback, the exit code would say REGRESSION
    print(f"error: {type(error).__name__}: {error}; the working tree does not import: mend it", file=sys.stderr)
    sys.exit(2)

PROG = "python -m bench"


@dataclass(frozen=True)
class ReportOptions:
    """Show results: tables and notes. Files that cannot be read are named and left out."""

    results: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(help_behavior_hint="")] = ()
    """Files, directories, or how a name in results/ begins (0012). By default the newest file in results/."""
    format: Literal["terminal", "markdown", "html"] = "terminal"
    """markdown: for a pull request. html: a page of its own, with plots, that opens offline."""
    output: Annotated[
        Path | None,
        tyro.conf.arg(constructor=Path, metavar="PATH", help_behavior_hint="(default: standard output)"),
    ] = None
    """File to write instead."""
    wide: bool = False
    """Leave no column out of a narrow terminal."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare two results files of one machine, case by case: B over A."""

    a: tyro.conf.Positional[str]
    """The file to compare with, or how its name in results/ begins."""
    b: tyro.conf.Positional[str]
    """The file to compare."""
    across: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """What is meant to differ, as the refusal names it: packages.torch, python, gpu_driver, ..."""
    format: Literal["terminal", "markdown"] = "terminal"
    """markdown: for a pull request."""
    wide: bool = False
    """Leave no column out of a narrow terminal."""


def report(options: ReportOptions) -> None:
    """Show what can be read; raise UsageError where nothing can."""
    files = []
    paths = find(options.results)
    require_other_files({"--output": options.output}, paths)
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
    if path is None:
        write(sys.stdout)
        return
    with whole_file(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", errors=LEGIBLE, write_through=True)
        write(text)
        text.detach()


def compare(options: CompareOptions) -> None:
    """Show the ratios of two files; raise UsageError where they cannot be compared."""
    files = []
    for name in (options.a, options.b):
        paths = find([name])
        if len(paths) > 1:
            raise UsageError(f"{name}: stands for {len(paths)} files; name one of {', '.join(map(str, paths))}")
        files.append(read(paths[0]))
    result = comparison(files[0], files[1], options.across)
    if options.format == "markdown":
        print(result.markdown())
    else:
        printer = Printer(wide=options.wide, advice="--wide shows them")
        for table in result.tables:
            printer.table(table)
        for note in result.notes:
            printer.note(note)


COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "report": (ReportOptions, report),
    "compare": (CompareOptions, compare),
    "reference": (ReferenceOptions, reference),
    "regress": (RegressOptions, regress),
    "history": (HistoryOptions, history),
    "pairs": (PairsOptions, pairs),
    "pool": (PoolOptions, pool),
}


def main() -> int:
    """Run the command that is named first, and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: {PROG} {{{','.join(COMMANDS)}}} ...   ({PROG} COMMAND --help says more)")
        return 0
    command, *rest = arguments
    require_known(PROG, command, COMMANDS)
    kind, run = COMMANDS[command]
    return run(parse(kind, f"{PROG} {command}", rest)) or 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main, advice="nothing was written", interrupted="interrupted", lower="the batch_size"))
