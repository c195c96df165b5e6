"""T0."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.results.checks import Check
from bench.stability.steps import train_steps
from gan.run import Run
from gan.training.checkpoints import load_checkpoint, newest_first, save_checkpoint
from gan.training.state import TrainState

REPEATED_STEPS = 20


def repetition(
    run: Run, state: TrainState, folder: Path, on_step: Callable[[], None] = lambda: None
) -> list[Check]:
    """T0 and T1: the same steps three times, straight on, and twice from a checkpoint on disk."""
    train_steps(run, state, 3, on_step)
    path = folder / "stability"
    images_seen = state.progress.images_seen
    save_checkpoint(path, state.tensors(), state.counters(), recipe=run.options.recipe, images_seen=images_seen)
    outcomes = []
    for resume in (False, True, True):
        if resume:
            saved = load_checkpoint(newest_first(path)[0])
            state.load(saved.tensors, saved.counters, 0)
        losses = train_steps(run, state, REPEATED_STEPS, on_step)
        tensors = {name: value.clone() for name, value in state.tensors().items() if name != "history"}
        outcomes.append({"losses": losses, **tensors})
    straight, once, again = outcomes
    return [
        Check(
            "T0",
            "tensors that differ when repeated",
            _num_different(once, again),
            0,
            "something random is not seeded, or an operator is not deterministic on this device",
        ),
        Check(
            "T1",
            "tensors that differ after a resume",
            _num_different(straight, once),
            0,
            "a checkpoint does not hold all of the state: the optimizer's, averages, or where the run stands",
        ),
    ]


def _num_different(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(not torch.equal(a[name], b[name]) for name in a) if a.keys() == b.keys() else math.inf
