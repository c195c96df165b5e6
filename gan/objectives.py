"""What DDP, autocast and compile wrap: a module whose forward is a loss.

One forward and one backward per wrapped module and update. That removes the trap of two forwards through DDP
before one backward, and puts the loss inside the compiled graph.

Both reduce with ``share`` = number of processes / images in the *global* batch: a loss is the sum over this
process's samples times `share`, so that DDP's mean over processes is the mean over the global batch, whatever
the size of each process's part of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan.losses import AdversarialLoss
from gan.networks import full_precision, has_batch_statistics


class GeneratorOutput(NamedTuple):
    """G's loss (scalar) and the fakes (B, C, H, W) it was computed on, attached to the graph."""

    loss: Tensor
    fake: Tensor


class DiscriminatorOutput(NamedTuple):
    """D's loss and its mean probabilities that real and generated images are real, all scalars."""

    loss: Tensor
    p_real: Tensor
    p_fake: Tensor


class Generate(nn.Module):
    """Latents (B, latent_dim) to images (B, C, H, W), to be wrapped apart from the objective."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor) -> Tensor:
        """Return generated images."""
        images: Tensor = self.generator(latents)
        return images


class GeneratorObjective(nn.Module):
    """G's loss against a frozen D.

    D is no submodule, and is called with its parameters detached: DDP does not see it, no gradient is computed
    for it, and no `requires_grad` is toggled.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss) -> None:
        super().__init__()
        self.generator = generator
        self.loss = loss
        self._frozen = (discriminator,)

    def forward(self, latents: Tensor, share: float) -> GeneratorOutput:
        """Return the loss on fakes made of `latents` (B, latent_dim)."""
        (discriminator,) = self._frozen
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        fake = self.generator(latents)
        logits = full_precision(functional_call(discriminator, parameters, (fake,)))
        return GeneratorOutput(self.loss.generator(logits).sum() * share, fake)


class DiscriminatorObjective(nn.Module):
    """D's loss on a real and a generated batch of equal size.

    A D without batch statistics sees both in one pass, which is faster; one with them sees each by itself,
    because its output would change.
    """

    def __init__(self, discriminator: nn.Module, loss: AdversarialLoss) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.one_pass = not has_batch_statistics(discriminator)

    def forward(self, real: Tensor, fake: Tensor, share: float) -> DiscriminatorOutput:
        """Return the loss on `real` and `fake`, each (B, C, H, W)."""
        if self.one_pass:
            logits = full_precision(self.discriminator(torch.cat([real, fake])))
            real_logits, fake_logits = logits.tensor_split(2)
        else:
            real_logits = full_precision(self.discriminator(real))
            fake_logits = full_precision(self.discriminator(fake))
        return DiscriminatorOutput(
            self.loss.discriminator(real_logits, fake_logits).sum() * share,
            real_logits.detach().sigmoid().sum() * share,
            fake_logits.detach().sigmoid().sum() * share,
        )
