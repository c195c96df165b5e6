"""The step and its parts, each repeated by itself."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from bench.harness.windows import Arm
from bench.workloads.setup import Setup, repeated, training_steps, without_gradients
from gan.inputs import epoch_inputs
from gan.training.state import Player, Progress


def phases(setup: Setup) -> Iterator[Arm]:
    """The step and its parts, each repeated by itself.

    `data` is order, images and latents; `fakes` the generation for D's turns, where D comes first; `discriminator`
    and `generator` are forward and backward; `optimizer` is both optimizers' steps. What a step does several times
    for D is done as often here.
    """
    state = setup.state
    inputs, images_per_step = setup.inputs(), setup.images_per_step()
    updates = state.recipe.discriminator_steps
    real = inputs.real.tensor_split(updates)
    mix = [None] * updates if inputs.mix is None else inputs.mix
    classes = [None] * updates if inputs.labels is None else inputs.labels.tensor_split(updates)
    discriminator, generator = state.discriminator, state.generator
    yield Arm("step", training_steps(setup.run, state), images_per_step)
    yield Arm("data", _data(setup), images_per_step)
    with torch.no_grad():
        fake = state.generate(inputs.latents[0], classes[0]).clone()

    def fakes() -> None:
        for index in range(updates):
            without_gradients(state.generate, inputs.latents[index], classes[index])

    def of_discriminator() -> None:
        for index in range(updates):
            out = discriminator.objective(real[index], fake, inputs.share, mix[index], classes[index])
            _backward(discriminator, out.loss)

    def of_generator() -> None:
        out = generator.objective(inputs.latents[-1], inputs.share, classes[-1], real[-1])
        _backward(generator, out.loss)

    def of_optimizers() -> None:
        for _ in range(updates):
            discriminator.optimizer.step()
        generator.optimizer.step()

    if not state.recipe.generator_first:
        yield Arm("fakes", repeated(fakes), images_per_step)
    yield Arm("discriminator", repeated(of_discriminator), images_per_step)
    yield Arm("generator", repeated(of_generator), images_per_step)
    yield Arm("optimizer", repeated(of_optimizers), images_per_step)
    yield setup.plain()


def _backward(player: Player, loss: Tensor) -> None:
    player.optimizer.zero_grad()
    player.scaler.scale(loss).backward()


def _data(setup: Setup) -> Iterator[None]:
    state = replace(setup.state, progress=Progress())
    while True:
        for _ in epoch_inputs(setup.run, state, setup.run.steps_per_epoch):
            yield
        state.end_epoch()
