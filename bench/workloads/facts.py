"""How well a configuration trains: plain functions that train on digits and return facts, ready for JSON."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.harness.exchange import Phase
from bench.results.checks import Check
from bench.stability.convergence import (
    convergence_checks,
    outcome_of_seed,
    protocol,
    quality_checks,
    reach_quality,
)
from bench.stability.tiers import judged
from bench.workloads.setup import CoreSetup, on_digits
from gan.quality.judge import judge_of


def stability(setup: CoreSetup) -> dict[str, Any]:
    """Return the checks of tiers T0, T1, T2 and T4, and the course of the losses."""
    checks, trial = judged(on_digits(setup.run), setup.case.precision, setup.folder, setup.report)
    return {"checks": _to_json(checks), "losses": trial.losses}


def convergence(setup: CoreSetup) -> dict[str, Any]:
    """Return how training ends for each of `effort.seeds` seeds, and how that compares with the reference (T3)."""
    run = on_digits(setup.run)
    judge = judge_of("digits", run.dataset)
    seeds = []
    for seed in range(setup.effort.seeds):
        name = f"seed {seed + 1} of {setup.effort.seeds}"
        setup.report(f"first step of {name}", Phase.FIRST_STEP)
        seeds.append(outcome_of_seed(run, seed, judge, partial(_report_of, setup, name)))
    return {"checks": _to_json(convergence_checks(run, seeds)), "protocol": protocol(), "seeds": seeds}


def _report_of(setup: CoreSetup, name: str, doing: str, phase: Phase = Phase.STEPS) -> None:
    setup.report(f"{name}, {doing}", phase)


def time_to_quality(setup: CoreSetup) -> dict[str, Any]:
    """Return after how many seconds and images generated digits are as good as a target, scoring left out."""
    setup.report("first step of training", Phase.FIRST_STEP)
    quality = reach_quality(on_digits(setup.run), setup.report)
    return {"checks": _to_json(quality_checks(quality)), "quality": quality}


def _to_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    return [check.to_json() for check in checks]
