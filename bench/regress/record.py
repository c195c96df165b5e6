"""The record of a regression check: read, refused judged, and shown. All of it comes from the JSON alone."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from bench.regress.trees import SIDES
from bench.regress.verdict import (
    EXIT_CODES,
    INCONCLUSIVE,
    PASS,
    REGRESSION,
    Judgement,
    Look,
    judge,
    judge_memory,
    looks,
    overall,
    pair_log_ratio,
)
from bench.report.compare import differences
from bench.report.tables import NONE, markdown_list, markdown_table
from bench.results.environment import machine_line
from bench.suite.workloads import NUM_DIGITS
from gan.display.tables import Table
from gan.errors import UsageError
from gan.files.atomic import whole_file
from gan.files.json_files import read_json
from gan.files.text import in_markdown

SCHEMA = "gan-regress/1"
STEP, EPOCH, STARTUP, MEMORY = "step time", "epoch time", "start-up", "peak memory"
STARTUP_TIMES = 2
"""Start-up, once a pair instead of some hundred times, passes within so many times the tolerance."""


LEAST, MOST = 1e-9, 1e18
"""What is measured, in seconds or bytes, is within."""


def clock(seconds: float) -> str:
    """Return seconds as minutes and seconds."""
    return f"{int(max(0.0, seconds)) // 60}:{int(max(0.0, seconds)) % 60:02d}"


@dataclass(frozen=True)
class Figure:
    """Something a check judges.

    Attributes:
        case: Its name; empty for start-up, which all cases share.
        what: STEP, EPOCH, STARTUP or MEMORY.
        values: A log ratio of HEAD to BASE for each pair.
        times: How many times the tolerance it may change by.
    """

    case: str
    what: str
    values: Sequence[float]
    times: float = 1.0


def figures(record: Mapping[str, Any]) -> list[Figure]:
    """Return what a record's pairs say, first what is tested: the times of each case, and the start-up."""
    times, memory = [], []
    for name, case in record["cases"].items():
        measured = [pair["cases"][name] for pair in record["pairs"] if name in pair["cases"]]
        ratios = [pair_log_ratio(each["windows"]["base"], each["windows"]["head"]) for each in measured]
        times.append(Figure(name, EPOCH if case["workload"] == "epoch" else STEP, ratios))
        memory.append(Figure(name, MEMORY, [_log_ratio(each["peak_bytes"]) for each in measured]))
    startup = [_log_ratio(pair["startup_seconds"]) for pair in record["pairs"]]
    return [*times, Figure("", STARTUP, startup, STARTUP_TIMES), *memory]


def _log_ratio(sides: Mapping[str, float]) -> float:
    return math.log(sides["head"] / sides["base"])


def plan_of(record: Mapping[str, Any]) -> tuple[Look, ...]:
    """Return the looks of a record's check: its cases' times and the start-up are tested."""
    return looks(len(record["cases"]) + 1)


