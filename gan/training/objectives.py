"""What DDP, autocast and compile wrap: a module whose forward is a loss.

One forward and one backward per wrapped module and update. That removes the trap of two forwards through DDP
before one backward, and puts the loss inside the compiled graph.

Losses are reduced with ``share`` = world size / images in the global batch. DDP averages gradients over the ranks,
and a mean over each rank's images would give the images of a rank with a smaller part more weight than others.
A rank's sum times `share` does not: over W ranks its mean is (1/W) Σ (W/N) sum = (Σ sum) / N, which is the mean
over the global batch of N images.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan.methods.augmentations import Augmentation, augment
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.losses import AdversarialLoss
from gan.methods.penalties import Penalty
from gan.methods.schedules import at
from gan.models.batch_statistics import has_batch_statistics, has_batchnorm
from gan.models.heads import judge
from gan.models.networks import apply, full_precision


class GeneratorOutput(NamedTuple):
    """G's loss (scalar; None if it is computed later) and the fakes (B, C, H, W), attached to the graph."""

    loss: Tensor | None
    fake: Tensor


class DiscriminatorOutput(NamedTuple):
    """D's loss and its mean probabilities that real and generated images are real, all scalars."""

    loss: Tensor
    p_real: Tensor
    p_fake: Tensor


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

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        augmentation: Sequence[str | Augmentation] = (),
        auxiliary: AuxiliaryLoss | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.augmentation = augmentation
        self.auxiliary = auxiliary
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
            warps: Uniform on [0, 1), shape (2, B, UNIFORMS), for augmentation of real and generated images.
            latents: That the images were made of (B, latent_dim), for an auxiliary loss.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        fake_logits, outputs = self._frozen_judgement(augment(fake, self.augmentation, warp_fake), labels)
        real_logits = None
        if self.loss.relativistic:
            assert real is not None
            with torch.no_grad():
                real_logits, _ = self._frozen_judgement(augment(real, self.augmentation, warp_real), labels)
        losses = self.loss.generator(fake_logits, *([] if real_logits is None else [real_logits]))
        if self.auxiliary:
            assert outputs is not None
            assert latents is not None
            losses = losses + self.auxiliary.weight * self.auxiliary.generator(outputs, latents, labels)
        return losses.sum() * share

    def _frozen_judgement(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return D's logits (B,), and its second head's outputs (B, K) if there is an auxiliary loss."""
        (discriminator,) = self._frozen
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}

        def frozen(*inputs: Tensor, **settings: bool) -> Any:
            return functional_call(discriminator, parameters, inputs, settings)

        return _judged(frozen, images, labels, self.auxiliary)


class GeneratorObjective(nn.Module):
    """G's loss on fakes that it makes itself. Its parameters are G's alone."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        augmentation: Sequence[str | Augmentation] = (),
        auxiliary: AuxiliaryLoss | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.loss_of = GeneratorLoss(discriminator, loss, augmentation, auxiliary)

    def forward(
        self,
        latents: Tensor,
        share: float | None,
        labels: Tensor | None = None,
        real: Tensor | None = None,
        warps: Tensor | None = None,
    ) -> GeneratorOutput:
        """Return the loss on fakes made of `latents` (B, latent_dim), and the fakes.

        Where `share` is None, there is no loss yet: it is computed later, by `GeneratorLoss`. DDP wraps this
        forward, so it reduces the gradients of that loss, too. The other arguments are those of `GeneratorLoss`.
        """
        fake = apply(self.generator, latents, labels)
        loss = None if share is None else self.loss_of(fake, share, labels, real, warps, latents)
        return GeneratorOutput(loss, fake)


class DiscriminatorObjective(nn.Module):
    """D's loss on a real and a generated batch of equal size, and the penalty, if there is one.

    A D without batch statistics sees both in one pass, which is faster; one with them sees each by itself,
    because its output would change.
    """

    penalty_weight: Tensor

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        penalty: Penalty | None = None,
        augmentation: Sequence[str | Augmentation] = (),
        auxiliary: AuxiliaryLoss | None = None,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.penalty = penalty
        self.augmentation = augmentation
        self.auxiliary = auxiliary
        self.one_pass = not has_batch_statistics(discriminator)
        assert penalty is None or not has_batchnorm(discriminator), "a penalty on an image knows no batch"
        # a tensor, because a compiler would take each new Python number for a new constant
        dtype = next(discriminator.parameters()).dtype
        weight = torch.tensor(at(penalty.weight, 0) if penalty else 0.0, dtype=dtype)
        self.register_buffer("penalty_weight", weight, persistent=False)

    def forward(
        self,
        real: Tensor,
        fake: Tensor,
        share: float,
        mix: Tensor | None = None,
        labels: Tensor | None = None,
        warps: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> DiscriminatorOutput:
        """Return the loss on `real` and `fake`, each (B, C, H, W).

        Args:
            real: Real images.
            fake: Generated images.
            share: World size / images in the global batch.
            mix: Uniform on [0, 1), shape (B,), for a penalty between real and generated images.
            labels: Classes of both, shape (B,), if conditional.
            warps: Uniform on [0, 1), shape (2, B, UNIFORMS), for augmentation of both.
            latents: That `fake` was made of (B, latent_dim), for an auxiliary loss.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        real = augment(real, self.augmentation, warp_real)
        fake = augment(fake, self.augmentation, warp_fake)
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
        if self.penalty:
            penalty = self.penalty(lambda images: apply(self.discriminator, images, labels), real, fake, mix)
            loss = loss + self.penalty_weight * penalty
        return DiscriminatorOutput(
            loss.sum() * share,
            real_logits.detach().sigmoid().sum() * share,
            fake_logits.detach().sigmoid().sum() * share,
        )


def _judged(
    discriminator: Callable[..., Any], images: Tensor, labels: Tensor | None, auxiliary: AuxiliaryLoss | None
) -> tuple[Tensor, Tensor | None]:
    """Return D's logits (B,), and its second head's outputs (B, K) for an auxiliary loss, as full precision."""
    logits, outputs = judge(discriminator, images, labels, with_outputs=auxiliary is not None)
    return full_precision(logits), None if outputs is None else full_precision(outputs)
