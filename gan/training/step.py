"""One training step: both networks' updates, on one screen."""

from typing import NamedTuple

import torch
from torch import Tensor

from gan.training.state import TrainState


class MicroBatch(NamedTuple):
    """What one forward and backward pass of an update takes: a part of `StepInputs`, of M images.

    Attributes:
        real: Shape (M, C, H, W).
        latents: Shape (M, latent_dim).
        mix: Shape (M,).
        labels: Shape (M,).
        warps: Shape (2, M, warp_dim).
        directions: Shape (M, C, H, W).
    """

    real: Tensor
    latents: Tensor
    mix: Tensor | None
    labels: Tensor | None
    warps: Tensor | None
    directions: Tensor | None


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
        num_micro_batches: Parts that an update's batch is divided into. Their gradients are added up.
        directions: Standard normal, shape (B, C, H, W), in a step in which a penalty of G is due.
    """

    real: Tensor
    latents: Tensor
    share: float
    mix: Tensor | None = None
    labels: Tensor | None = None
    warps: Tensor | None = None
    num_micro_batches: int = 1
    directions: Tensor | None = None

    def micro_batches(self, num_updates: int, update: int) -> list[MicroBatch]:
        """Return the micro-batches of an update of D, or those of G's update, which is number -1."""
        batch = MicroBatch(
            real=self.real.tensor_split(num_updates)[update],
            latents=self.latents[update],
            mix=None if self.mix is None else self.mix[update],
            labels=None if self.labels is None else self.labels.tensor_split(num_updates)[update],
            warps=None if self.warps is None else self.warps[update],
            directions=self.directions,
        )
        if self.num_micro_batches == 1:
            return [batch]
        nothing = (None,) * self.num_micro_batches
        parts = (
            nothing if whole is None else whole.tensor_split(self.num_micro_batches, dim)
            for whole, dim in zip(batch, (0, 0, 0, 0, 1, 0), strict=True)
        )
        return [MicroBatch(*part) for part in zip(*parts, strict=True)]


def train_step(state: TrainState, inputs: StepInputs) -> Tensor:
    """Update D `num_updates` times (`recipe.discriminator_steps`) and G once, in the recipe's order.

    Where a lazy penalty is due, another update of the same network on the same inputs follows for it alone.

    A function of its arguments and, for networks with dropout, of the default generator. Nothing in it waits for
    the device.

    Returns:
        METRICS of this rank's images, shape (4,), detached; their mean over the ranks is the global batch's.
    """
    generator = state.generator
    discriminator = state.discriminator
    generator_first = state.recipe.generator_first
    shares = state.recipe.shared_fakes
    num_updates = state.recipe.discriminator_steps
    share = inputs.share
    due = state.due
    if state.compiled:
        torch.compiler.cudagraph_mark_step_begin()

    # Micro-batches are there to save memory, so the graphs of G that they would share are not kept: G makes their
    # images twice, of the same latents.
    keeps_graph = shares and inputs.num_micro_batches == 1
    attached: list[Tensor] = []  # images of D's last update, with the graph of G
    detached: list[Tensor] = []  # images of G's update, if D learns on them next
    losses_g: list[Tensor] = []

    def update_generator() -> None:
        for batch in generator.update(inputs.micro_batches(num_updates, -1)):
            if keeps_graph:
                rest = (batch.labels, batch.real, batch.warps, batch.latents)
                loss = state.generator_loss(attached.pop(), share, *rest)
            else:
                g = generator.objective(batch.latents, share, batch.labels, batch.real, batch.warps)
                loss = g.loss
                if generator_first:
                    detached.append(g.fake.detach())
            generator.backward(loss)
            losses_g.append(loss.detach())
        if due.generator:
            measured = []
            for batch in generator.update(inputs.micro_batches(num_updates, -1)):
                g = generator.objective(batch.latents, share, batch.labels, directions=batch.directions)
                generator.backward(g.loss)
                measured.append(g.measured)
            state.measured(torch.stack(measured).sum())

    def fake_for_discriminator(batch: MicroBatch, *, is_for_both: bool) -> Tensor:
        if is_for_both and keeps_graph:
            attached.append(generator.objective(batch.latents, None, batch.labels).fake)
            return attached[-1].detach()
        with torch.no_grad():
            return (state.preview if is_for_both else state.generate)(batch.latents, batch.labels)

    if generator_first:
        update_generator()

    metrics_d = []
    signs: list[Tensor] = []
    for i in range(num_updates):
        fakes: list[Tensor] = []
        means: list[Tensor] = []
        for number, batch in enumerate(discriminator.update(inputs.micro_batches(num_updates, i))):
            is_for_both = shares and i == num_updates - 1
            fake = detached[number] if generator_first else fake_for_discriminator(batch, is_for_both=is_for_both)
            rest = (batch.mix, batch.labels, batch.warps, batch.latents)
            d = discriminator.objective(batch.real, fake, share, *rest)
            discriminator.backward(d.loss)
            metrics_d.append(torch.stack([d.loss.detach(), d.p_real, d.p_fake]))
            if state.adaptation is not None:
                signs.append(d.sign_real / num_updates)
            if state.anchors is not None:
                means.append(d.means)
            if i in due.discriminator:
                fakes.append(fake)
        if state.anchors is not None:
            state.anchor(torch.stack(means).sum(0))
        if i in due.discriminator:
            for batch, fake in zip(discriminator.update(inputs.micro_batches(num_updates, i)), fakes, strict=True):
                d = discriminator.objective(
                    batch.real, fake, share, batch.mix, batch.labels, batch.warps, penalty_alone=True
                )
                discriminator.backward(d.loss)
    if state.adaptation is not None:
        state.adaptation.observe(torch.stack(signs).sum())

    if not generator_first:
        update_generator()

    # sums over the micro-batches of an update, each of which has its share; means over the updates
    loss_g = torch.stack(losses_g).sum()
    loss_d, p_real, p_fake = torch.stack(metrics_d).unflatten(0, (num_updates, -1)).sum(1).mean(0)
    return torch.stack([loss_d, loss_g, p_real, p_fake])
