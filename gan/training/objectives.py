"""What DDP, autocast and compile wrap: a module whose forward is a loss.

One forward and one backward per wrapped module and update. That removes the trap of two forwards through DDP
before one backward, and puts the loss inside the compiled graph.

Losses are reduced with ``share`` = world size / images in the global batch. DDP averages gradients over the ranks,
and a mean over each rank's images would give the images of a rank with a smaller part more weight than others.
A rank's sum times `share` does not: over W ranks its mean is (1/W) Σ (W/N) sum = (Σ sum) / N, which is the mean
over the global batch of N images.
"""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan.methods.augmentations import augment
from gan.methods.double_backward import DoubleBackward
from gan.methods.generator_penalties import GeneratorPenalty
from gan.methods.lazy import every_of
from gan.methods.penalties import Penalty, ZeroCentred
from gan.methods.schedules import at
from gan.models.apart import batches_apart, can_take_batches_apart, is_faster_apart
from gan.models.batch_statistics import has_batch_statistics, has_batchnorm
from gan.models.networks import apply, passes_repeat
from gan.training.batch import Batch
from gan.training.generator_loss import GeneratorLoss, judged, with_added
from gan.training.recompute import activations_kept
from gan.training.terms import Terms


class GeneratorOutput(NamedTuple):
    """What a pass of G returns.

    Attributes:
        loss: G's, a scalar; None if it is computed later.
        fake: The images (B, C, H, W), attached to the graph.
        added: What a loss that is computed later has to have added; a scalar, or None.
        adversarial: The adversarial part of the loss, without a graph, if it has others; a scalar, or None.
    """

    loss: Tensor | None
    fake: Tensor
    added: Tensor | None = None
    adversarial: Tensor | None = None


class DiscriminatorOutput(NamedTuple):
    """D's loss and its mean probabilities that real and generated images are real, all scalars.

    `sign_real` is the mean sign of the logits of real images, where augmentation is adapted to it. `means` are the
    mean logits of real and of generated images, shape (2,), which LeCam's anchors follow. `adversarial` is the
    adversarial part of the loss, where one of the losses has others.
    """

    loss: Tensor
    p_real: Tensor
    p_fake: Tensor
    sign_real: Tensor | None = None
    means: Tensor | None = None
    adversarial: Tensor | None = None


class PenaltyOutput(NamedTuple):
    """The loss of an update for a penalty alone, and the mean of what G's penalty measured; scalars."""

    loss: Tensor
    measured: Tensor | None = None


class Generate(nn.Module):
    """Latents (B, latent_dim), and classes (B,) if conditional, to images; wrapped apart from the objective."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return generated images."""
        return apply(self.generator, latents, labels)


