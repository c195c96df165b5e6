"""What training comes to: plain functions that return facts."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from bench.harness.exchange import Phase
from bench.harness.windows import Arm
from bench.results.checks import Check
from bench.stability.convergence import (
    convergence_checks,
    outcome_of_seed,
    protocol,
    quality_checks,
    reach_quality,
)
from bench.stability.tiers import tiers
from bench.workloads.setup import Setup, on_digits, training_steps
from gan.quality.judge import judge_of


def stability(setup: Setup) -> Iterator[Arm]:
    """The step on digits, and what the tiers of `bench.stability.tiers` find."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    _note(setup, **tiers(run, setup.case.precision, setup.folder, setup.report))


def convergence(setup: Setup) -> Iterator[Arm]:
    """The step on digits, and what several seeds come to."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    judge = judge_of("digits", run.dataset)
    seeds = [
        outcome_of_seed(run, seed, judge, partial(_report_seed, setup, seed)) for seed in range(setup.effort.seeds)
    ]
    _note(setup, checks=convergence_checks(run, seeds), protocol=protocol(), seeds=seeds)


def _report_seed(setup: Setup, seed: int, doing: str, phase: Phase = Phase.STEPS) -> None:
    setup.report(f"seed {seed + 1} of {setup.effort.seeds}, {doing}", phase)


def time_to_quality(setup: Setup) -> Iterator[Arm]:
    """Training on digits until the Fréchet distance is a multiple of its floor, the time of scoring left out."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    quality = reach_quality(run, setup.report)
    _note(setup, checks=quality_checks(quality), quality=quality)


def _note(setup: Setup, checks: Sequence[Check], **facts: Any) -> None:
    """Keep what was found, and what each check says of it."""
    setup.facts.update(facts, checks=[check.to_json() for check in checks])
