"""One training step: both networks' updates, on one screen."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from gan.training.batch import Batch, StepInputs
from gan.training.generator_loss import GeneratorLosses, with_added
from gan.training.objectives import DiscriminatorOutput, GeneratorOutput
from gan.training.state import TrainState


def train_step(state: TrainState, inputs: StepInputs) -> Tensor:
    """Update D `num_updates` times (`recipe.discriminator_steps`) and G once, in the recipe's order.

    Where a lazy penalty is due, another update of the same network on the same inputs follows for it alone.

    A function of its arguments and, for networks with dropout, of the default generator. Nothing in it waits for
    the device. `TrainState.record` does what comes after a step and goes by the images seen: it moves the average
    of G, adapts the probability of augmentation, and follows schedules.

    Returns:
        What `gan.training.metrics.metrics_of` names, of this rank's images, shape (columns,), detached; its mean
        over the ranks is the global batch's.
    """
    num_updates = state.recipe.discriminator_steps
    generator_first = state.recipe.generator_first
    if state.compiled:
        torch.compiler.cudagraph_mark_step_begin()
    fakes = _Fakes(state, keeps_graph=state.recipe.shared_fakes and inputs.num_micro_batches == 1)

    losses_g = _take_turn_of_generator(state, inputs, fakes) if generator_first else []

    metrics_d: list[Tensor] = []
    signs: list[Tensor] = []
    for number in range(num_updates):
        batches = inputs.batch(num_updates, number).split(inputs.num_micro_batches)
        update = _update_discriminator(state, batches, fakes, is_last=number == num_updates - 1)
        if number in state.due.discriminator:
            _penalise_discriminator(state, batches, update.fakes)
        metrics_d.append(torch.stack(update.metrics))
        signs += update.signs
    if state.adaptation is not None:
        state.adaptation.observe(torch.stack(signs).sum())

    if not generator_first:
        losses_g = _take_turn_of_generator(state, inputs, fakes)

    # sums over the micro-batches of an update, each of which has its share; means over the updates
    loss_g, *adversarial_g = (torch.stack(parts).sum() for parts in zip(*losses_g, strict=True))
    loss_d, p_real, p_fake, *adversarial_d = torch.stack(metrics_d).sum(1).mean(0)
    return torch.stack([loss_d, loss_g, p_real, p_fake, *adversarial_d, *adversarial_g])


class _Update(NamedTuple):
    """What an update of D leaves: the tensors of each micro-batch.

    Attributes:
        fakes: The generated images that D took, (B, C, H, W).
        metrics: The loss and the mean probabilities of both kinds of images; with the adversarial loss as the
            last one, where losses have other terms. Shape (3,) or (4,).
        signs: The mean sign of the logits of real images over the updates of a step, where augmentation adapts.
    """

    fakes: list[Tensor]
    metrics: list[Tensor]
    signs: list[Tensor]


def _update_discriminator(state: TrainState, batches: list[Batch], fakes: "_Fakes", *, is_last: bool) -> _Update:
    """Update D; LeCam's anchors follow its logits."""
    discriminator = state.discriminator
    update = _Update([], [], [])
    means: list[Tensor] = []
    for batch in discriminator.update(batches):
        fake = fakes.for_discriminator(batch, is_last=is_last)
        d = discriminator.objective(batch, fake, *fakes.near(batch))
        discriminator.backward(d.loss)
        update.fakes.append(fake)
        update.metrics.append(torch.stack([d.loss.detach(), d.p_real, d.p_fake, *_adversarial(state, d)]))
        if state.adaptation is not None:
            update.signs.append(d.sign_real / state.recipe.discriminator_steps)
        if state.anchors is not None:
            means.append(d.means)
    if state.anchors is not None:
        state.move_anchors(torch.stack(means).sum(0))
    return update


