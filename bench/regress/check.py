"""`python -m bench regress`: is HEAD slower than BASE, here and now? Launch pairs that take turns.

The verdict is a function of the record, which is what the JSON file holds: see bench/regress/record.py.
"""

import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bench.regress.pair import LaunchPairs, PairError, ask_both, launched_together, processes, spec_of
from bench.regress.record import (
    MEMORY,
    SCHEMA,
    caveats_of,
    clock,
    complaint_of,
    figures,
    plan_of,
    verdict_of,
)
from bench.regress.trees import SIDES, Trees
from bench.regress.verdict import (
    LEAST_MEMORY_PAIRS,
    decide,
)
from bench.results.checks import worst_checks
from bench.results.environment import session_environment
from bench.suite.cases import STABILITY_IMAGES, Case
from gan.errors import UsageError, require_known
from gan.recipes import RECIPES

MOST_FAILED = 0.05
"""Of the pairs, and one: more end the check."""


def measure(options: RegressOptions, trees: Trees, say: Say) -> dict[str, Any]:
    """Measure until the answer is clear or the budget is over; return the record, JSON-ready.

    Raises:
        UsageError: What cannot be compared.
    """
    settings = settings_of(options)
    tolerance, cases = settings.tolerance, settings.cases
    began = time.monotonic()
    deadline = began + settings.budget_seconds
    say("BASE and HEAD: importing")
    survey = _survey(trees, cases, options, next(iter(cases.values())).device)
    in_head = {
        name: case
        for name, case in cases.items()
        if name not in survey["missing"]["head"] and name not in survey["dropped"]
    }
    measured = {name: case for name, case in in_head.items() if name not in survey["missing"]["base"]}
    semantics = _semantics(trees, in_head if options.semantics else {}, say)
    for side in SIDES:  # so that both compile in the first pair
        shutil.rmtree(trees.cache(side), ignore_errors=True)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "options": {
            "base": options.base,
            "tolerance": tolerance,
            "budget_seconds": settings.budget_seconds,
            "pairs": options.pairs,
            "inject": settings.dose,
        },
        "environment": {**session_environment(), "command": ["regress", *sys.argv[2:]]},
        "revisions": trees.revisions,
        "cases": {name: case.to_json() for name, case in measured.items()},
        **survey,
        **semantics,
        "failed_pairs": [],
        "pairs": [],
    }
    if not measured:
        raise UsageError(f"nothing to compare: {'; '.join(caveats_of(record))}")
    dose = settings.dose
    injected = {"head": dose} if dose > 0 else {"base": 1 / (1 + dose) - 1} if dose < 0 else {}
    pairs = LaunchPairs(trees, random.Random(options.seed), options.quads, injected, options.products)
    while True:
        waiting = _waiting(record)
        done = len(record["pairs"]) >= options.pairs if options.pairs else not waiting
        if done:
            break
        open_cases = list(measured) if options.pairs else [name for name in measured if name in waiting]
        last = record["pairs"][-1]["seconds"] if record["pairs"] else 0.0
        left = deadline - time.monotonic()
        too_little = left < _seconds_to_first_look(record, options.pairs)
        if record["pairs"] and (last > left or (too_little and len(record["pairs"]) >= LEAST_MEMORY_PAIRS)):
            break
        heading = _estimate(record, waiting, options.pairs, left)
        if too_little:
            heading += f"; --budget ends before the first look, after {plan_of(record)[0].pairs} pairs: raise it"
        if not sys.stderr.isatty():
            say(heading)
        else:
            pairs.say = lambda what, heading=heading: say(f"{heading} · {what}")  # type: ignore[misc]
        _add_pair(pairs, record, measured, open_cases)
    record["seconds"] = round(time.monotonic() - began, 1)
    record["verdict"] = verdict_of(record).to_json()
    return record


