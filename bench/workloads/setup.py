"""What a workload is measured on, and the steps that several workloads share."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.harness.exchange import Report, no_report
from bench.harness.windows import Arm, Effort
from bench.subjects.load import PLAIN
from bench.subjects.plain import make as make_plain
from bench.suite.cases import EXECUTION_AXES, Case
from gan.data.datasets import DATASETS, DEFAULT_IMAGE_SHAPE, DatasetRequest
from gan.models.networks import apply
from gan.session.inputs import epoch_inputs
from gan.session.run import Run
from gan.surface import MeasuredRun, whole_batches
from gan.training.batch import StepInputs
from gan.training.progress import Progress
from gan.training.state import TrainState, build_state

Products = Sequence[Sequence[Callable[[], object]]]
"""What takes the products of each step of a period, as `in_turn` takes them."""


@dataclass(frozen=True)
class CoreSetup:
    """What a case is measured on.

    Attributes:
        case: The case.
        run: The core's run over random images, whole batches only.
        state: Of the run.
        folder: For files that the measurement writes.
        facts: Takes what is counted besides times.
        effort: How long to measure.
        report: Told what is done. A process that does not call it is taken to hang.
    """

    case: Case
    run: Run
    state: TrainState
    folder: Path
    facts: dict[str, Any]
    effort: Effort
    report: Report = no_report

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return self.run.place.device

    def images_per_step(self, batch_size: int | None = None) -> int:
        """Return the real images of a step, over all processes or of one process alone that updates on so many."""
        return (batch_size or self.case.global_batch_size) * self.run.recipe.discriminator_steps

    @property
    def period(self) -> int:
        """Steps after which the costs of its steps repeat."""
        return self.run.recipe.period

    def steps(self) -> Iterator[None]:
        """Train forever as `gan/train.py` does between two log points: order, images, latents, both updates."""
        return MeasuredRun(self.run, self.state).steps()

    def inputs(self) -> StepInputs:
        """Return the inputs of one step."""
        inputs, _ = next(epoch_inputs(self.run, replace(self.state, progress=Progress()), 1))
        return inputs


def another_state(setup: CoreSetup, accelerator: Any) -> TrainState:
    """Return a state like that of a setup, with networks of its own.

    Args:
        setup: Whose case it is of.
        accelerator: Of all processes, or of one alone.
    """
    run = setup.run
    return build_state(
        run.recipe,
        run.dataset.image_shape,
        accelerator,
        seed=run.options.seed,
        steps_per_epoch=run.steps_per_epoch,
        num_classes=setup.state.num_classes,
        execution=run.options.execution,
        partly_used=run.partly_used,
    )


def plain_arm(case: Case) -> Arm:
    """Return the plain loop of a case's recipe, in one process at the batch that the case names."""
    alone = replace(
        case,
        subject=PLAIN,
        precision="fp32",
        compile="no",
        num_processes=1,
        num_hosts=1,
        scaling="weak",
        **EXECUTION_AXES,
    )

    def steps() -> Iterator[None]:
        plain = make_plain(alone.setup())  # only in the process that takes its steps
        yield from repeated(plain.step)

    row = alone.row
    images_per_step = alone.global_batch_size * row.discriminator_steps
    return Arm("plain", steps(), images_per_step, row.period, alone=True)


def steps_inside(context: Callable[[], Any], steps: Iterator[object]) -> Iterator[None]:
    """Take every step inside a context."""
    while True:
        with context():
            next(steps)
        yield


def repeated(*calls: Callable[[], object]) -> Iterator[None]:
    """Make these calls forever; together they are a step."""
    while True:
        for call in calls:
            call()
        yield


def in_turn(steps: Products) -> Iterator[None]:
    """Make the calls of one step after another, and begin anew after the last, forever."""
    for calls in itertools.cycle(steps):
        for call in calls:
            call()
        yield


@torch.no_grad()
def without_gradients(network: Callable[..., Tensor], latents: Tensor, labels: Tensor | None) -> Tensor:
    """Return a generator's images (N, C, H, W) of latents (N, latent_dim) and classes (N,)."""
    return apply(network, latents, labels)


def on_digits(run: Run) -> Run:
    """Return a run over the bundled digits, whole batches only."""
    request = DatasetRequest(run.options.data_root, DEFAULT_IMAGE_SHAPE, 0, run.place.device)
    return whole_batches(replace(run, dataset=DATASETS["digits"](request)))
