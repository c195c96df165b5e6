"""What DDP, autocast and compile wrap: a module whose forward is a loss.

One forward and one backward per wrapped module and update. That removes the trap of two forwards through DDP
before one backward, and puts the loss inside the compiled graph.

Losses are reduced with ``share`` = world size / images in the global batch. DDP averages gradients over the ranks,
and a mean over each rank's images would give the images of a rank with a smaller part more weight than others.
A rank's sum times `share` does not: over W ranks its mean is (1/W) Σ (W/N) sum = (Σ sum) / N, which is the mean
over the global batch of N images.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan.methods.augmentations import Augmentations, augment
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.lazy import every_of
from gan.methods.lecam import LeCam
from gan.methods.losses import AdversarialLoss
from gan.methods.path_length import GeneratorPenalty
from gan.methods.penalties import Penalty
from gan.methods.schedules import at
from gan.methods.top_k import top_k_weights
from gan.models.batch_statistics import has_batch_statistics, has_batchnorm
from gan.models.heads import judge
from gan.models.networks import apply, full_precision
from gan.training.recompute import activations_kept, as_one_segment


class GeneratorOutput(NamedTuple):
    """G's loss (scalar; None if it is computed later) and the fakes (B, C, H, W), attached to the graph."""

    loss: Tensor | None
    fake: Tensor


class DiscriminatorOutput(NamedTuple):
    """D's loss and its mean probabilities that real and generated images are real, all scalars.

    `sign_real` is the mean sign of the logits of real images, where augmentation is adapted to it. `means` are the
    mean logits of real and of generated images, shape (2,), which LeCam's anchors follow.
    """

    loss: Tensor
    p_real: Tensor
    p_fake: Tensor
    sign_real: Tensor | None = None
    means: Tensor | None = None


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


