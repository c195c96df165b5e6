"""Results in a terminal, or as plain text."""

from collections.abc import Sequence
from typing import IO

from bench.report.notes import heading, notes, verdict_notes
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.environment import SessionEnvironment
from bench.results.file import Results, SessionSummary
from gan.display.tables import Printer


def show_session(
    printer: Printer, results: Sequence[CaseResult], session: SessionSummary, environment: SessionEnvironment
) -> None:
    """Print the verdict, tables, notes and the machine of one session."""
    for note in verdict_notes(results, session):
        printer.note(note)
    for table in tables(results):
        printer.table(table)
    for note in notes(results):
        printer.note(note)
    printer.line(environment.line)


def show_files(files: Sequence[Results], output: IO[str], *, wide: bool) -> None:
    """Print files, one after another."""
    printer = Printer(output, wide=wide, advice="--wide shows them")
    for file in files:
        printer.heading(f"{file.path.name}: {heading(file)}")
        show_session(printer, file.cases, file.session, file.environment)
