"""The figures of a check's record and its verdict: functions of the record alone."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.regress.losses import LossVerdict, judge_losses, limits_for
from bench.regress.record import SETTINGS_OF_CODE, CheckRecord, complaint_of
from bench.regress.sides import log_ratio
from bench.regress.verdict import (
    EXIT_CODES,
    REFUSED,
    REGRESSION,
    Decision,
    Judgement,
    Look,
    decide,
    judge_memory,
    judge_time,
    looks_for,
    overall,
)
from bench.regress.windows import CaseWindows
from bench.suite.workloads import NUM_DIGITS
from gan.errors import UsageError

STEP = "step time"
EPOCH = "epoch time"
STARTUP = "start-up"
PEAK_MEMORY = "peak memory"
STARTUP_TOLERANCE = 2.0
"""Start-up is measured once a pair instead of some hundred times: it passes within twice the tolerance."""


@dataclass(frozen=True)
class Figure:
    """One thing that a check judges.

    Attributes:
        case: Its name; empty for start-up, which all cases share.
        what: STEP, EPOCH, STARTUP or PEAK_MEMORY.
        log_ratios: ln(HEAD / BASE) of each pair.
    """

    case: str
    what: str
    log_ratios: Sequence[float]

    @property
    def is_tested(self) -> bool:
        """Whether the figure is a time, which is tested at the looks; memory hardly varies and is compared."""
        return self.what != PEAK_MEMORY

    def tolerance(self, tolerance: float) -> float:
        """Return the change, as a fraction, that a PASS excludes in a check of this tolerance."""
        return tolerance * STARTUP_TOLERANCE if self.what == STARTUP else tolerance

    def decide(self, looks: Sequence[Look], tolerance: float) -> Decision:
        """Return what is known of a tested figure so far."""
        return decide(self.log_ratios, looks, self.tolerance(tolerance))

    def judge(self, looks: Sequence[Look], tolerance: float) -> Judgement:
        """Return the verdict on the pairs there are."""
        if self.is_tested:
            return judge_time(self.log_ratios, looks, self.tolerance(tolerance))
        return judge_memory(self.log_ratios, tolerance)


def figures_of(record: CheckRecord) -> list[Figure]:
    """Return what a record's pairs say: the tested times of the cases and the start-up, then the memory."""
    times = []
    memory = []
    for name, case in record.cases.items():
        measured = [pair.cases[name] for pair in record.pairs if name in pair.cases]
        what = EPOCH if case.workload == "epoch" else STEP
        times.append(Figure(name, what, [windows.log_ratio for windows in measured]))
        memory.append(Figure(name, PEAK_MEMORY, [log_ratio(windows.peak_bytes) for windows in measured]))
    startup = Figure("", STARTUP, [log_ratio(pair.startup_seconds) for pair in record.pairs])
    return [*times, startup, *memory]


def looks_of(record: CheckRecord) -> tuple[Look, ...]:
    """Return the looks of a record's check, which tests a time of each case and the start-up."""
    return looks_for(len(record.cases) + 1)


def undecided(record: CheckRecord) -> list[tuple[Figure, int]]:
    """Return a record's tested figures without a verdict, and the number of pairs that their next look takes."""
    looks = looks_of(record)
    tested = [figure for figure in figures_of(record) if figure.is_tested]
    decisions = [figure.decide(looks, record.options.tolerance) for figure in tested]
    return [
        (figure, decision.pairs)
        for figure, decision in zip(tested, decisions, strict=True)
        if decision.word is None
    ]