class GeneratorObjective(nn.Module):
    """G's loss on fakes that it makes itself, or G's penalty. Its parameters are G's alone."""

    penalty_weight: Tensor | None
    penalty_mean: Tensor | None

    def __init__(self, generator: nn.Module, discriminator: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.generator = generator
        self.loss_of = GeneratorLoss(discriminator, terms)
        self.added_terms = terms.generator_terms
        self.penalty = terms.generator_penalty
        weight = _first_weight(self.penalty, generator) if self.penalty else None
        self.register_buffer("penalty_weight", weight, persistent=False)
        mean = None if weight is None else torch.zeros_like(weight)
        self.register_buffer("penalty_mean", mean, persistent=False)

    def forward(
        self, batch: Batch, *, fakes_alone: bool = False, penalty_alone: bool = False
    ) -> GeneratorOutput | PenaltyOutput:
        """Return the loss on fakes made of the latents, and the fakes; or the penalty alone.

        Args:
            batch: What the pass takes.
            fakes_alone: Without the loss, which is computed later, by `GeneratorLoss`. DDP wraps this forward, so
                it reduces the gradients of that loss, too.
            penalty_alone: For an update that a lazy penalty has of its own; the batch has directions.
        """
        if penalty_alone:
            alone: PenaltyOutput = self._penalty_alone(batch)
            return alone
        fake = apply(self.generator, batch.latents, batch.labels)
        added = self._added(batch, fake)
        if fakes_alone:
            return GeneratorOutput(None, fake, added)
        losses = with_added(self.loss_of(batch, fake), added)
        return GeneratorOutput(losses.loss, fake, adversarial=losses.adversarial)

    def _added(self, batch: Batch, fake: Tensor) -> Tensor | None:
        """Return what is added to what D says of G's images in every update; None if nothing is.

        Penalties of G that are not lazy belong here. They are terms of the loss also where D's update makes the
        images, because G runs here alone.
        """
        if not self.added_terms:
            return None
        terms = [
            term.weight * term(self.generator, batch.latents, batch.labels, fake).expand(len(fake)).sum()
            for term in self.added_terms
        ]
        return torch.stack(terms).sum() * batch.share

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _penalty_alone(self, batch: Batch) -> PenaltyOutput:
        assert self.penalty is not None
        assert self.penalty_weight is not None
        assert self.penalty_mean is not None
        assert batch.directions is not None
        with activations_kept():
            penalty, measured = self.penalty(
                self.generator, batch.latents, batch.labels, batch.directions, self.penalty_mean
            )
        weight = self.penalty_weight * self.penalty.every
        loss = _alone(penalty.sum() * batch.share, weight, self.generator)
        return PenaltyOutput(loss, measured.sum() * batch.share)


class DiscriminatorObjective(nn.Module):
    """D's loss on a real and a generated batch of equal size, and the penalty, if there is one; or that alone.

    A D without batch statistics sees both in one pass, which is faster. So does one whose BatchNorm can take them
    apart, for small batches on CPUs. Any other sees each by itself, because its output would change. R1 and R2
    take their gradients from these passes where they can.
    """

    penalty_weight: Tensor
    probability: Tensor | None
    anchors: Tensor | None
    recompute = False
    """Whether the network computes activations again in backward passes."""

    def __init__(self, discriminator: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = terms.loss
        self.lecam = terms.lecam
        self.latent_consistency = terms.latent_consistency
        self.penalty = terms.penalty
        self.augmentation = terms.augmentation
        before = getattr(terms.penalty, "before_augmentation", None)
        self.penalty_before_augmentation = before if terms.augmentation else None
        self.auxiliary = terms.auxiliary
        self.tells_signs = terms.tells_signs
        self.adds_terms = terms.adds_terms
        self.one_pass = not has_batch_statistics(discriminator)
        self.can_take_apart = not self.one_pass and can_take_batches_apart(discriminator)
        # not of a class that inherits from it, which may compute something else
        is_of_the_loss = type(terms.penalty) is ZeroCentred and every_of(terms.penalty) == 1
        self.may_share_pass = is_of_the_loss and passes_repeat(discriminator)
        no_batch = "a penalty on an image knows no batch"
        assert self.penalty is None or not has_batchnorm(discriminator), no_batch
        self.register_buffer("anchors", terms.anchors, persistent=False)
        self.register_buffer("probability", terms.probability, persistent=False)
        self.register_buffer("penalty_weight", _first_weight(self.penalty, discriminator), persistent=False)

    def forward(
        self, batch: Batch, fake: Tensor, near: Tensor | None = None, *, penalty_alone: bool = False
    ) -> DiscriminatorOutput | PenaltyOutput:
        """Return the loss on real and generated images, or the penalty alone.

        Args:
            batch: What the pass takes; an auxiliary loss takes the latents of `fake`.
            fake: Generated images of the shape of the real ones (B, C, H, W), detached.
            near: Images of latents near those of `fake`, likewise, for zCR; without them its part is left out.
            penalty_alone: For an update that a lazy penalty has of its own.
        """
        if penalty_alone:
            alone: PenaltyOutput = self._penalty_alone(batch, fake)
            return alone
        seen: tuple[Tensor, Tensor] | None = None
        gradients: tuple[Tensor, ...] | None = None
        if self._shares_pass(batch.real):
            judgement, gradients = self._judged_with_gradients(batch, fake, near)
        else:
            seen = self._augmented(batch, batch.real, fake)
            judgement = self._judged(batch, seen, near)
        (real_logits, fake_logits, *near_logits), auxiliary = judgement
        adversarial = self.loss.discriminator(real_logits, fake_logits)
        loss = adversarial
        if auxiliary is not None:
            loss = loss + auxiliary
        if gradients is not None:
            loss = loss + self.penalty_weight * ZeroCentred.of_gradients(*gradients)
        elif self.penalty and every_of(self.penalty) == 1:
            loss = loss + self.penalty_weight * self._penalty(batch, fake, seen)
        if near_logits:
            assert self.latent_consistency is not None
            loss = loss + self.latent_consistency.of_discriminator(fake_logits, *near_logits)
        means: Tensor | None = None
        if self.lecam is not None:
            assert self.anchors is not None
            loss = loss + self.lecam.weight * self.lecam(real_logits, fake_logits, self.anchors)
            means = torch.stack([real_logits.detach().sum(), fake_logits.detach().sum()]) * batch.share
        return DiscriminatorOutput(
            loss.sum() * batch.share,
            real_logits.detach().sigmoid().sum() * batch.share,
            fake_logits.detach().sigmoid().sum() * batch.share,
            real_logits.detach().sign().sum() * batch.share if self.tells_signs else None,
            means,
            adversarial.detach().sum() * batch.share if self.adds_terms else None,
        )

    def _shares_pass(self, images: Tensor) -> bool:
        """Say whether the penalty takes D's gradients from the pass that the loss makes.

        Compilers cannot differentiate that pass twice, and in half precision it is not what the penalty needs.
        """
        if not self.may_share_pass or torch.compiler.is_compiling():
            return False
        kind = images.device.type
        return not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))

    def _judged_with_gradients(
        self, batch: Batch, fake: Tensor, near: Tensor | None
    ) -> tuple[tuple[list[Tensor], Tensor | None], tuple[Tensor, ...]]:
        """Return what `_judged` does, and D's gradients at real and at generated images before augmentation.

        A logit depends on no image of the other kind, so that the gradient of the sum of both kinds' logits has
        each image's own gradient in its row. A graph of these gradients keeps activations anyway.
        """
        both = torch.cat([batch.real, fake]).detach().requires_grad_()
        with activations_kept() if self.recompute else nullcontext(), DoubleBackward(both) as recorded:
            judgement = self._judged(batch, self._augmented(batch, *both.tensor_split(2)), near)
        real_logits, fake_logits, *_ = judgement[0]
        return judgement, recorded.gradient(real_logits.sum() + fake_logits.sum()).tensor_split(2)

    def _augmented(self, batch: Batch, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and generated images as D sees them."""
        real = augment(real, self.augmentation, batch.warp_pair[0], self.probability)
        return real, self._augmented_fake(batch, fake)

    def _augmented_fake(self, batch: Batch, fake: Tensor) -> Tensor:
        return augment(fake, self.augmentation, batch.warp_pair[1], self.probability)

    def _judged(
        self, batch: Batch, seen: tuple[Tensor, Tensor], near: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return D's logits of real, of generated and of near images, and what an auxiliary loss adds.

        Each has the shape (B,). Without an auxiliary loss, the last one is None. `seen` are real and generated
        images as D sees them; `near` are not augmented yet.
        """
        labels = batch.labels
        images = seen if near is None else (*seen, self._augmented_fake(batch, near))
        outputs: list[Tensor | None]
        apart = self.can_take_apart and not self.recompute and is_faster_apart(batch.real)
        if self.one_pass or apart:
            repeated = None if labels is None else torch.cat([labels] * len(images))
            with batches_apart(self.discriminator, len(images)) if apart else nullcontext():
                logits, output = judged(self.discriminator, torch.cat([*images]), repeated, self.auxiliary)
            all_logits = [*logits.tensor_split(len(images))]
            outputs = [None] * len(images) if output is None else [*output.tensor_split(len(images))]
        else:
            passes = [judged(self.discriminator, some, labels, self.auxiliary) for some in images]
            all_logits = [logits for logits, _ in passes]
            outputs = [output for _, output in passes]
        if not self.auxiliary:
            return all_logits, None
        real_outputs, fake_outputs, *_ = outputs
        assert real_outputs is not None
        assert fake_outputs is not None
        auxiliary = self.auxiliary.discriminator(real_outputs, fake_outputs, batch.latents, labels)
        return all_logits, self.auxiliary.weight * auxiliary

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _penalty_alone(self, batch: Batch, fake: Tensor) -> PenaltyOutput:
        penalty = self._penalty(batch, fake)
        weight = self.penalty_weight * every_of(self.penalty)
        return PenaltyOutput(_alone(penalty.sum() * batch.share, weight, self.discriminator))

    def _penalty(self, batch: Batch, fake: Tensor, seen: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the penalty of each image, shape (B,). A graph of its gradient keeps activations anyway.

        `seen` are the images as D sees them, if they are there already.
        """
        assert self.penalty is not None

        def logits(images: Tensor) -> Tensor:
            return apply(self.discriminator, images, batch.labels)

        def logits_of_real(images: Tensor) -> Tensor:
            return logits(augment(images, self.augmentation, batch.warp_pair[0], self.probability))

        def logits_of_fake(images: Tensor) -> Tensor:
            return logits(self._augmented_fake(batch, images))

        with activations_kept() if self.recompute else nullcontext():
            if self.penalty_before_augmentation is not None:
                penalty: Tensor = self.penalty_before_augmentation(
                    logits_of_real, logits_of_fake, batch.real, fake
                )
                return penalty
            return self.penalty(logits, *(seen or self._augmented(batch, batch.real, fake)), batch.mix)


def _first_weight(penalty: Penalty | GeneratorPenalty | None, network: nn.Module) -> Tensor:
    """Return a penalty's weight before the first image, on the network's device; 0 without a penalty.

    A compiler would take each new Python number for a new constant, and a CUDA graph a tensor on the host.
    """
    weight = at(penalty.weight, 0) if penalty else 0.0
    parameter = next(network.parameters())
    return torch.tensor(weight, dtype=parameter.dtype, device=parameter.device)


def _alone(penalty: Tensor, weight: Tensor, network: nn.Module) -> Tensor:
    """Return the loss of an update for a penalty alone, which gives every parameter a gradient.

    That of a parameter that the penalty does not depend on, such as the last bias, is 0. Without a gradient, DDP
    would wait for it, and an optimizer would leave the parameter out of its step.
    """
    nothing = torch.stack([parameter.sum() for parameter in network.parameters()]).sum() * 0
    return weight * penalty + nothing
