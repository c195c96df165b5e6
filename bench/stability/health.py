"""T4, health: is this run sick? Some hundred steps under the conditions that every training is watched with."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bench.harness.exchange import Phase, Report, no_report
from bench.stability.steps import train_steps
from gan.session.epochs import diversity_ratio
from gan.session.run import Run
from gan.training.health import SATURATION_LIMIT, SPIKE_LIMIT, SPIKE_STEPS, Alarm
from gan.training.state import TrainState

HEALTH_STEPS = 400
WATCHED_STEPS = 50
"""Steps between two looks at the losses."""
STEPS_PER_MEAN = 10
DISCRIMINATOR_LOSS = "loss_d"
FIRST_STEPS = 5
"""Steps at whose beginning D knows nothing, so that its loss is about that at chance level."""


def health(run: Run, state: TrainState, report: Report = no_report) -> tuple[list[Alarm], Tensor]:
    """Train HEALTH_STEPS, or until a loss is not finite on any rank.

    Args:
        run: Over images in memory.
        state: Of the run.
        report: Told after each step, and before images are generated.

    Returns:
        The alarms, and the course of the recipe's metrics: means of STEPS_PER_MEAN steps each, (n, columns).
    """
    alarms: list[Alarm] = []
    rows = []

    def on_step() -> None:
        report(f"step {state.progress.step}")

    for _ in range(HEALTH_STEPS // WATCHED_STEPS):
        rows.append(train_steps(run, state, WATCHED_STEPS, on_step).cpu())
        finite = rows[-1].isfinite().all(1)
        finite_everywhere = run.accelerator.reduce(finite.to(run.place.device, torch.float32), "mean") == 1
        if not finite_everywhere.all():
            first = state.progress.step - WATCHED_STEPS + 1 + int(finite_everywhere.long().argmin())
            alarms.append(Alarm("spike", "both networks", first, "a loss is not finite"))
            break
        alarms += state.health.watch(rows[-1], state.progress.step)
    if not alarms:
        report("diversity of generated images", Phase.BETWEEN_STEPS)
        alarms += state.health.watch_diversity(diversity_ratio(run, state), state.progress.step)
    course = torch.cat(rows).double()
    return alarms, course.unfold(0, STEPS_PER_MEAN, STEPS_PER_MEAN).mean(-1)


def alarms_of(course: Mapping[str, Sequence[float]]) -> list[str]:
    """Judge a course of losses of which nothing is known but their names; return a line for each finding.

    A loss that is not finite is an alarm. The size of a loss that is negative somewhere, a critic's, is arbitrary.
    Any other spikes if its median over SPIKE_STEPS of the last quarter is over SPIKE_LIMIT times its size in the
    half before. D is saturated if `loss_d` is, in the last half, below SATURATION_LIMIT times what it was in the
    first steps.

    Args:
        course: By name, a value for each step.
    """
    alarms = []
    for name, values in course.items():
        series = torch.tensor(values, dtype=torch.float64)
        finite = series.isfinite()
        if not finite.all():
            alarms.append(f"step {int(finite.long().argmin()) + 1}: {name} is not finite")
            continue
        quarter = len(series) // 4
        if series.min() < 0 or quarter < 1:
            continue
        usual = float(series[quarter : 3 * quarter].quantile(0.95))
        last = series[3 * quarter :]
        median = last.unfold(0, min(SPIKE_STEPS, len(last)), 1).median(-1).values.max()
        if (ratio := float(median) / max(usual, 1e-6)) > SPIKE_LIMIT:
            alarms.append(f"{name} stayed at {ratio:.0f} times its usual size for a while")
        first = float(series[:FIRST_STEPS].median())
        if name == DISCRIMINATOR_LOSS and float(series[2 * quarter :].quantile(0.95)) < SATURATION_LIMIT * first:
            alarms.append(f"{name} is saturated, below {SATURATION_LIMIT:.1%} of what it was in the first steps")
    return alarms
