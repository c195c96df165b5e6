"""The step and its parts, each repeated by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.harness.windows import Arm
from bench.workloads.setup import CoreSetup, plain_arm, repeated, without_gradients
from gan.session.inputs import epoch_inputs
from gan.training.progress import Progress
from gan.training.state import TrainState
from gan.training.step import MicroBatch, StepInputs


def phases(setup: CoreSetup) -> Iterator[Arm]:
    """The step, its parts, and the plain loop.

    `data` is order, images and latents. `fakes` is the generation for D's updates whose images G does
    not learn on.
    `discriminator` and `generator` are forward and backward. `optimizer` is the steps of both optimizers. A part
    that a step does several times is done as often here.
    """
    images_per_step = setup.images_per_step()
    inputs = setup.inputs()
    yield Arm("step", setup.steps(), images_per_step)
    yield Arm("data", _data(setup), images_per_step)
    parts = _Parts.of(setup.state, inputs)
    if parts.updates_with_fakes:
        yield Arm("fakes", repeated(parts.fakes), images_per_step)
    yield Arm("discriminator", repeated(parts.discriminator), images_per_step)
    yield Arm("generator", repeated(parts.generator), images_per_step)
    yield Arm("optimizer", repeated(parts.optimizer), images_per_step)
    yield plain_arm(setup.case)


@dataclass(frozen=True)
class _Parts:
    """The parts of a step on fixed inputs.

    Attributes:
        state: Of the run.
        share: As in `StepInputs`.
        updates: The micro-batches of each update of D, and last those of G's.
        fake: Generated images of a micro-batch.
    """

    state: TrainState
    share: float
    updates: Sequence[Sequence[MicroBatch]]
    fake: Tensor

    @classmethod
    def of(cls, state: TrainState, inputs: StepInputs) -> "_Parts":
        num_updates = state.recipe.discriminator_steps
        updates = [inputs.micro_batches(num_updates, update) for update in (*range(num_updates), -1)]
        first = updates[0][0]
        with torch.no_grad():
            fake = state.generate(first.latents, first.labels).clone()
        return cls(state, inputs.share, updates, fake)

    @property
    def updates_with_fakes(self) -> Sequence[Sequence[MicroBatch]]:
        """The updates of D for which G runs without G's own update."""
        recipe = self.state.recipe
        return self.updates[: 0 if recipe.generator_first else recipe.discriminator_steps - recipe.shared_fakes]

    def fakes(self) -> None:
        for batches in self.updates_with_fakes:
            for batch in batches:
                without_gradients(self.state.generate, batch.latents, batch.labels)

    def discriminator(self) -> None:
        player = self.state.discriminator
        for batches in self.updates[:-1]:
            player.optimizer.zero_grad()
            for batch in batches:
                out = player.objective(batch.real, self.fake, self.share, batch.mix, batch.labels, batch.warps)
                player.backward(out.loss)

    def generator(self) -> None:
        player = self.state.generator
        player.optimizer.zero_grad()
        for batch in self.updates[-1]:
            out = player.objective(batch.latents, self.share, batch.labels, batch.real, batch.warps)
            player.backward(out.loss)

    def optimizer(self) -> None:
        for _ in self.updates[:-1]:
            self.state.discriminator.optimizer.step()
        self.state.generator.optimizer.step()


def _data(setup: CoreSetup) -> Iterator[None]:
    state = replace(setup.state, progress=Progress())
    while True:
        for _ in epoch_inputs(setup.run, state, setup.run.steps_per_epoch):
            yield
        state.end_epoch()
