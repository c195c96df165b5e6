"""T0, determinism: does a configuration repeat itself? And a part of T1: does a resumed run go on like another?"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from bench.harness.exchange import Phase, Report, no_report
from bench.results.checks import Check
from bench.stability.steps import train_steps
from gan.session.run import Run
from gan.training.checkpoints import load_checkpoint, newest_first, save_checkpoint
from gan.training.state import PER_RANK, TrainState

STEPS_BEFORE = 3
"""Before the checkpoint, so that the optimizers have averages to lose."""
REPEATED_STEPS = 20


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Take only operators that repeat themselves, where PyTorch has one.

    By default cuDNN's convolutions sum gradients in an order that changes from call to call.
    """
    cudnn = torch.backends.cudnn.deterministic
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic.*")  # the check itself says it
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.deterministic = cudnn


@deterministic_algorithms()
def repetition(run: Run, state: TrainState, folder: Path, report: Report = no_report) -> list[Check]:
    """Train the same steps three times: uninterrupted, then twice from a checkpoint on disk.

    The two resumed courses must be the same bits (T0), and the same as the uninterrupted one (T1). All three run
    with deterministic algorithms: what differs then is not seeded, or not saved.

    Args:
        run: Over labelled images in memory.
        state: Of the run; 23 steps further on return.
        folder: For the checkpoint.
        report: Told after each step, and before the checkpoint is written or read.
    """

    def on_step() -> None:
        report(f"step {state.progress.step}")

    train_steps(run, state, STEPS_BEFORE, on_step)
    checkpoints = folder / "stability"
    report("saving a checkpoint", Phase.BETWEEN_STEPS)
    save_checkpoint(
        checkpoints,
        state.tensors(),
        state.counters(),
        recipe=run.options.recipe,
        images_seen=state.progress.images_seen,
    )
    uninterrupted = _course(run, state, on_step)
    resumed = []
    for _ in range(2):
        report("loading the checkpoint", Phase.BETWEEN_STEPS)
        saved = load_checkpoint(newest_first(checkpoints)[0])
        state.load(saved.tensors, saved.counters, 0)
        resumed.append(_course(run, state, on_step))
    return [
        Check(
            "T0",
            "tensors that differ when repeated",
            _num_different(resumed[0], resumed[1]),
            0,
            "something random is not seeded, or an operator has no deterministic algorithm on this device",
        ),
        Check(
            "T1",
            "tensors that differ after a resume",
            _num_different(uninterrupted, resumed[0]),
            0,
            "a checkpoint does not hold all of the state: the optimizer's, averages, or where the run stands",
        ),
    ]


def _course(run: Run, state: TrainState, on_step: Callable[[], None]) -> dict[str, Tensor]:
    """Train REPEATED_STEPS and return their losses and all tensors of the state after them."""
    losses = train_steps(run, state, REPEATED_STEPS, on_step)
    tensors = {name: value.clone() for name, value in state.tensors().items() if name not in PER_RANK}
    return {"losses": losses, **tensors}


def _num_different(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    if a.keys() != b.keys():
        return math.inf
    return sum(not torch.equal(a[name], b[name]) for name in a)