def _penalise_discriminator(state: TrainState, batches: list[Batch], fakes: list[Tensor]) -> None:
    """Update D for its penalty alone, on the images of the update before."""
    discriminator = state.discriminator
    for batch, fake in zip(discriminator.update(batches), fakes, strict=True):
        discriminator.backward(discriminator.objective(batch, fake, penalty_alone=True).loss)


def _take_turn_of_generator(state: TrainState, inputs: StepInputs, fakes: "_Fakes") -> list[list[Tensor]]:
    """Update G, and once more for its penalty alone where that is due; return what `_update_generator` does."""
    num_updates = state.recipe.discriminator_steps
    losses = _update_generator(state, inputs.batch(num_updates, -1).split(inputs.num_micro_batches), fakes)
    if state.due.generator:
        batch = inputs.batch(num_updates, -1, with_directions=True)
        _penalise_generator(state, batch.split(inputs.num_micro_batches))
    return losses


def _update_generator(state: TrainState, batches: list[Batch], fakes: "_Fakes") -> list[list[Tensor]]:
    """Update G; return the loss of each micro-batch, and the adversarial one where losses have other terms."""
    generator = state.generator
    losses: list[list[Tensor]] = []
    for batch in generator.update(batches):
        g = fakes.losses_of_generator(batch)
        generator.backward(g.loss)
        losses.append([g.loss.detach(), *_adversarial(state, g)])
    return losses


def _adversarial(state: TrainState, output: DiscriminatorOutput | GeneratorLosses) -> list[Tensor]:
    """Return the adversarial part of a loss, where one of the losses has other terms; it may be all of it."""
    if not state.recipe.adds_terms:
        return []
    return [output.loss.detach() if output.adversarial is None else output.adversarial]


def _penalise_generator(state: TrainState, batches: list[Batch]) -> None:
    """Update G for its penalty alone; the running mean follows what it measures."""
    generator = state.generator
    measured: list[Tensor] = []
    for batch in generator.update(batches):
        g = generator.objective(batch, penalty_alone=True)
        generator.backward(g.loss)
        measured.append(g.measured)
    state.move_penalty_mean(torch.stack(measured).sum())


@dataclass(frozen=True)
class _Fakes:
    """Makes the generated images of a step, and keeps those that both networks learn on.

    With `generator_first` they are those of G's update. With `shared_fakes` they are those of D's last update.
    Micro-batches are there to save memory, so that the graphs of G that they would share are not kept: G makes
    their images twice, of the same latents.

    Attributes:
        state: Of both networks.
        keeps_graph: Whether G's update takes the images of D's last update with their graph.
        kept: What one network's update leaves to that of the other, by micro-batch.
    """

    state: TrainState
    keeps_graph: bool
    kept: list[GeneratorOutput] = field(default_factory=list)

    def for_discriminator(self, batch: Batch, *, is_last: bool) -> Tensor:
        """Return the images that D's next pass takes, detached."""
        recipe = self.state.recipe
        if recipe.generator_first:
            return self.kept.pop(0).fake
        if is_last and self.keeps_graph:
            self.kept.append(self.state.generator.objective(batch, fakes_alone=True))
            return self.kept[-1].fake.detach()
        is_for_both = is_last and recipe.shared_fakes
        with torch.no_grad():
            return (self.state.preview if is_for_both else self.state.generate)(batch.latents, batch.labels)

    def near(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return images of latents near those of D's pass, detached; nothing if its loss takes none."""
        consistency = self.state.recipe.latent_consistency
        if consistency is None:
            return ()
        with torch.no_grad():
            return (self.state.preview(consistency.near(batch.latents), batch.labels),)

    def losses_of_generator(self, batch: Batch) -> GeneratorLosses:
        """Return G's losses of its next pass, on images that are kept for it, or that it makes."""
        if self.keeps_graph:
            kept = self.kept.pop()
            return with_added(self.state.generator_loss(batch, kept.fake), kept.added)
        made = self.state.generator.objective(batch)
        if self.state.recipe.generator_first:
            self.kept.append(GeneratorOutput(None, made.fake.detach()))
        return GeneratorLosses(made.loss, made.adversarial)
