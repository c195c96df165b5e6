"""The step and its parts, each repeated by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.harness.windows import Arm
from bench.workloads.setup import Setup, repeated, without_gradients
from gan.session.inputs import epoch_inputs
from gan.training.state import Player, Progress, TrainState
from gan.training.step import StepInputs


def phases(setup: Setup) -> Iterator[Arm]:
    """The step, its parts, and the plain loop.

    `data` is order, images and latents. `fakes` is the generation for D's updates, if D comes first.
    `discriminator` and `generator` are forward and backward. `optimizer` is the steps of both optimizers. A part
    that a step does several times is done as often here.
    """
    images_per_step = setup.images_per_step()
    inputs = setup.inputs()
    yield Arm("step", setup.steps(), images_per_step)
    yield Arm("data", _data(setup), images_per_step)
    parts = _Parts.of(setup.state, inputs)
    if not setup.run.recipe.generator_first:
        yield Arm("fakes", repeated(parts.fakes), images_per_step)
    yield Arm("discriminator", repeated(parts.discriminator), images_per_step)
    yield Arm("generator", repeated(parts.generator), images_per_step)
    yield Arm("optimizer", repeated(parts.optimizer), images_per_step)
    yield setup.plain()


@dataclass(frozen=True)
class _Parts:
    """The parts of a step on fixed inputs. Sequences have an entry for each update of D."""

    state: TrainState
    inputs: StepInputs
    real: Sequence[Tensor]
    fake: Tensor
    mix: Sequence[Tensor | None]
    classes: Sequence[Tensor | None]

    @classmethod
    def of(cls, state: TrainState, inputs: StepInputs) -> "_Parts":
        updates = state.recipe.discriminator_steps
        nothing = [None] * updates
        classes = nothing if inputs.labels is None else inputs.labels.tensor_split(updates)
        with torch.no_grad():
            fake = state.generate(inputs.latents[0], classes[0]).clone()
        mix = nothing if inputs.mix is None else list(inputs.mix)
        return cls(state, inputs, inputs.real.tensor_split(updates), fake, mix, classes)

    def fakes(self) -> None:
        for latents, classes in zip(
            self.inputs.latents, self.classes, strict=False
        ):  # G's update has latents, too
            without_gradients(self.state.generate, latents, classes)

    def discriminator(self) -> None:
        player = self.state.discriminator
        for real, mix, classes in zip(self.real, self.mix, self.classes, strict=True):
            _backward(player, player.objective(real, self.fake, self.inputs.share, mix, classes).loss)

    def generator(self) -> None:
        player = self.state.generator
        out = player.objective(self.inputs.latents[-1], self.inputs.share, self.classes[-1], self.real[-1])
        _backward(player, out.loss)

    def optimizer(self) -> None:
        for _ in self.real:
            self.state.discriminator.optimizer.step()
        self.state.generator.optimizer.step()


def _backward(player: Player, loss: Tensor) -> None:
    player.optimizer.zero_grad()
    player.scaler.scale(loss).backward()


def _data(setup: Setup) -> Iterator[None]:
    state = replace(setup.state, progress=Progress())
    while True:
        for _ in epoch_inputs(setup.run, state, setup.run.steps_per_epoch):
            yield
        state.end_epoch()
