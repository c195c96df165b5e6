"""TIERS: does a configuration train the same GAN? One row for each question that is asked of a run on digits.

T3, convergence, takes many runs and is asked by workloads of its own: `convergence.py`. docs/stability.md says how
the limits were derived; they stand at the top of each tier's module.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.harness.exchange import Phase, Report, no_report
from bench.results.checks import Check
from bench.results.finite import number_or_none
from bench.stability.determinism import repetition
from bench.stability.health import health
from bench.stability.precision import precision_errors
from bench.stability.semantics import semantics
from bench.stability.steps import fresh
from gan.session.run import Run
from gan.training.metrics import metrics_of
from gan.training.state import TrainState


@dataclass(frozen=True)
class Trial:
    """What the tiers judge.

    Attributes:
        run: Over labelled images in memory, whole batches only.
        state: Of the run. Each tier leaves it some steps further on.
        precision: Of the configuration.
        folder: For a checkpoint.
        report: Told after each step, and before whatever is none.
        losses: The course of each of the recipe's metrics, None where it is not finite, or too large for a
            results file; T4 fills it in.
    """

    run: Run
    state: TrainState
    precision: str
    folder: Path
    report: Report
    losses: dict[str, list[float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tier:
    """A question about a configuration.

    Attributes:
        name: As in `Check.tier`.
        question: In one line.
        judge: Answers it by checks with limits.
        several_processes: Whether it can be asked of several processes.
    """

    name: str
    question: str
    judge: Callable[[Trial], list[Check]]
    several_processes: bool = True


def _trained_precision(trial: Trial) -> list[Check]:
    checks = precision_errors(trial.run, trial.state, trial.precision)
    return [replace(check, name=f"{check.name}, trained") for check in checks]


def _alarms(trial: Trial) -> list[Check]:
    alarms, course = health(trial.run, trial.state, trial.report)
    for name, values in zip(metrics_of(trial.run.recipe), course.T.tolist(), strict=True):
        trial.losses[name] = [*map(number_or_none, values)]
    return [Check("T4", "alarms", len(alarms), 0, "; ".join(map(str, alarms)) or "a sick run")]


TIERS = (
    Tier(
        "T1",
        "is a step the algorithm of the plain loop?",
        lambda trial: semantics(trial.run),
    ),
    Tier(
        "T2",
        "is the first step as exact as its precision allows, or what several processes exchange in it?",
        lambda trial: precision_errors(trial.run, trial.state, trial.precision),
    ),
    Tier(
        "T0",
        "do the same steps repeat bit for bit, and go on so from a checkpoint (T1)?",
        lambda trial: repetition(trial.run, trial.state, trial.folder, trial.report),
    ),
    Tier(
        "T2",
        "is a later step as exact?",
        _trained_precision,
        several_processes=False,
    ),
    Tier(
        "T4",
        "does training go on without an alarm?",
        _alarms,
    ),
)
"""In the order in which they are asked: each goes on from the state that the one before left."""


def judged(run: Run, precision: str, folder: Path, report: Report = no_report) -> tuple[list[Check], Trial]:
    """Ask all tiers; return their checks, and the trial with the course of its losses.

    Args:
        run: Over labelled images in memory, whole batches only.
        precision: Of the configuration.
        folder: For a checkpoint.
        report: Told what is done; what may have to compile is a `Phase.FIRST_STEP`.
    """
    run, state = fresh(run, run.options.seed)
    trial = Trial(run, state, precision, folder, report)
    checks = []
    for tier in TIERS:
        if tier.several_processes or run.place.world_size == 1:
            report(f"first step of {tier.name}", Phase.FIRST_STEP)
            checks += tier.judge(trial)
    return checks, trial
