"""What is said of a check: its table, its notes, and the summary in Markdown for a pull request."""

import math
from pathlib import Path

from bench.regress.judge import CheckVerdict, undecided, verdict_of
from bench.regress.record import CheckRecord, short_revision
from bench.regress.verdict import INCONCLUSIVE, PASS
from bench.report.cells import NONE
from bench.report.markdown import markdown_list, markdown_table
from bench.report.means import mean_notes
from gan.display.tables import Printer, Table
from gan.files.atomic import whole_file
from gan.files.text import counted, in_markdown


def show_check(record: CheckRecord, *, wide: bool = False, markdown: Path | None = None) -> CheckVerdict:
    """Judge a record, print what to know of it, and write the summary if a path is given; return the verdict."""
    verdict = verdict_of(record)
    printer = Printer(wide=wide, advice="--wide shows them")
    printer.table(table_of(record, verdict))
    for note in notes_of(record, verdict):
        printer.note(note)
    if markdown:
        with whole_file(markdown) as file:
            file.write(markdown_of(record, verdict).encode())
    return verdict


def table_of(record: CheckRecord, verdict: CheckVerdict) -> Table:
    """Return a row for each figure."""
    rows = []
    for figure, judgement in verdict.judgements:
        change = smallest = NONE
        interval = "too few pairs"
        if judgement.has_interval:
            change = _signed(judgement.change)
            smallest = _signed(judgement.smallest)
            interval = f"{_signed(judgement.low)} to {_signed(judgement.high)}"
        word = judgement.word
        if word == PASS:
            word = f"PASS (< {100 * figure.tolerance(record.options.tolerance):g}%)"
        case = figure.case or "all"
        rows.append([case, figure.what, change, interval, smallest, str(judgement.pairs), word])
    base = f"{record.options.base} ({short_revision(record.revisions.base)})"
    title = f"{verdict.word}: {short_revision(record.revisions.head)} against {base}"
    columns = ("case", "figure", "HEAD over BASE", "95 % interval", "could see", "pairs", "verdict")
    return Table(title, columns, 2, rows, ("could see", "pairs", "95 % interval"))


def _signed(change: float) -> str:
    return f"{change:+.1%}" if -1 < change < math.inf else NONE


def notes_of(record: CheckRecord, verdict: CheckVerdict) -> list[str]:
    """Return what to know beside the table, a line each."""
    notes = list(verdict.lines)
    if record.semantics:
        passed = sum(all(check.passed for check in checks) for checks in record.semantics.values())
        notes.append(f"T1, the same algorithm: {passed} of {len(record.semantics)} cases")
    periods = {name: case.period for pair in record.pairs for name, case in pair.cases.items()}
    notes += mean_notes(periods)
    if dose := record.options.inject:  # below 0, BASE has had more work, so that HEAD takes 1 + dose of its time
        side, more = ("HEAD", dose) if dose > 0 else ("BASE", 1 / (1 + dose) - 1)
        notes.append(f"{more:+.1%} of work was injected into {side}'s steps")
    if any(judgement.word == INCONCLUSIVE for _, judgement in verdict.judgements):
        notes.append(
            "INCONCLUSIVE is no pass: changes up to 'could see' may be hidden; raise --budget, or repeat on a "
            "quieter machine"
        )
    if shortfall := _shortfall(record):
        notes.append(shortfall)
    notes.append(f"{counted(len(record.pairs), 'launch pair')} in {clock(record.seconds)}")
    notes.append(record.machine)
    return notes


def _shortfall(record: CheckRecord) -> str | None:
    """Return what a check that ended before its next look would have needed, or None."""
    if record.options.pairs:
        return None
    needed_pairs = min((num_pairs for _, num_pairs in undecided(record)), default=0)
    if len(record.pairs) >= needed_pairs:
        return None
    pair_seconds = record.median_pair_seconds
    other_seconds = record.seconds - sum(pair.seconds for pair in record.pairs)
    minutes = math.ceil((other_seconds + needed_pairs * pair_seconds) / 60) + 1
    return (
        f"too few pairs: the next look is after {needed_pairs}, of which each took about {clock(pair_seconds)} "
        f"here; --budget {minutes}m or more reaches it"
    )


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    return f"{minutes}:{rest:02d}"


def markdown_of(record: CheckRecord, verdict: CheckVerdict) -> str:
    """Return a check for a pull request."""
    table = table_of(record, verdict)
    notes = markdown_list(notes_of(record, verdict))
    return f"### {in_markdown(table.title)}\n\n{markdown_table(table)}\n\n{notes}\n"
