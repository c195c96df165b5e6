"""One training step: both networks' updates, on one screen."""

from typing import NamedTuple

import torch
from torch import Tensor

from gan.training.state import TrainState


class StepInputs(NamedTuple):
    """What a step takes besides the state. B is this rank's part of the global batch of one update.

    Attributes:
        real: Real images in [-1, 1], shape (num_updates * B, C, H, W), those of D's first update first.
        latents: Standard normal, shape (recipe.latents_per_step, B, latent_dim).
        share: World size / images in the global batch of one update; see `gan.training.objectives`.
        mix: Uniform on [0, 1), shape (num_updates, B), for a penalty that takes it.
        labels: Classes of the real images, shape (num_updates * B,), for conditional recipes. Generated images
            take the same classes.
        warps: Uniform on [0, 1), shape (num_updates + 1, 2, B, recipe.warp_dim), for augmentation of the real and
            the generated images: a row for each of D's updates, and the last one for G's.
    """

    real: Tensor
    latents: Tensor
    share: float
    mix: Tensor | None = None
    labels: Tensor | None = None
    warps: Tensor | None = None


def train_step(state: TrainState, inputs: StepInputs) -> Tensor:
    """Update D `num_updates` times (`recipe.discriminator_steps`) and G once, in the recipe's order.

    A function of its arguments and, for networks with dropout, of the default generator. Nothing in it waits for
    the device.

    Returns:
        METRICS of this rank's images, shape (4,), detached; their mean over the ranks is the global batch's.
    """
    generator = state.generator
    discriminator = state.discriminator
    generator_first = state.recipe.generator_first
    num_updates = state.recipe.discriminator_steps
    if state.compiled:
        torch.compiler.cudagraph_mark_step_begin()

    real = inputs.real.tensor_split(num_updates)
    latents = inputs.latents
    share = inputs.share
    labels = [None] * num_updates if inputs.labels is None else inputs.labels.tensor_split(num_updates)
    mix = [None] * num_updates if inputs.mix is None else inputs.mix
    warps = [None] * (num_updates + 1) if inputs.warps is None else inputs.warps

    if generator_first:  # and D is trained on the very images that G was
        g = generator.objective(latents[0], share, labels[0], real[0], warps[-1])
        generator.update(g.loss)
        fake = g.fake.detach()

    d_metrics = []
    for i in range(num_updates):
        if not generator_first:
            with torch.no_grad():
                fake = state.generate(latents[i], labels[i])
        d = discriminator.objective(real[i], fake, share, mix[i], labels[i], warps[i])
        discriminator.update(d.loss)
        d_metrics.append(torch.stack([d.loss.detach(), d.p_real, d.p_fake]))

    if not generator_first:
        g = generator.objective(latents[-1], share, labels[-1], real[-1], warps[-1])
        generator.update(g.loss)

    loss_d, p_real, p_fake = torch.stack(d_metrics).mean(0)
    return torch.stack([loss_d, g.loss.detach(), p_real, p_fake])