@dataclass(frozen=True)
class CheckVerdict:
    """The verdict on a whole check.

    Attributes:
        word: PASS, FASTER, REGRESSION, INCONCLUSIVE, or REFUSED.
        exit_code: Of `python -m bench regress`.
        judgements: Figures and what is known of them.
        lines: What else to know; failures first.
    """

    word: str
    exit_code: int
    judgements: Sequence[tuple[Figure, Judgement]]
    lines: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready; a number that is not finite is None."""
        rows = [
            {
                "case": figure.case,
                "what": figure.what,
                **{name: _finite_or_none(value) for name, value in asdict(judgement).items()},
            }
            for figure, judgement in self.judgements
        ]
        return {"word": self.word, "exit_code": self.exit_code, "judgements": rows, "lines": list(self.lines)}


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict_of(record: CheckRecord) -> CheckVerdict:
    """Judge a record.

    Raises:
        UsageError: It cannot be judged, and why.
    """
    if complaint := complaint_of(record):
        raise UsageError(complaint)
    looks = looks_of(record)
    judgements = [(figure, figure.judge(looks, record.options.tolerance)) for figure in figures_of(record)]
    word = overall([judgement.word for _, judgement in judgements])
    losses = {name: _losses_of(record, name) for name, case in record.cases.items() if case.is_subject}
    wrong = [f"WRONG: {name}: {verdict.wrong}" for name, verdict in losses.items() if verdict.wrong]
    wrong += [
        f"WRONG: {name}: {check.complaint()}"
        for name, checks in record.semantics.items()
        for check in checks
        if not check.passed
    ]
    if wrong:
        word = REGRESSION
    elif (record.gone or record.missing.head) and word != REGRESSION:
        word = REFUSED
    notes = [f"{name}: {verdict.note}" for name, verdict in losses.items() if verdict.note]
    return CheckVerdict(word, EXIT_CODES[word], judgements, [*wrong, *notes, *caveats_of(record)])


def _losses_of(record: CheckRecord, name: str) -> LossVerdict:
    before = [record.losses[name]] if name in record.losses else []
    runs = [*before, *(pair.cases[name].losses for pair in record.pairs if name in pair.cases)]
    axes = record.cases[name].axes
    limits = limits_for(str(axes.get("precision")), str(axes.get("device")))
    return judge_losses(runs, limits, are_new=record.options.new_losses)


def caveats_of(record: CheckRecord) -> list[str]:
    """Return what could not be compared, and what went wrong on the way, a line each."""
    return [
        *(f"only HEAD has the recipe of {name}: not compared" for name in record.missing.base),
        *(f"a benchmark disappeared: HEAD has no recipe for {name}" for name in record.missing.head),
        *(f"HEAD has no recipe {name} any more; if that is meant, say --dropped {name}" for name in record.gone),
        *(f"HEAD has no recipe for {name}, as --dropped says: not compared" for name in record.dropped),
        *(
            f"T1 was not asked of {name}: its step takes more than the {NUM_DIGITS} digits"
            for name in record.unjudged
        ),
        *_other_networks(record),
        *_other_settings(record),
        *(f"a pair failed and does not count: {reason}" for reason in record.failed_pairs),
    ]


def _first_windows(record: CheckRecord) -> dict[str, CaseWindows]:
    """Return the windows of each case in the first pair that has measured it."""
    return {
        name: next(pair.cases[name] for pair in record.pairs if name in pair.cases)
        for name in record.cases
        if any(name in pair.cases for pair in record.pairs)
    }


def _other_networks(record: CheckRecord) -> list[str]:
    """Return a line for each network whose number of parameters differs."""
    return [
        f"{name}: {network} has {counts.head.get(network, 0):,} parameters in HEAD, "
        f"{counts.base.get(network, 0):,} in BASE"
        for name, windows in _first_windows(record).items()
        for counts in [windows.num_parameters]
        for network in dict.fromkeys((*counts.base, *counts.head))
        if counts.head.get(network) != counts.base.get(network)
    ]


def _other_settings(record: CheckRecord) -> list[str]:
    """Return a line for each setting of PyTorch that a subject has changed."""
    return [
        f"{name}: {key} is {settings.head.get(key)!r} in HEAD, {settings.base.get(key)!r} in BASE"
        for name, windows in _first_windows(record).items()
        for settings in [windows.configuration]
        for key in SETTINGS_OF_CODE
        if settings.head.get(key) != settings.base.get(key)
    ]