def _seconds_to_first_look(record: Mapping[str, Any], asked: int | None) -> float:
    """Return the time to the first look where each pair is as quick as the quickest so far; 0 if unknown."""
    times = [pair["seconds"] for pair in record["pairs"]]
    more = 0 if asked else plan_of(record)[0].pairs - len(times)
    return max(0, more) * min(times, default=0.0)


def _add_pair(
    pairs: LaunchPairs, record: dict[str, Any], cases: Mapping[str, Case], open_cases: Sequence[str]
) -> None:
    try:
        record["pairs"].append(pairs.measure(cases, open_cases))
    except PairError as error:
        record["failed_pairs"].append(str(error))
        if len(record["failed_pairs"]) > 1 + MOST_FAILED * len(record["pairs"]) or not record["pairs"]:
            raise UsageError(f"{error}; mend it, or choose another --case") from error
    if complaint := complaint_of(record):
        raise UsageError(complaint)


def _survey(trees: Trees, cases: Mapping[str, Case], options: RegressOptions, device: str) -> dict[str, Any]:
    """Find out which recipes both sides have."""
    with _refusing(), processes(trees, SIDES, device) as sides:
        known = {side: answers[0]["recipes"] for side, answers in ask_both(sides, "hello").items()}
    for case in cases.values():
        require_known("--case", case.recipe, dict.fromkeys((*known["head"], *known["base"])))
    lacking = {side: [name for name, case in cases.items() if case.recipe not in known[side]] for side in SIDES}
    dropped = [name for name in lacking["head"] if cases[name].recipe in options.dropped]
    return {
        "missing": {**lacking, "head": [name for name in lacking["head"] if name not in dropped]},
        "dropped": dropped,
        "gone": [name for name in known["base"] if name not in (*known["head"], *options.dropped)],
    }


def _semantics(trees: Trees, cases: Mapping[str, Case], say: Say) -> dict[str, Any]:
    """Find out whether HEAD's step is still the algorithm's; an epoch is judged by its step."""
    steps: dict[str, str] = {}
    for name, case in cases.items():
        steps.setdefault(case.id, name)
    judged = {name: cases[name] for name in steps.values() if _on_digits(cases[name])}
    semantics: dict[str, Any] = {}
    with _refusing():
        for together in launched_together(judged):
            case = judged[together[0]]
            with processes(trees, ("head",), case.device, case.num_processes) as sides:
                for name in together:
                    say(f"{name}: is it still the algorithm?")
                    semantics[name] = worst_checks(sides["head"].ask("semantics", spec_of(judged[name])))
    return {"semantics": semantics, "unjudged": [name for name in steps.values() if name not in judged]}


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except PairError as error:
        hint = (
            "choose a --base whose gan has what bench/regress/side.py needs" if error.side == "base" else "mend it"
        )
        raise UsageError(f"{error}; {hint}") from error


def _on_digits(case: Case) -> bool:
    """Say whether a case's step is judged by `bench.stability.tiers`, which has so many images."""
    recipe = RECIPES.get(case.recipe)
    return case.global_batch_size * (recipe.discriminator_steps if recipe else 1) <= STABILITY_IMAGES


def _waiting(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what has no verdict yet, and after how many pairs its next step is."""
    plan, tolerance = plan_of(record), record["options"]["tolerance"]
    found = {}
    for figure in figures(record):
        if figure.what != MEMORY:
            decision = decide(figure.values, plan, tolerance * figure.times)
            if decision.word is None:
                found[figure.case] = decision.pairs - len(figure.values)
    return found


def _estimate(record: Mapping[str, Any], waiting: Mapping[str, int], asked: int | None, left: float) -> str:
    """Say how many pairs there are, and how long it will be to the next look."""
    have = len(record["pairs"])
    more = asked - have if asked else max(waiting.values())
    heading = f"pair {have + 1} of {have + more}"
    if not have:
        return heading
    times = [pair["seconds"] for pair in record["pairs"]]
    seconds = sorted(times)[len(times) // 2] * more
    until = "the end" if asked else "the next look"
    return f"{heading}, about {clock(min(seconds, left))} to {until}, at most {clock(left)} in all"
