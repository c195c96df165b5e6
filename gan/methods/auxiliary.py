"""What the second head of a discriminator learns: terms of both losses, pure functions, one value per sample."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


class AuxiliaryLoss(Protocol):
    """A term that both losses get, multiplied by `weight`, of what D's second head says of images.

    The architecture of D brings the head: `gan.models.heads`.
    """

    @property
    def weight(self) -> float:
        """The factor."""

    def discriminator(
        self, real_outputs: Tensor, fake_outputs: Tensor, latents: Tensor, labels: Tensor | None, /
    ) -> Tensor:
        """Return D's term for each pair of a real and a generated sample, shape (B,).

        Args:
            real_outputs: Of the head on real images, shape (B, K).
            fake_outputs: Likewise on generated ones.
            latents: Of the generated images, shape (B, latent_dim).
            labels: Classes of both, shape (B,), if the recipe is conditional.
        """

    def generator(self, fake_outputs: Tensor, latents: Tensor, labels: Tensor | None, /) -> Tensor:
        """Return G's term for each generated sample, shape (B,)."""


@dataclass(frozen=True)
class ClassPrediction:
    """The class that D reads in an image: cross-entropy, which both networks minimise.

    D minimises ``weight * (-log P(y | x) - log P(y | G(z, y)))`` besides its loss, and G the second of the two
    (Odena et al. 2017, arXiv:1610.09585, equation 3: L_C).

    >>> undecided = torch.zeros(1, 4)  # a quarter for each class
    >>> ClassPrediction().generator(undecided, torch.zeros(1, 2), torch.tensor([3]))
    tensor([1.3863])

    Attributes:
        weight: The factor; 1 in the paper.
    """

    weight: float = 1.0

    def discriminator(
        self, real_outputs: Tensor, fake_outputs: Tensor, _latents: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return ``-log P(y | x) - log P(y | G(z, y))``, shape (B,)."""
        return self._surprise(real_outputs, labels) + self._surprise(fake_outputs, labels)

    def generator(self, fake_outputs: Tensor, _latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return ``-log P(y | G(z, y))``, shape (B,)."""
        return self._surprise(fake_outputs, labels)

    def _surprise(self, outputs: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None, "the classes of an unconditional recipe are not known"
        return cross_entropy(outputs, labels, reduction="none")


class Codes(NamedTuple):
    """Latents as InfoGAN takes them.

    Attributes:
        categories: Which of its values each categorical code has, shape (B, number of categorical codes).
        continuous: Uniform on (-1, 1), shape (B, number of continuous codes).
        noise: The rest, standard normal.
    """

    categories: Tensor
    continuous: Tensor
    noise: Tensor


def codes(latents: Tensor, sizes: Sequence[int], num_continuous: int) -> Codes:
    """Make codes of standard normal latents (B, latent_dim): a function of the latents alone, that draws nothing.

    A categorical code is the place of the largest of so many normal numbers, which all have the same chance. A
    continuous one is ``2 Φ(z) - 1``, where Φ is the distribution function of z.

    Args:
        latents: Standard normal, shape (B, latent_dim), at least as wide as all codes together.
        sizes: How many values each categorical code has.
        num_continuous: How many continuous codes there are.
    """
    num_noise = latents.shape[1] - sum(sizes) - num_continuous
    *groups, continuous, noise = latents.split([*sizes, num_continuous, num_noise], 1)
    places = [group.argmax(1) for group in groups]
    categories = torch.stack(places, 1) if places else latents.new_empty(len(latents), 0, dtype=torch.int64)
    return Codes(categories, torch.erf(continuous / math.sqrt(2)), noise)


@dataclass(frozen=True)
class MutualInformation:
    """A lower bound on the information that images have of the codes they were made of.

    Both networks minimise ``-weight * log Q(c | G(z))`` besides their losses (Chen et al. 2016, arXiv:1606.03657,
    equations 5 and 6, without the entropy of the codes, which is constant). Q is a categorical distribution for
    each categorical code, and a normal one of variance 1 for each continuous code, as in its authors' code.

    Attributes:
        weight: λ.
        sizes: How many values each categorical code has, as the generator's.
        num_continuous: How many continuous codes there are, as the generator's.
    """

    weight: float = 1.0
    sizes: tuple[int, ...] = (10,)
    num_continuous: int = 2

    def discriminator(
        self, _real_outputs: Tensor, fake_outputs: Tensor, latents: Tensor, labels: Tensor | None
    ) -> Tensor:
        """Return ``-log Q(c | G(z))``, shape (B,)."""
        return self.generator(fake_outputs, latents, labels)

    def generator(self, fake_outputs: Tensor, latents: Tensor, _labels: Tensor | None) -> Tensor:
        """Return ``-log Q(c | G(z))``, shape (B,)."""
        told = codes(latents, self.sizes, self.num_continuous)
        *logits, means = fake_outputs.split([*self.sizes, self.num_continuous], 1)
        squares = (told.continuous.to(means.dtype) - means).square()
        surprise: Tensor = ((squares + math.log(2 * math.pi)) / 2).sum(1)
        for values, truth in zip(logits, told.categories.unbind(1), strict=True):
            surprise = surprise + cross_entropy(values, truth, reduction="none")
        return surprise


AUXILIARY_LOSSES: dict[str, Callable[..., AuxiliaryLoss]] = {
    "ClassPrediction": ClassPrediction,
    "MutualInformation": MutualInformation,
}
"""By the name of the class."""