@dataclass(frozen=True)
class Verdict:
    """What a check comes to.

    Attributes:
        word: Of the whole check.
        exit_code: Likewise.
        judgements: Case, what, and what is known of it.
        lines: What else to know; failures first.
    """

    word: str
    exit_code: int
    judgements: Sequence[tuple[str, str, Judgement]]
    lines: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready; what is not finite is None."""
        rows = [
            {
                "case": case,
                "what": what,
                **{
                    name: None if isinstance(value, float) and not math.isfinite(value) else value
                    for name, value in asdict(judgement).items()
                },
            }
            for case, what, judgement in self.judgements
        ]
        return {"word": self.word, "exit_code": self.exit_code, "judgements": rows, "lines": list(self.lines)}


def verdict_of(record: Mapping[str, Any]) -> Verdict:
    """Judge a record.

    Raises:
        UsageError: It cannot be judged, and why.
    """
    if complaint := complaint_of(record):
        raise UsageError(complaint)
    plan, tolerance = plan_of(record), record["options"]["tolerance"]
    judgements = [
        (
            figure.case,
            figure.what,
            judge_memory(figure.values, tolerance)
            if figure.what == MEMORY
            else judge(figure.values, plan, tolerance * figure.times),
        )
        for figure in figures(record)
    ]
    word = overall([judgement.word for _, _, judgement in judgements])
    code = EXIT_CODES[word]
    wrong = [
        f"WRONG: {name}: T1 {check['name']}: {check['value']}, the limit is {check['limit']}: {check['cause']}"
        for name, checks in record["semantics"].items()
        for check in checks
        if not check["passed"]
    ]
    if wrong:
        word, code = REGRESSION, 1
    notes = caveats_of(record)
    if (record["gone"] or record["missing"]["head"]) and code != 1:
        word, code = "REFUSED", 2
    return Verdict(word, code, judgements, [*wrong, *notes])


def caveats_of(record: Mapping[str, Any]) -> list[str]:
    """Return what could not be compared, and what went wrong on the way."""
    notes = [f"only HEAD has the recipe of {name}: not compared" for name in record["missing"]["base"]]
    notes += [f"a benchmark disappeared: HEAD has no recipe for {name}" for name in record["missing"]["head"]]
    notes += [
        f"HEAD has no recipe {name} any more; if that is meant, say --dropped {name}" for name in record["gone"]
    ]
    notes += [f"HEAD has no recipe for {name}, as --dropped says: not compared" for name in record["dropped"]]
    notes += [
        f"T1 was not asked of {name}: its step takes more than the {NUM_DIGITS} digits"
        for name in record["unjudged"]
    ]
    return notes + [f"a pair failed and was measured again: {reason}" for reason in record["failed_pairs"]]


def complaint_of(record: Mapping[str, Any]) -> str | None:
    """Return why a record cannot be judged, in one line, or None."""
    pairs = record["pairs"]
    if not pairs:
        return "no launch pair was measured: raise --budget"
    for name in record["cases"]:
        if not any(name in pair["cases"] for pair in pairs):
            return f"{name}: no launch pair has measured it"
    first = pairs[0]["sides"]["base"]
    for number, pair in enumerate(pairs, 1):
        for side in SIDES:
            for key, (here, there) in differences(first, pair["sides"][side]):
                return (
                    f"pair {number}: {key} is {here!r} for BASE in pair 1 and {there!r} for {side.upper()}; "
                    "only what ran on one machine with the same versions can be compared"
                )
        startup = pair["startup_seconds"]
        for side in SIDES:
            if not _positive(startup[side]):
                return f"pair {number}: start-up is no time for {side.upper()}"
        for name, case in pair["cases"].items():
            if problem := _problem(case, pairs[0]["cases"].get(name, case)):
                return f"pair {number}, {name}: {problem}"
    return None


def _problem(case: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    steps, windows = case["steps_per_window"], case["windows"]
    if steps["base"] != steps["head"]:
        return f"unequal windows: {steps['base']} steps of BASE, {steps['head']} of HEAD"
    if steps != first["steps_per_window"]:
        return f"unequal windows: {steps['base']} steps, but {first['steps_per_window']['base']} in the first pair"
    for side in SIDES:
        if len(windows[side]) != 2 * len(case["orders"]):
            return f"unequal windows: {len(windows[side])} of {side.upper()} in {len(case['orders'])} quads"
        if not windows[side]:
            return "empty: it has no windows"
        if not all(map(_positive, windows[side])):
            return f"{side.upper()} has a window that is no time (NaN, infinite or not positive)"
        if not _positive(case["peak_bytes"][side]):
            return f"{side.upper()}'s peak memory is not a number of bytes"
        for key, (here, there) in differences(first["configuration"]["base"], case["configuration"][side]):
            return f"{key} is {here!r} for BASE and {there!r} for {side.upper()}; the same is compared only"
    return None


def _positive(value: Any) -> bool:
    """Say whether a value is a number of seconds or bytes; nan is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and LEAST <= value <= MOST


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    record = read_json(path, nonfinite=True)  # which are refused below, with the window they are in
    version = record.get("schema") if isinstance(record, dict) else None
    if version != SCHEMA:
        written = f"written as {version!r}"[:100] if version else "not written by this check"
        raise UsageError(f"{path}: {written}; only {SCHEMA!r} can be judged: measure again")
    require_schema(path, record)
    if complaint := complaint_of(record):
        raise UsageError(f"{path}: {complaint}")
    return record  # type: ignore[no-any-return]


@cache
def _validator(kind: str) -> Any:
    schema = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    kinds = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite)
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=kinds)
    return validator({**schema, **schema["$defs"][kind]} if kind else schema)


def _is_finite(_: Any, value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def require_schema(path: Path, data: Any, kind: str = "") -> None:
    """Raise UsageError where a record, or one of another kind in schema.json, is not as it should be."""
    for error in _validator(kind).iter_errors(data):  # the first; a damaged file may have a million
        message = error.message if len(error.message) <= 120 else f"{error.message[:60]} … {error.message[-60:]}"
        raise UsageError(f"{path}: damaged ({error.json_path[:200]}: {message})")


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
