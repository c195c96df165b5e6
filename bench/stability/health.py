"""T4."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.stability.steps import train_steps
from gan.epochs import diversity_ratio
from gan.run import Run
from gan.training.health import Alarm
from gan.training.state import TrainState

HEALTH_STEPS = 400
WATCHED_STEPS = 50


def health(run: Run, state: TrainState, on_step: Callable[[], None] = lambda: None) -> tuple[list[Alarm], Tensor]:
    """T4: train on and watch; return alarms, and METRICS as means of 10 steps each (n, 4)."""
    alarms: list[Alarm] = []
    rows = []
    for _ in range(HEALTH_STEPS // WATCHED_STEPS):
        rows.append(train_steps(run, state, WATCHED_STEPS, on_step).cpu())
        finite = rows[-1].isfinite().all(1)
        ranks = run.accelerator.reduce(finite.to(run.accelerator.device, torch.float32), "mean") == 1
        if not ranks.all():
            first = state.progress.step - WATCHED_STEPS + 1 + int(ranks.long().argmin())
            alarms.append(Alarm("spike", "both networks", first, "a loss is not finite"))
            break
        alarms += state.health.watch(rows[-1], state.progress.step)
    if not alarms:
        alarms += state.health.watch_diversity(diversity_ratio(run, state), state.progress.step)
    course = torch.cat(rows).double()
    return alarms, course.unfold(0, 10, 10).mean(-1)
