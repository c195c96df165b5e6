"""One training step: both networks' updates, on one screen."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gan.recipes import Recipe
from gan.training.state import TrainState


class StepInputs(NamedTuple):
    """What a step takes besides the state: this process's part.

    Attributes:
        real: Real images in [-1, 1], shape (discriminator_steps * B, C, H, W), those of D's first update first.
        latents: Standard normal, shape (recipe.latents_per_step, B, latent_dim).
        share: Number of processes / images in the global batch of one update.
        mix: Uniform on [0, 1), shape (discriminator_steps, B), for a penalty that takes it.
        labels: Classes of the real images, which the generated ones take too, for conditional recipes.
        warps: Uniform on [0, 1), shape (discriminator_steps + 1, 2, B, recipe.warp_dim), for augmentation: of the
            real and the generated images of each of D's updates, and of G's.
    """

    real: Tensor
    latents: Tensor
    share: float
    mix: Tensor | None = None
    labels: Tensor | None = None
    warps: Tensor | None = None


def train_step(state: TrainState, inputs: StepInputs) -> Tensor:
    """Update D and G in the recipe's order: each once, or D several times.

    A function of its arguments and, where networks have dropout, of the default generator. Nothing in it waits
    for the device.

    Returns:
        METRICS of this process's samples, shape (4,), detached; their mean over processes is the global batch's.
    """
    generator, discriminator = state.generator, state.discriminator
    if state.compiled:
        torch.compiler.cudagraph_mark_step_begin()

    updates, (_, latents, share, *_) = state.recipe.discriminator_steps, inputs
    real = inputs.real.tensor_split(updates)
    classes = [None] * updates if inputs.labels is None else inputs.labels.tensor_split(updates)
    mix = [None] * updates if inputs.mix is None else inputs.mix
    warps = [None] * (updates + 1) if inputs.warps is None else inputs.warps

    if state.recipe.generator_first:
        g = generator.objective(latents[0], share, classes[0], real[0], warps[-1])
        generator.update(g.loss)
        fake = g.fake.detach()

    of_discriminator = []
    for index in range(updates):
        if not state.recipe.generator_first:
            with torch.no_grad():
                fake = state.generate(latents[index], classes[index])
        d = discriminator.objective(real[index], fake, share, mix[index], classes[index], warps[index])
        discriminator.update(d.loss)
        of_discriminator.append(torch.stack([d.loss.detach(), d.p_real, d.p_fake]))

    if not state.recipe.generator_first:
        g = generator.objective(latents[-1], share, classes[-1], real[-1], warps[-1])
        generator.update(g.loss)

    loss_d, p_real, p_fake = torch.stack(of_discriminator).mean(0)
    return torch.stack([loss_d, g.loss.detach(), p_real, p_fake])


class Place(NamedTuple):
    """Which part of a global batch a process draws: `rank` of `num_processes`, on `device`.

    Every process draws the numbers of the global batch and keeps its own, so that they do not depend on the number
    of processes. Devices of different kinds draw different ones.
    """

    rank: int
    num_processes: int
    device: torch.device

    def draw(self, numbers: Callable[..., Tensor], shape: tuple[int, ...], seed: int, dim: int) -> Tensor:
        """Draw with `torch.randn` or `torch.rand`, and keep this process's part along the batch's dimension."""
        generator = torch.Generator(self.device).manual_seed(seed)
        drawn = numbers(shape, generator=generator, device=self.device)
        return drawn if self.num_processes == 1 else drawn.tensor_split(self.num_processes, dim)[self.rank]


def draw_latents(recipe: Recipe, num_images: int, seed: int, place: Place) -> Tensor:
    """Draw a step's `StepInputs.latents`, for `num_images` in the global batch of one update."""
    return place.draw(torch.randn, (recipe.latents_per_step, num_images, recipe.latent_dim), seed, 1)


def draw_mix(recipe: Recipe, num_images: int, seed: int, place: Place) -> Tensor | None:
    """Draw a step's `StepInputs.mix`; None where no penalty takes it."""
    if recipe.penalty is None or not recipe.penalty.mixes:
        return None
    return place.draw(torch.rand, (recipe.discriminator_steps, num_images), seed, 1)


def draw_warps(recipe: Recipe, num_images: int, seed: int, place: Place) -> Tensor | None:
    """Draw a step's `StepInputs.warps`; None where nothing is augmented."""
    if not recipe.augmentation:
        return None
    return place.draw(torch.rand, (recipe.discriminator_steps + 1, 2, num_images, recipe.warp_dim), seed, 2)
