"""The check itself: launch pairs of BASE and HEAD are measured until each figure has its verdict."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bench.regress.judge import caveats_of, undecided
from bench.regress.losses import Run
from bench.regress.pair import LaunchPairs, ask_both, first_losses, launched_together
from bench.regress.progress import Say, below
from bench.regress.record import CheckRecord, RecordedCase, complaint_of
from bench.regress.settings import CheckSettings
from bench.regress.sides import SIDES, Both
from bench.regress.subject_case import CheckedCase, spec_for
from bench.regress.summary import clock
from bench.regress.trees import Trees
from bench.regress.verdict import LEAST_MEMORY_PAIRS
from bench.results.checks import Check, worst_checks
from bench.results.environment import session_environment
from bench.suite.cases import Case
from bench.suite.machine import fits_digits
from bench.turns import messages as m
from bench.turns.ranks import ANSWER_SECONDS, NoAnswerError, PairError, processes
from bench.turns.specs import spec_of
from gan.errors import UsageError
from gan.recipes_small import require_row

LEAST_ANSWER_SECONDS = 60.0
"""How long a subject may take to its first step at least, whatever the budget."""
MOST_FAILED_SHARE = 0.05
"""A check ends if more pairs fail than one plus this share of those that were measured."""


def measure_check(settings: CheckSettings, trees: Trees, say: Say) -> CheckRecord:
    """Measure until the answer is clear or the budget is over.

    Raises:
        UsageError: What cannot be compared, or too many pairs failed. Too many of a fixed number end it early.
    """
    began = time.monotonic()
    deadline = began + settings.options.budget_seconds
    say("BASE and HEAD: importing")
    survey = _survey_subject(trees, settings) if settings.subject else _survey(trees, settings)
    in_head = {name: case for name, case in settings.cases.items() if survey.head_has(name)}
    cases = {name: case for name, case in in_head.items() if name not in survey.missing.base}
    recipes = {name: case for name, case in in_head.items() if isinstance(case, Case) and settings.semantics}
    semantics, unjudged = _semantics(trees, recipes, say)
    for side in SIDES:  # so that both compile in the first pair
        shutil.rmtree(trees.cache(side), ignore_errors=True)
    record = CheckRecord(
        options=settings.options,
        environment=session_environment(),
        revisions=trees.revisions,
        cases={name: RecordedCase.of(case) for name, case in cases.items()},
        missing=survey.missing,
        gone=survey.gone,
        dropped=survey.dropped,
        semantics=semantics,
        unjudged=unjudged,
        losses=survey.losses,
    )
    if not cases:
        raise UsageError(f"nothing to compare: {'; '.join(caveats_of(record))}")
    launch_pairs = LaunchPairs.of(settings, trees)
    while (waiting := _waiting(record)) and not failed_too_often(record):
        seconds_left = deadline - time.monotonic()
        if _is_out_of_time(record, waiting, seconds_left):
            break
        launch_pairs.say = below(_heading(record, waiting, seconds_left), say)
        record = _with_another_pair(record, launch_pairs, cases, waiting)
    return replace(record, seconds=round(time.monotonic() - began, 1))


@dataclass(frozen=True)
class Survey:
    """Which recipes the sides have, or a subject's first losses; the attributes are those of a CheckRecord."""

    missing: Both[tuple[str, ...]]
    dropped: tuple[str, ...]
    gone: tuple[str, ...]
    losses: Mapping[str, Both[Run]] = field(default_factory=dict)

    def head_has(self, name: str) -> bool:
        """Say whether HEAD has the recipe of a case."""
        return name not in self.missing.head and name not in self.dropped


def _survey(trees: Trees, settings: CheckSettings) -> Survey:
    """Ask both sides which recipes they have."""
    with _refusing(), processes(trees, SIDES, settings.device) as sides:
        recipes = ask_both(sides, m.Hello()).map(lambda ranks: ranks[0].recipes)
    asked = {name: case.recipe for name, case in settings.cases.items() if isinstance(case, Case)}
    for recipe in asked.values():
        require_row("--case", recipe, dict.fromkeys((*recipes.head, *recipes.base)), takes_settings=False)
    missing = Both.of(lambda side: tuple(name for name, recipe in asked.items() if recipe not in recipes[side]))
    dropped = tuple(name for name in missing.head if asked[name] in settings.dropped)
    still_missing = tuple(name for name in missing.head if name not in dropped)
    gone = tuple(name for name in recipes.base if name not in (*recipes.head, *settings.dropped))
    return Survey(replace(missing, head=still_missing), dropped, gone)


def _survey_subject(trees: Trees, settings: CheckSettings) -> Survey:
    """Let both sides take the subject's first steps in each case: what cannot be measured is refused at once."""
    losses: dict[str, Both[Run]] = {}
    answer_seconds = min(ANSWER_SECONDS, max(LEAST_ANSWER_SECONDS, settings.options.budget_seconds))
    with _refusing(settings.subject or ""):
        for group in launched_together(settings.cases):
            case = settings.cases[group[0]]
            with processes(trees, SIDES, case.device, case.num_processes) as started:
                sides = {name: replace(side, answer_seconds=answer_seconds) for name, side in started.items()}
                for name in group:
                    ask_both(sides, m.Prepare(spec_for(settings.cases[name])))
                    losses[name] = first_losses(sides)
                    ask_both(sides, m.Drop())
    return Survey(Both((), ()), (), (), losses)


