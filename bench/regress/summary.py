"""What is said of a check: the table, the notes, the summary in Markdown."""

import math
from collections.abc import Mapping
from typing import Any

from bench.regress.verdict import (
    INCONCLUSIVE,
    PASS,
)
from bench.report.tables import NONE, markdown_list, markdown_table
from bench.results.environment import machine_line
from gan.display.terminal import Table
from gan.files.text import in_markdown


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds."""
    return f"{int(max(0.0, seconds)) // 60}:{int(max(0.0, seconds)) % 60:02d}"


COLUMNS = ("case", "figure", "HEAD over BASE", "95 % interval", "could see", "pairs", "verdict")
EXPENDABLE = ("could see", "pairs", "95 % interval")


def table_of(record: Mapping[str, Any], verdict: Verdict) -> Table:
    """Return a row for each figure."""
    rows = []
    for case, what, found in verdict.judgements:
        if found.has_interval:
            change, smallest = _signed(found.change), _signed(found.smallest)
            interval = f"{_signed(found.low)} to {_signed(found.high)}"
        else:
            change, smallest, interval = NONE, NONE, "too few pairs"
        times = STARTUP_TIMES if what == STARTUP else 1
        below = f"PASS (< {record['options']['tolerance'] * times:.0%})" if found.word == PASS else found.word
        pairs = str(found.pairs)
        rows.append([case or "all", what, change, interval, smallest, pairs, below])
    revisions = record["revisions"]
    base = f"{record['options']['base']} ({_short(revisions['base'])})"
    title = f"{verdict.word}: {_short(revisions['head'])} against {base}"
    return Table(title, COLUMNS, 2, rows, EXPENDABLE)


def machine_of(record: Mapping[str, Any]) -> str:
    """Return the machine and versions in one line, without a revision."""
    return machine_line({**record["environment"], "git": None}).removesuffix("; no revision")


def _short(revision: str) -> str:
    return revision[:10] + ("+" if revision.endswith("+") else "")


def _signed(value: float) -> str:
    return f"{value:+.1%}" if -1 < value < math.inf else NONE


def notes_of(record: Mapping[str, Any], verdict: Verdict) -> list[str]:
    """Return what to know beside the table."""
    notes = list(verdict.lines)
    if record["semantics"]:
        passed = sum(all(check["passed"] for check in checks) for checks in record["semantics"].values())
        notes.append(f"T1, the same algorithm: {passed} of {len(record['semantics'])} cases")
    if record["options"]["inject"]:
        notes.append(f"{record['options']['inject']:+.1%} of work was injected into HEAD's steps")
    if any(found.word == INCONCLUSIVE for _, _, found in verdict.judgements):
        notes.append(
            "INCONCLUSIVE is no pass: noise hides changes up to 'could see'; repeat on a quieter machine, "
            "or raise --budget"
        )
    if shortfall := _shortfall(record):
        notes.append(shortfall)
    notes.append(f"{len(record['pairs'])} launch pairs in {clock(record['seconds'])}")
    notes.append(machine_of(record))
    return notes


def _shortfall(record: Mapping[str, Any]) -> str | None:
    """Return what a check that ended before its first look would have needed, or None."""
    first, times = plan_of(record)[0].pairs, sorted(pair["seconds"] for pair in record["pairs"])
    if len(times) >= first or record["options"]["pairs"]:
        return None
    middle = times[len(times) // 2]
    needed = record["seconds"] - sum(times) + first * middle
    return (
        f"too few pairs: the first look is after {first}, of which each took about {clock(middle)} here; "
        f"--budget {math.ceil(needed / 60) + 1}m or more reaches it"
    )


def markdown_of(record: Mapping[str, Any], verdict: Verdict) -> str:
    """Return a check for a pull request."""
    table = table_of(record, verdict)
    notes = markdown_list(notes_of(record, verdict))
    return f"### {in_markdown(table.title)}\n\n{markdown_table(table)}\n\n{notes}\n"