class GeneratorLoss(nn.Module):
    """G's loss on generated images, against a frozen D.

    D is no submodule, and is called with its parameters detached: DDP does not see it, no gradient is computed
    for it, and no `requires_grad` is toggled.
    """

    probability: Tensor | None
    top_k: Tensor | None
    recompute = False
    """Whether the networks compute activations again in backward passes."""

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        augmentation: Augmentations = (),
        auxiliary: AuxiliaryLoss | None = None,
        probability: Tensor | None = None,
        top_k: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.augmentation = augmentation
        self.auxiliary = auxiliary
        self.register_buffer("probability", probability, persistent=False)
        self.register_buffer("top_k", top_k, persistent=False)
        self._frozen = (discriminator,)

    def forward(
        self,
        fake: Tensor,
        share: float,
        labels: Tensor | None = None,
        real: Tensor | None = None,
        warps: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fake: Generated images (B, C, H, W), attached to G's graph.
            share: World size / images in the global batch.
            labels: Classes, shape (B,), if conditional.
            real: Real images of these classes (B, C, H, W), for a relativistic loss.
            warps: Uniform on [0, 1), shape (2, B, warp_dim), for augmentation of real and generated images.
            latents: That the images were made of (B, latent_dim), for an auxiliary loss.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        fake_logits, outputs = self._frozen_judgement(self._augmented(fake, warp_fake), labels)
        real_logits = None
        if self.loss.relativistic:
            assert real is not None
            with torch.no_grad():
                real_logits, _ = self._frozen_judgement(self._augmented(real, warp_real), labels)
        losses = self.loss.generator(fake_logits, *([] if real_logits is None else [real_logits]))
        if self.top_k is not None:
            losses = losses * top_k_weights(fake_logits, self.top_k)
        if self.auxiliary:
            assert outputs is not None
            assert latents is not None
            losses = losses + self.auxiliary.weight * self.auxiliary.generator(outputs, latents, labels)
        return losses.sum() * share

    def _augmented(self, images: Tensor, warp: Tensor | None) -> Tensor:
        return augment(images, self.augmentation, warp, self.probability)

    def _frozen_judgement(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return D's logits (B,), and its second head's outputs (B, K) if there is an auxiliary loss."""
        (discriminator,) = self._frozen
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}

        def frozen(*inputs: Tensor, **settings: bool) -> Any:
            return functional_call(discriminator, parameters, inputs, settings)

        if self.recompute:
            judged: tuple[Tensor, Tensor | None]
            judged = as_one_segment(discriminator, _judged, frozen, images, labels, self.auxiliary)
            return judged
        return _judged(frozen, images, labels, self.auxiliary)


class GeneratorObjective(nn.Module):
    """G's loss on fakes that it makes itself, or G's penalty. Its parameters are G's alone."""

    penalty_weight: Tensor | None
    penalty_mean: Tensor | None

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        augmentation: Augmentations = (),
        auxiliary: AuxiliaryLoss | None = None,
        probability: Tensor | None = None,
        penalty: GeneratorPenalty | None = None,
        top_k: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.loss_of = GeneratorLoss(discriminator, loss, augmentation, auxiliary, probability, top_k)
        self.penalty = penalty
        weight = _first_weight(penalty, generator) if penalty else None
        self.register_buffer("penalty_weight", weight, persistent=False)
        mean = None if weight is None else torch.zeros_like(weight)
        self.register_buffer("penalty_mean", mean, persistent=False)

    def forward(
        self,
        latents: Tensor,
        share: float | None,
        labels: Tensor | None = None,
        real: Tensor | None = None,
        warps: Tensor | None = None,
        directions: Tensor | None = None,
    ) -> GeneratorOutput | PenaltyOutput:
        """Return the loss on fakes made of `latents` (B, latent_dim), and the fakes; or the penalty alone.

        Where `share` is None, there is no loss yet: it is computed later, by `GeneratorLoss`. DDP wraps this
        forward, so it reduces the gradients of that loss, too. The other arguments are those of `GeneratorLoss`,
        and what asks for the penalty: `directions`, standard normal, of the shape of the images.
        """
        if directions is not None:
            assert share is not None
            alone: PenaltyOutput = self._penalty_alone(latents, share, labels, directions)
            return alone
        fake = apply(self.generator, latents, labels)
        loss = None if share is None else self.loss_of(fake, share, labels, real, warps, latents)
        return GeneratorOutput(loss, fake)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _penalty_alone(
        self, latents: Tensor, share: float, labels: Tensor | None, directions: Tensor
    ) -> PenaltyOutput:
        assert self.penalty is not None
        assert self.penalty_weight is not None
        assert self.penalty_mean is not None
        with activations_kept():
            penalty, measured = self.penalty(self.generator, latents, labels, directions, self.penalty_mean)
        loss = _alone(penalty.sum() * share, self.penalty_weight * self.penalty.every, self.generator)
        return PenaltyOutput(loss, measured.sum() * share)


class DiscriminatorObjective(nn.Module):
    """D's loss on a real and a generated batch of equal size, and the penalty, if there is one; or that alone.

    A D without batch statistics sees both in one pass, which is faster; one with them sees each by itself,
    because its output would change.
    """

    penalty_weight: Tensor
    probability: Tensor | None
    anchors: Tensor | None
    recompute = False

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        penalty: Penalty | None = None,
        augmentation: Augmentations = (),
        auxiliary: AuxiliaryLoss | None = None,
        probability: Tensor | None = None,
        *,
        signs: bool = False,
        lecam: LeCam | None = None,
        anchors: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.lecam = lecam
        self.register_buffer("anchors", anchors, persistent=False)
        self.penalty = penalty
        self.augmentation = augmentation
        self.auxiliary = auxiliary
        self.signs = signs
        self.one_pass = not has_batch_statistics(discriminator)
        assert penalty is None or not has_batchnorm(discriminator), "a penalty on an image knows no batch"
        self.register_buffer("probability", probability, persistent=False)
        self.register_buffer("penalty_weight", _first_weight(penalty, discriminator), persistent=False)

    def forward(
        self,
        real: Tensor,
        fake: Tensor,
        share: float,
        mix: Tensor | None = None,
        labels: Tensor | None = None,
        warps: Tensor | None = None,
        latents: Tensor | None = None,
        *,
        penalty_alone: bool = False,
    ) -> DiscriminatorOutput | PenaltyOutput:
        """Return the loss on `real` and `fake`, each (B, C, H, W), or the penalty alone.

        Args:
            real: Real images.
            fake: Generated images.
            share: World size / images in the global batch.
            mix: Uniform on [0, 1), shape (B,), for a penalty between real and generated images.
            labels: Classes of both, shape (B,), if conditional.
            warps: Uniform on [0, 1), shape (2, B, warp_dim), for augmentation of both.
            latents: That `fake` was made of (B, latent_dim), for an auxiliary loss.
            penalty_alone: For an update that a lazy penalty has of its own.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        real = augment(real, self.augmentation, warp_real, self.probability)
        fake = augment(fake, self.augmentation, warp_fake, self.probability)
        if penalty_alone:
            alone: PenaltyOutput = self._penalty_alone(real, fake, share, mix, labels)
            return alone
        if self.one_pass:
            twice = None if labels is None else torch.cat([labels, labels])
            logits, outputs = _judged(self.discriminator, torch.cat([real, fake]), twice, self.auxiliary)
            real_logits, fake_logits = logits.tensor_split(2)
            real_outputs, fake_outputs = (None, None) if outputs is None else outputs.tensor_split(2)
        else:
            real_logits, real_outputs = _judged(self.discriminator, real, labels, self.auxiliary)
            fake_logits, fake_outputs = _judged(self.discriminator, fake, labels, self.auxiliary)
        loss = self.loss.discriminator(real_logits, fake_logits)
        if self.auxiliary:
            assert real_outputs is not None
            assert fake_outputs is not None
            assert latents is not None
            auxiliary = self.auxiliary.discriminator(real_outputs, fake_outputs, latents, labels)
            loss = loss + self.auxiliary.weight * auxiliary
        if self.penalty and every_of(self.penalty) == 1:
            loss = loss + self.penalty_weight * self._penalty(real, fake, mix, labels)
        means: Tensor | None = None
        if self.lecam is not None:
            assert self.anchors is not None
            loss = loss + self.lecam.weight * self.lecam(real_logits, fake_logits, self.anchors)
            means = torch.stack([real_logits.detach().sum(), fake_logits.detach().sum()]) * share
        return DiscriminatorOutput(
            loss.sum() * share,
            real_logits.detach().sigmoid().sum() * share,
            fake_logits.detach().sigmoid().sum() * share,
            real_logits.detach().sign().sum() * share if self.signs else None,
            means,
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _penalty_alone(
        self, real: Tensor, fake: Tensor, share: float, mix: Tensor | None, labels: Tensor | None
    ) -> PenaltyOutput:
        penalty = self._penalty(real, fake, mix, labels)
        weight = self.penalty_weight * every_of(self.penalty)
        return PenaltyOutput(_alone(penalty.sum() * share, weight, self.discriminator))

    def _penalty(self, real: Tensor, fake: Tensor, mix: Tensor | None, labels: Tensor | None) -> Tensor:
        """Return the penalty of each image, shape (B,). A graph of its gradient keeps activations anyway."""
        assert self.penalty is not None
        with activations_kept() if self.recompute else nullcontext():
            return self.penalty(lambda images: apply(self.discriminator, images, labels), real, fake, mix)


def _judged(
    discriminator: Callable[..., Any], images: Tensor, labels: Tensor | None, auxiliary: AuxiliaryLoss | None
) -> tuple[Tensor, Tensor | None]:
    """Return D's logits (B,), and its second head's outputs (B, K) for an auxiliary loss, as full precision."""
    logits, outputs = judge(discriminator, images, labels, with_outputs=auxiliary is not None)
    return full_precision(logits), None if outputs is None else full_precision(outputs)


def _first_weight(penalty: Penalty | GeneratorPenalty | None, network: nn.Module) -> Tensor:
    """Return a penalty's weight before the first image; 0 without a penalty.

    A tensor, because a compiler would take each new Python number for a new constant.
    """
    weight = at(penalty.weight, 0) if penalty else 0.0
    return torch.tensor(weight, dtype=next(network.parameters()).dtype)


def _alone(penalty: Tensor, weight: Tensor, network: nn.Module) -> Tensor:
    """Return the loss of an update for a penalty alone, which gives every parameter a gradient.

    That of a parameter that the penalty does not depend on, such as the last bias, is 0. Without a gradient, DDP
    would wait for it, and an optimizer would leave the parameter out of its step.
    """
    nothing = torch.stack([parameter.sum() for parameter in network.parameters()]).sum() * 0
    return weight * penalty + nothing