def _semantics(
    trees: Trees, cases: Mapping[str, Case], say: Say
) -> tuple[dict[str, tuple[Check, ...]], tuple[str, ...]]:
    """Ask tier T1 whether HEAD's steps are still the algorithm's; an epoch is judged by its step.

    Returns the checks by case, each of the worst rank, and the cases of which it cannot be asked.
    """
    names_of_steps: dict[str, str] = {}
    for name, case in cases.items():
        names_of_steps.setdefault(case.id, name)
    names = list(names_of_steps.values())
    judged = {name: cases[name] for name in names if fits_digits(cases[name])}
    checks: dict[str, tuple[Check, ...]] = {}
    with _refusing():
        for group in launched_together(judged):
            case = judged[group[0]]
            with processes(trees, ("head",), case.device, case.num_processes) as sides:
                for name in group:
                    say(f"{name}: is it still the algorithm?")
                    ranks = sides["head"].ask(m.JudgeSemantics(spec_of(judged[name])))
                    checks[name] = tuple(worst_checks([list(map(Check.of, rank.checks)) for rank in ranks]))
    return checks, tuple(name for name in names if name not in judged)


@contextmanager
def _refusing(subject: str = "") -> Iterator[None]:
    """Turn what fails before the first pair into a refusal."""
    try:
        yield
    except NoAnswerError as error:
        if not subject:
            raise UsageError(f"{error}; mend it") from error
        file = subject.rpartition(":")[0]
        slow = "if it is only slow, raise --budget; " if error.seconds < ANSWER_SECONDS else ""
        raise UsageError(
            f"{error}; {slow}if {file} trains when it is imported, let it do so below: if __name__ == '__main__'"
        ) from error
    except PairError as error:
        way_out = "choose another --base" if error.side == "base" else "mend it"
        if subject and error.side == "base":
            way_out += ", or a --subject that works on both sides"
        raise UsageError(f"{error}; {way_out}") from error


def _waiting(record: CheckRecord) -> dict[str, int]:
    """Return the cases without a verdict (empty: the start-up), and how many pairs their next step takes."""
    if record.options.pairs:
        num_pairs = record.options.pairs - len(record.pairs)
        return dict.fromkeys(("", *record.cases), num_pairs) if num_pairs > 0 else {}
    return {figure.case: num_pairs - len(figure.log_ratios) for figure, num_pairs in undecided(record)}


def _is_out_of_time(record: CheckRecord, waiting: Mapping[str, int], seconds_left: float) -> bool:
    """Say whether no other pair fits, or whether three are enough because the next look is out of reach."""
    if not record.pairs:
        return False
    if record.pairs[-1].seconds > seconds_left:
        return True
    return len(record.pairs) >= LEAST_MEMORY_PAIRS and seconds_left < _seconds_to_next_look(record, waiting)


def _seconds_to_next_look(record: CheckRecord, waiting: Mapping[str, int]) -> float:
    """Return the time to the next look if each pair is as quick as the quickest so far; 0 if unknown."""
    if record.options.pairs or not waiting.keys() >= record.cases.keys():
        return 0.0  # pairs of fewer cases are quicker
    return min(waiting.values()) * min((pair.seconds for pair in record.pairs), default=0.0)


def _heading(record: CheckRecord, waiting: Mapping[str, int], seconds_left: float) -> str:
    """Say how many pairs there are, how long the next look takes, and whether the budget reaches it."""
    num_done = len(record.pairs)
    num_more = max(waiting.values())
    heading = f"pair {num_done + 1} of {num_done + num_more}"
    if not record.pairs:
        return heading
    seconds = min(record.median_pair_seconds * num_more, seconds_left)
    until = "the end" if record.options.pairs else "the next look"
    heading += f", about {clock(seconds)} to {until}, at most {clock(seconds_left)} in all"
    if seconds_left < _seconds_to_next_look(record, waiting):
        num_needed = num_done + min(waiting.values())
        heading += f"; at this pace --budget ends before the next look ({num_needed} pairs): raise it"
    return heading


def failed_too_often(record: CheckRecord) -> bool:
    """Say whether so many pairs failed that no other one is measured."""
    return len(record.failed_pairs) > 1 + MOST_FAILED_SHARE * len(record.pairs)


def _with_another_pair(
    record: CheckRecord, launch_pairs: LaunchPairs, cases: Mapping[str, CheckedCase], waiting: Mapping[str, int]
) -> CheckRecord:
    """Return the record with one more launch pair, or with the reason why it failed; raise UsageError."""
    try:
        pair = launch_pairs.measure(cases, [name for name in cases if name in waiting])
        record = replace(record, pairs=(*record.pairs, pair))
    except PairError as error:
        record = replace(record, failed_pairs=(*record.failed_pairs, str(error)))
        if not record.pairs or (failed_too_often(record) and not record.options.pairs):
            raise UsageError(f"{error}; mend it, or choose another --case") from error
    if complaint := complaint_of(record):
        raise UsageError(complaint)
    return record
