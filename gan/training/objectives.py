"""What DDP, autocast and compile wrap: a module whose forward is a loss.

One forward and one backward per wrapped module and update. That removes the trap of two forwards through DDP
before one backward, and puts the loss inside the compiled graph.

Losses are reduced with ``share`` = world size / images in the global batch. DDP averages gradients over the ranks,
and a mean over each rank's images would give the images of a rank with a smaller part more weight than others.
A rank's sum times `share` does not: over W ranks its mean is (1/W) Σ (W/N) sum = (Σ sum) / N, which is the mean
over the global batch of N images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan.methods.augmentations import Augmentation, augment
from gan.methods.losses import AdversarialLoss
from gan.methods.penalties import Penalty
from gan.methods.schedules import at
from gan.models.batch_statistics import has_batch_statistics, has_batchnorm
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
    ) -> None:
        super().__init__()
        self.loss = loss
        self.augmentation = augmentation
        self._frozen = (discriminator,)

    def forward(
        self,
        fake: Tensor,
        share: float,
        labels: Tensor | None = None,
        real: Tensor | None = None,
        warps: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, a scalar.

        Args:
            fake: Generated images (B, C, H, W), attached to G's graph.
            share: World size / images in the global batch.
            labels: Classes, shape (B,), if conditional.
            real: Real images of these classes (B, C, H, W), for a relativistic loss.
            warps: Uniform on [0, 1), shape (2, B, UNIFORMS), for augmentation of real and generated images.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        fake_logits = self._frozen_logits(augment(fake, self.augmentation, warp_fake), labels)
        if not self.loss.relativistic:
            return self.loss.generator(fake_logits).sum() * share
        assert real is not None
        with torch.no_grad():
            real_logits = self._frozen_logits(augment(real, self.augmentation, warp_real), labels)
        return self.loss.generator(fake_logits, real_logits).sum() * share

    def _frozen_logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        (discriminator,) = self._frozen
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        inputs = (images,) if labels is None else (images, labels)
        return full_precision(functional_call(discriminator, parameters, inputs))


class GeneratorObjective(nn.Module):
    """G's loss on fakes that it makes itself. Its parameters are G's alone."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        augmentation: Sequence[str | Augmentation] = (),
    ) -> None:
        super().__init__()
        self.generator = generator
        self.loss_of = GeneratorLoss(discriminator, loss, augmentation)

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
        loss = None if share is None else self.loss_of(fake, share, labels, real, warps)
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
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.penalty = penalty
        self.augmentation = augmentation
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
    ) -> DiscriminatorOutput:
        """Return the loss on `real` and `fake`, each (B, C, H, W).

        Args:
            real: Real images.
            fake: Generated images.
            share: World size / images in the global batch.
            mix: Uniform on [0, 1), shape (B,), for a penalty between real and generated images.
            labels: Classes of both, shape (B,), if conditional.
            warps: Uniform on [0, 1), shape (2, B, UNIFORMS), for augmentation of both.
        """
        warp_real, warp_fake = (None, None) if warps is None else warps
        real = augment(real, self.augmentation, warp_real)
        fake = augment(fake, self.augmentation, warp_fake)
        if self.one_pass:
            twice = None if labels is None else torch.cat([labels, labels])
            logits = full_precision(apply(self.discriminator, torch.cat([real, fake]), twice))
            real_logits, fake_logits = logits.tensor_split(2)
        else:
            real_logits = full_precision(apply(self.discriminator, real, labels))
            fake_logits = full_precision(apply(self.discriminator, fake, labels))
        loss = self.loss.discriminator(real_logits, fake_logits)
        if self.penalty:
            penalty = self.penalty(lambda images: apply(self.discriminator, images, labels), real, fake, mix)
            loss = loss + self.penalty_weight * penalty
        return DiscriminatorOutput(
            loss.sum() * share,
            real_logits.detach().sigmoid().sum() * share,
            fake_logits.detach().sigmoid().sum() * share,
        )
