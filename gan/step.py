"""One training step: both networks' updates, on one screen."""

import torch
from torch import Tensor

from gan.recipes import Recipe
from gan.state import TrainState


def train_step(state: TrainState, real: Tensor, latents: Tensor, share: float) -> Tensor:
    """Update D and G once, in the recipe's order.

    A function of its arguments and, where networks have dropout, of the default generator. Nothing in it waits
    for the device.

    Args:
        state: Updated in place.
        real: This process's real images in [-1, 1], shape (B, C, H, W).
        latents: Standard normal, shape (recipe.latents_per_step, B, latent_dim).
        share: Number of processes / images in the global batch.

    Returns:
        METRICS of this process's samples, shape (4,), detached; their mean over processes is the global batch's.
    """
    generator, discriminator = state.generator, state.discriminator
    if state.compiled:
        torch.compiler.cudagraph_mark_step_begin()

    if state.recipe.generator_first:
        g = generator.objective(latents[0], share)
        generator.update(g.loss)
        fake = g.fake.detach()
    else:
        with torch.no_grad():
            fake = state.generate(latents[0])

    d = discriminator.objective(real, fake, share)
    discriminator.update(d.loss)

    if not state.recipe.generator_first:
        g = generator.objective(latents[1], share)
        generator.update(g.loss)

    return torch.stack([d.loss.detach(), g.loss.detach(), d.p_real, d.p_fake])


def draw_latents(
    recipe: Recipe, num_images: int, *, seed: int, rank: int, num_processes: int, device: torch.device
) -> Tensor:
    """Draw a step's standard normal latents.

    Every process draws those of the global batch and keeps its rows, so that they do not depend on the number of
    processes.

    Args:
        recipe: Says how many batches of which width.
        num_images: Images in the global batch.
        seed: Of this step.
        rank: This process.
        num_processes: Of how many.
        device: Where to draw; devices of different kinds draw different numbers.

    Returns:
        Shape (recipe.latents_per_step, B, latent_dim), where B is this process's part of `num_images`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    shape = (recipe.latents_per_step, num_images, recipe.latent_dim)
    latents = torch.randn(shape, generator=generator, device=device)
    return latents if num_processes == 1 else latents.tensor_split(num_processes, dim=1)[rank]
