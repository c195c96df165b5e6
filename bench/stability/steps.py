"""The steps that the tiers take, and the networks that they compare."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gan.data.in_memory import InMemoryImages
from gan.data.order import shard
from gan.images import to_unit_range
from gan.loop import take_step
from gan.models.architectures import build_discriminator, build_generator
from gan.models.style_generator import NoiseInput, StyleGenerator
from gan.seeds import derive_seed
from gan.session.inputs import epoch_inputs
from gan.session.run import Run
from gan.training.batch import StepInputs
from gan.training.state import TrainState, build_state


def fresh(run: Run, seed: int) -> tuple[Run, TrainState]:
    """Return a run with another seed, and its state before the first step.

    Args:
        run: Over labelled images in memory.
        seed: Of weights, order and latents.
    """
    run = replace(run, options=replace(run.options, seed=seed))
    return run, built_state(run, run.steps_per_epoch, torch.float32)


def built_state(run: Run, steps_per_epoch: int, dtype: torch.dtype) -> TrainState:
    """Return a run's state before its first step, its networks in a dtype.

    In float64, processes exchange gradients as they are: T1 asks for the algorithm, and T2 how exact it is.
    """
    assert isinstance(run.dataset, InMemoryImages)
    assert run.dataset.labels is not None
    execution = run.options.execution
    if dtype == torch.float64:
        execution = replace(execution, comm_hook="no")
    return build_state(
        run.recipe,
        run.dataset.image_shape,
        run.accelerator,
        seed=run.options.seed,
        steps_per_epoch=steps_per_epoch,
        num_classes=int(run.dataset.labels.max()) + 1 if run.recipe.conditional else 0,
        dtype=dtype,
        execution=execution,
        partly_used=run.partly_used,
    )


def train_steps(run: Run, state: TrainState, num_steps: int, on_step: Callable[[], None] = lambda: None) -> Tensor:
    """Take steps as `gan/train.py` does, and return their metrics (num_steps, columns)."""
    rows = []
    while num_steps:
        first = state.progress.position
        end = min(run.steps_per_epoch, first + num_steps)
        for inputs, num_images in epoch_inputs(run, state, end):
            take_step(state, inputs, num_images)
            on_step()
        rows.append(state.history[first:end].clone())
        num_steps -= end - first
        if end == run.steps_per_epoch:
            state.end_epoch()
    return torch.cat(rows)


def step_inputs(run: Run, step: int = 0) -> StepInputs:
    """Return what a step on the whole global batch takes, in fp32; every call draws the same.

    Args:
        run: Over images in memory.
        step: Another number draws other inputs.
    """
    recipe = run.recipe
    num_images = run.global_batch_size
    device = run.place.device
    assert isinstance(run.dataset, InMemoryImages)
    source = torch.Generator().manual_seed(derive_seed(run.options.seed, "stability", step))
    updates = recipe.discriminator_steps
    rows = torch.randperm(len(run.dataset), generator=source)[: updates * num_images].to(device)

    def draw(numbers: Any, *shape: int) -> Tensor:
        drawn: Tensor = numbers(shape, generator=source).to(device)
        return drawn

    return StepInputs(
        real=to_unit_range(run.dataset.train[rows]),
        latents=draw(torch.randn, recipe.latents_per_step, num_images, recipe.latent_dim),
        share=1 / num_images,
        mix=draw(torch.rand, updates, num_images) if recipe.penalty and recipe.penalty.mixes else None,
        labels=run.dataset.labels[rows] if recipe.conditional and run.dataset.labels is not None else None,
        warps=draw(torch.rand, updates + 1, 2, num_images, recipe.warp_dim) if recipe.augmentation else None,
        num_micro_batches=run.options.accumulate,
        directions=draw(torch.randn, num_images, *run.dataset.image_shape)
        if recipe.lazy_generator_penalty
        else None,
    )


def to_float64(inputs: StepInputs) -> StepInputs:
    """Return a step's inputs in float64."""
    in_float64: dict[str, Any] = {
        name: value.double()
        for name, value in inputs._asdict().items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return inputs._replace(**in_float64)


def part_of(inputs: StepInputs, run: Run) -> StepInputs:
    """Return this rank's part of a global batch."""
    place = run.place
    num_parts = inputs.num_micro_batches
    all_rows = torch.arange(len(inputs.real))
    rows = shard(all_rows, place.rank, place.world_size, run.recipe.discriminator_steps, num_parts)
    return StepInputs(
        real=inputs.real[rows],
        latents=place.part_of(inputs.latents, 1, num_parts),
        # a rank's loss is its sum times this; DDP takes the mean over ranks, so the global share counts so often
        share=place.world_size * inputs.share,
        mix=None if inputs.mix is None else place.part_of(inputs.mix, 1, num_parts),
        labels=None if inputs.labels is None else inputs.labels[rows],
        warps=None if inputs.warps is None else place.part_of(inputs.warps, 2, num_parts),
        num_micro_batches=num_parts,
        directions=None if inputs.directions is None else place.part_of(inputs.directions, 0, num_parts),
    )


STILL: dict[type[nn.Module], tuple[str, Any]] = {
    nn.Dropout: ("p", 0.0),
    _SpectralNorm: ("training", False),
    NoiseInput: ("training", False),
    StyleGenerator: ("mixing", 0.0),
}
"""What differs from one forward pass to the next, and the attribute that switches it off."""


@contextmanager
def still(*networks: nn.Module) -> Iterator[None]:
    """Switch off dropout, the iterations of spectral norm, and what a style-based generator draws."""
    before = [
        (module, name, getattr(module, name), value)
        for network in networks
        for module in network.modules()
        for kind, (name, value) in STILL.items()
        if isinstance(module, kind)
    ]
    for module, name, _, value in before:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value, _ in before:
            setattr(module, name, value)


def plain_copies(run: Run, state: TrainState, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return both networks, built by PyTorch alone, with a state's weights and buffers, in its memory format.

    Other kernels round otherwise, and Adam's first step does not depend on the size of a gradient: one that is
    zero but for rounding, as that of a bias before BatchNorm, moves its weight as far as any other.
    """
    recipe = run.recipe
    shape = state.image_shape
    built = {
        "discriminator": build_discriminator(recipe.discriminator, shape, state.num_classes),
        "generator": build_generator(recipe.generator, recipe.latent_dim, shape, state.num_classes),
    }
    for name, network in built.items():
        network.load_state_dict(state.players[name].network.state_dict())
        state.execution.place(network, run.place.device, dtype)
    return built
