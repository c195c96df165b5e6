"""What each step takes: real images in the epoch's order, and random numbers.

Everything random is drawn from a seed that is a function of (run's seed, purpose, epoch, step). So a resumed run
draws what an uninterrupted one would have drawn, and no state of a generator needs saving.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gan.data.mirroring import mirrored
from gan.data.order import epoch_batches, shard
from gan.images import ImageShape
from gan.process.place import Place
from gan.recipes import Recipe
from gan.seeds import derive_seeds, seed_default_generator
from gan.session.run import Run
from gan.training.batch import StepInputs
from gan.training.state import TrainState


def epoch_inputs(run: Run, state: TrainState, end: int) -> Iterator[tuple[StepInputs, int]]:
    """Yield the inputs of each step from where `state` stands in its epoch up to step `end` of that epoch.

    Before it yields, it seeds the default generator, which dropout draws from.

    Args:
        run: What stays the same.
        state: Its progress is read once, at the beginning.
        end: At most `run.steps_per_epoch`.

    Yields:
        This rank's inputs, and the number of real images that all ranks take in the step.
    """
    recipe = run.recipe
    place = run.place
    seed = run.options.seed
    epoch = state.progress.epoch
    steps = slice(state.progress.position, end)
    num_updates = recipe.discriminator_steps

    batches = epoch_batches(len(run.dataset), run.images_per_step, recipe.sampling, seed=seed, epoch=epoch)[steps]
    parts = [run.num_micro_batches(len(batch) // num_updates) for batch in batches]
    shards = [
        shard(batch, place.rank, place.world_size, num_updates, num_micro_batches)
        for batch, num_micro_batches in zip(batches, parts, strict=True)
    ]
    images = run.dataset.stream(shards)
    if recipe.mirror:
        images = _mirrored(images, recipe, batches, parts, derive_seeds(end, seed, "mirror", epoch)[steps], place)
    labels: Sequence[Tensor | None] = [None] * len(shards)
    if recipe.conditional:
        assert run.dataset.labels is not None
        labels = run.dataset.labels[torch.cat(shards).to(place.device)].split([len(rows) for rows in shards])

    # Latents, mixes and warps have the same seed on all ranks: each draws the global batch and keeps its part.
    # Dropout draws inside of the networks, where only the rank's images are, so its seed depends on the rank.
    latent_seeds = derive_seeds(end, seed, "latents", epoch)[steps]
    mix_seeds = derive_seeds(end, seed, "mix", epoch)[steps] if recipe.penalty else latent_seeds
    warp_seeds = derive_seeds(end, seed, "warps", epoch)[steps] if recipe.augmentation else latent_seeds
    direction_seeds = (
        derive_seeds(end, seed, "directions", epoch)[steps] if recipe.lazy_generator_penalty else latent_seeds
    )
    dropout_seeds = derive_seeds(end, seed, "dropout", epoch, place.rank)[steps]

    seeds = zip(latent_seeds, mix_seeds, warp_seeds, direction_seeds, dropout_seeds, strict=True)
    first_step = state.progress.step
    for step, (batch, num_micro_batches, real, classes, of_step) in enumerate(
        zip(batches, parts, images, labels, seeds, strict=True), first_step
    ):
        latent_seed, mix_seed, warp_seed, direction_seed, dropout_seed = of_step
        num_images = len(batch) // num_updates  # in the global batch of one update
        directions = None
        if recipe.due(step).generator:
            directions = draw_directions(num_images, state.image_shape, direction_seed, place, num_micro_batches)
        inputs = StepInputs(
            real=real,
            latents=draw_latents(recipe, num_images, latent_seed, place, num_micro_batches),
            share=place.world_size / num_images,
            mix=draw_mix(recipe, num_images, mix_seed, place, num_micro_batches),
            labels=classes,
            warps=draw_warps(recipe, num_images, warp_seed, place, num_micro_batches),
            num_micro_batches=num_micro_batches,
            directions=directions,
        )
        seed_default_generator(place.device, dropout_seed)
        yield inputs, len(batch)


def _mirrored(
    images: Iterator[Tensor],
    recipe: Recipe,
    batches: Sequence[Tensor],
    parts: Sequence[int],
    seeds: Sequence[int],
    place: Place,
) -> Iterator[Tensor]:
    """Yield the real images of each step, mirrored or not.

    Args:
        images: This rank's, of each step.
        recipe: A row that mirrors.
        batches: Of all ranks, of each step.
        parts: Micro-batches of an update, of each step.
        seeds: Of each step, the same on all ranks.
        place: Of this process.
    """
    num_updates = recipe.discriminator_steps
    for real, batch, num_micro_batches, seed in zip(images, batches, parts, seeds, strict=True):
        shape = (num_updates, len(batch) // num_updates)
        yield mirrored(real, _draw(torch.rand, shape, 1, seed, place, num_micro_batches).flatten())


def draw_latents(recipe: Recipe, num_images: int, seed: int, place: Place, micro_batches: int = 1) -> Tensor:
    """Draw a step's `StepInputs.latents`, for `num_images` in the global batch of one update."""
    return _draw(
        torch.randn, (recipe.latents_per_step, num_images, recipe.latent_dim), 1, seed, place, micro_batches
    )


def draw_mix(recipe: Recipe, num_images: int, seed: int, place: Place, micro_batches: int = 1) -> Tensor | None:
    """Draw a step's `StepInputs.mix`; None for a recipe without a penalty that takes it."""
    if recipe.penalty is None or not recipe.penalty.mixes:
        return None
    return _draw(torch.rand, (recipe.discriminator_steps, num_images), 1, seed, place, micro_batches)


def draw_warps(recipe: Recipe, num_images: int, seed: int, place: Place, micro_batches: int = 1) -> Tensor | None:
    """Draw a step's `StepInputs.warps`; None for a recipe without augmentation."""
    if not recipe.augmentation:
        return None
    return _draw(
        torch.rand, (recipe.discriminator_steps + 1, 2, num_images, recipe.warp_dim), 2, seed, place, micro_batches
    )


def draw_directions(
    num_images: int, image_shape: ImageShape, seed: int, place: Place, micro_batches: int = 1
) -> Tensor:
    """Draw a step's `StepInputs.directions`, for `num_images` in the global batch."""
    return _draw(torch.randn, (num_images, *image_shape), 0, seed, place, micro_batches)


def _draw(
    distribution: Callable[..., Tensor],
    shape: tuple[int, ...],
    batch_dim: int,
    seed: int,
    place: Place,
    micro_batches: int,
) -> Tensor:
    """Draw the global batch's numbers and keep this rank's part, so that they do not depend on the world size.

    They do depend on the kind of device: CPUs and GPUs have different generators.
    """
    generator = torch.Generator(place.device).manual_seed(seed)
    return place.part_of(distribution(shape, generator=generator, device=place.device), batch_dim, micro_batches)
