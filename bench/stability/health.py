"""T4, health: is this run sick? Some hundred steps under the conditions that every training is watched with."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.stability.steps import train_steps
from gan.session.epochs import diversity_ratio
from gan.session.run import Run
from gan.training.health import Alarm
from gan.training.state import TrainState

HEALTH_STEPS = 400
WATCHED_STEPS = 50
"""Steps between two looks at the losses."""
STEPS_PER_MEAN = 10


def health(run: Run, state: TrainState, on_step: Callable[[], None] = lambda: None) -> tuple[list[Alarm], Tensor]:
    """Train HEALTH_STEPS, or until a loss is not finite on any rank.

    Returns:
        The alarms, and the course of METRICS: means of STEPS_PER_MEAN steps each, (n, 4).
    """
    alarms: list[Alarm] = []
    rows = []
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
        alarms += state.health.watch_diversity(diversity_ratio(run, state), state.progress.step)
    course = torch.cat(rows).double()
    return alarms, course.unfold(0, STEPS_PER_MEAN, STEPS_PER_MEAN).mean(-1)
