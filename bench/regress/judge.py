"""What a record's launch pairs say: figures and verdicts, from the record alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.regress.verdict import (
    EXIT_CODES,
    REGRESSION,
    Judgement,
    Look,
    judge,
    judge_memory,
    looks,
    overall,
    pair_log_ratio,
)
from bench.suite.cases import STABILITY_IMAGES
from gan.errors import UsageError

STEP, EPOCH, STARTUP, MEMORY = "step time", "epoch time", "start-up", "peak memory"
STARTUP_TIMES = 2
"""Start-up, once a pair instead of some hundred times, passes within so many times the tolerance."""


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
        f"T1 was not asked of {name}: its step takes more than the {STABILITY_IMAGES} digits"
        for name in record["unjudged"]
    ]
    return notes + [f"a pair failed and was measured again: {reason}" for reason in record["failed_pairs"]]
