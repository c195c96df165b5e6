"""Adversarial losses: pairs of pure functions on logits.

Every function returns one value per sample, shape (B,). The objective takes the mean over the *global* batch, so
the algorithm is the same for any number of processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, relu, softplus


class AdversarialLoss(Protocol):
    """The two losses of a GAN, each of shape (B,) from logits of shape (B,).

    Attributes:
        relativistic: G's loss compares with real samples, whose logits it needs; other losses get none.
    """

    relativistic: ClassVar[bool]

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss for each pair of a real and a generated sample."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None, /) -> Tensor:
        """Return G's loss for each generated sample, or for each pair."""


@dataclass(frozen=True)
class NonSaturating:
    """Binary cross-entropy with the generator's non-saturating loss.

    D minimises ``scale * (BCE(real, real_label) + BCE(fake, 0))`` and G minimises ``BCE(fake, 1)``, that is
    -log D(G(z)) (Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3).

    >>> undecided = torch.zeros(2)  # D's probability of being real is 0.5
    >>> NonSaturating().discriminator(undecided, undecided)
    tensor([1.3863, 1.3863])
    >>> NonSaturating(scale=0.5).discriminator(undecided, undecided)
    tensor([0.6931, 0.6931])

    Attributes:
        real_label: D's target on real images; below 1 it is one-sided label smoothing (Salimans et al. 2016,
            arXiv:1606.03498, section 3.4).
        scale: 1 adds the two halves of D's loss, 0.5 averages them.
    """

    relativistic: ClassVar[bool] = False
    real_label: float = 1.0
    scale: float = 1.0

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss, shape (B,)."""
        real = _cross_entropy(real_logits, self.real_label)
        fake = _cross_entropy(fake_logits, 0.0)
        return self.scale * (real + fake)

    def generator(self, fake_logits: Tensor, _real_logits: Tensor | None = None) -> Tensor:
        """Return G's loss, shape (B,)."""
        return _cross_entropy(fake_logits, 1.0)


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")


@dataclass(frozen=True)
class LeastSquares:
    """Least squares; in D's loss the targets are a=0 for fakes and b=1 for reals, in G's the target is c=1.

    D minimises ``((D(x) - 1)² + D(G(z))²) / 2`` and G minimises ``(D(G(z)) - 1)² / 2`` (Mao et al. 2017,
    arXiv:1611.04076, equation 9).

    >>> LeastSquares().discriminator(real_logits=torch.tensor([1.0, 0.0]), fake_logits=torch.tensor([0.0, 2.0]))
    tensor([0.0000, 2.5000])
    """

    relativistic: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss, shape (B,)."""
        return ((real_logits - 1).square() + fake_logits.square()) / 2

    def generator(self, fake_logits: Tensor, _real_logits: Tensor | None = None) -> Tensor:
        """Return G's loss, shape (B,)."""
        return (fake_logits - 1).square() / 2


@dataclass(frozen=True)
class Wasserstein:
    """The critic's estimate of the Wasserstein-1 distance, negated for D.

    D minimises ``D(G(z)) - D(x)`` and G minimises ``-D(G(z))`` (Arjovsky et al. 2017, arXiv:1701.07875,
    algorithm 1). It needs a constraint on D: weight clipping or a gradient penalty.

    >>> Wasserstein().discriminator(real_logits=torch.tensor([3.0]), fake_logits=torch.tensor([1.0]))
    tensor([-2.])
    """

    relativistic: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss, shape (B,)."""
        return fake_logits - real_logits

    def generator(self, fake_logits: Tensor, _real_logits: Tensor | None = None) -> Tensor:
        """Return G's loss, shape (B,)."""
        return -fake_logits


@dataclass(frozen=True)
class Hinge:
    """D minimises ``max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`` and G minimises ``-D(G(z))``.

    Miyato et al. 2018, arXiv:1802.05957, equations 16 and 17. Samples beyond the margin do not train D:

    >>> Hinge().discriminator(real_logits=torch.tensor([2.0, 0.5]), fake_logits=torch.tensor([-2.0, -0.5]))
    tensor([0., 1.])
    """

    relativistic: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss, shape (B,)."""
        return relu(1 - real_logits) + relu(1 + fake_logits)

    def generator(self, fake_logits: Tensor, _real_logits: Tensor | None = None) -> Tensor:
        """Return G's loss, shape (B,)."""
        return -fake_logits


@dataclass(frozen=True)
class Relativistic:
    """Logistic loss on the difference of a real and a generated sample's logits.

    D minimises ``softplus(D(G(z)) - D(x))`` and G minimises ``softplus(D(x) - D(G(z)))`` (Jolicoeur-Martineau
    2018, arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441, equation 2). Only differences count:

    >>> Relativistic().generator(fake_logits=torch.tensor([1.0, 9.0]), real_logits=torch.tensor([1.0, 9.0]))
    tensor([0.6931, 0.6931])
    """

    relativistic: ClassVar[bool] = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return D's loss for each pair, shape (B,)."""
        return softplus(fake_logits - real_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """Return G's loss for each pair, shape (B,)."""
        assert real_logits is not None
        return softplus(real_logits - fake_logits)


LOSSES: dict[str, Callable[..., AdversarialLoss]] = {
    "NonSaturating": NonSaturating,
    "LeastSquares": LeastSquares,
    "Wasserstein": Wasserstein,
    "Hinge": Hinge,
    "Relativistic": Relativistic,
}
"""By the name of the class."""
