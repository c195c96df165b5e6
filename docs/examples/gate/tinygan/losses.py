"""The non-saturating losses of Goodfellow et al. (2014)."""

from torch import Tensor
from torch.nn.functional import softplus


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of D from its scores of real and of generated images."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return the loss of G from D's scores of its images."""
    return softplus(-fake).mean()
