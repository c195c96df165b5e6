"""Adversarial losses: pairs of pure functions on logits.

Every function returns one value a sample, shape (B,): the objective reduces them over the *global* batch,
which keeps the algorithm the same however many processes share it.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class AdversarialLoss(Protocol):
    """The two losses of a GAN, each of shape (B,) from logits of shape (B,)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss for each pair of a real and a generated sample."""

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return G's loss for each generated sample."""


@dataclass(frozen=True)
class NonSaturating:
    """Binary cross-entropy with the generator's non-saturating loss.

    D minimises ``scale * (BCE(real, real_label) + BCE(fake, 0))`` and G minimises ``BCE(fake, 1)``, that is
    -log D(G(z)) (Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3).

    Attributes:
        real_label: D's target on real images; below 1 it is one-sided label smoothing (Salimans et al. 2016,
            arXiv:1606.03498, section 3.4).
        scale: 1 adds the two halves of D's loss, 0.5 averages them.
    """

    real_label: float = 1.0
    scale: float = 1.0

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss, shape (B,)."""
        real = _cross_entropy(real_logits, self.real_label)
        fake = _cross_entropy(fake_logits, 0.0)
        return self.scale * (real + fake)

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Return G's loss, shape (B,)."""
        return _cross_entropy(fake_logits, 1.0)


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
