"""Penalties on D, most of them on its gradient with respect to its input: pure functions, one value per sample.

Gradients are differentiated twice. Compilers cannot do that, so penalties stay eager under `torch.compile`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gan.methods.consistency import Consistency
from gan.methods.double_backward import DoubleBackward
from gan.methods.draws import many_normal
from gan.methods.schedules import Scheduled

Discriminator = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B,).

No logit may depend on all other samples, as it does with BatchNorm. Where D looks at groups of images, a gradient
is that of the sum of its group's logits.
"""


class Penalty(Protocol):
    """A term that is added to D's loss, multiplied by `weight`.

    One with a field `every` above 1 is not added: it takes an update of its own after every so many of D's, as
    `gan.methods.lazy` describes. Images are augmented before, unless it is a `PenaltyBeforeAugmentation`.

    Attributes:
        mixes: Whether the penalty needs random numbers.
    """

    mixes: ClassVar[bool]

    @property
    def weight(self) -> Scheduled:
        """The factor, which may change with images seen."""

    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor | None = None, /
    ) -> Tensor:
        """Return the penalty without its weight, shape (B,), differentiable with respect to D's parameters.

        It is never in half precision.

        Args:
            discriminator: D.
            real: Images (B, C, H, W).
            fake: Generated images of the same shape.
            mix: Uniform random numbers on [0, 1), shape (B,), for a penalty that `mixes`.
        """


class PenaltyBeforeAugmentation(Penalty, Protocol):
    """A penalty at images as they are, of a D that augments them: its gradients go through the augmentation."""

    def before_augmentation(
        self, of_real: Discriminator, of_fake: Discriminator, real: Tensor, fake: Tensor, /
    ) -> Tensor:
        """Return the penalty without its weight, shape (B,), as a call does.

        Args:
            of_real: D that augments real images first.
            of_fake: D that augments generated images first, with other random numbers.
            real: Images (B, C, H, W).
            fake: Generated images of the same shape.
        """


def _input_gradient(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return D's gradient with respect to each image, shape (B, C * H * W), which can be differentiated again.

    The gradient of the sum of logits has each image's own gradient in its row, since a logit depends on one image.
    """
    images = images.detach().requires_grad_()
    with DoubleBackward(images) as recorded:
        logits = discriminator(images)
    gradient: Tensor = recorded.gradient(logits.sum())
    return gradient.flatten(1)


def _away_from_one(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return ``(||∇D(x)||₂ - 1)²`` at each image, shape (B,)."""
    norm: Tensor = _input_gradient(discriminator, images).norm(dim=1)
    return (norm - 1).square()


def _squared(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return ``||∇D(x)||₂²`` at each image, shape (B,)."""
    return _input_gradient(discriminator, images).square().sum(1)


@dataclass(frozen=True)
class GradientPenalty:
    """Two-sided penalty on the norm of D's gradient between real and generated images.

    ``weight * (||∇D(x̂)||₂ - 1)²`` at ``x̂ = mix x + (1 - mix) G(z)`` (Gulrajani et al. 2017, arXiv:1704.00028,
    equation 3 and algorithm 1).

    >>> double = lambda images: 2 * images.flatten(1).sum(1)  # the gradient at each of its pixels is 2
    >>> images = torch.zeros(1, 1, 2, 2)
    >>> GradientPenalty(10.0)(double, images, images, mix=torch.tensor([0.5]))  # (‖(2, 2, 2, 2)‖ - 1)²
    tensor([9.])

    Attributes:
        weight: λ.
        every: Updates of D from one penalty to the next.
    """

    mixes: ClassVar[bool] = True
    weight: Scheduled
    every: int = 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor | None = None
    ) -> Tensor:
        """Return ``(||∇D(x̂)||₂ - 1)²``, shape (B,)."""
        assert mix is not None
        with torch.autocast(real.device.type, enabled=False):
            return _away_from_one(discriminator, torch.lerp(fake, real, mix.to(real.dtype).view(-1, 1, 1, 1)))


@dataclass(frozen=True)
class ZeroCentred:
    """R1 and R2: penalties on D's squared gradient at real and at generated images.

    ``weight / 2 * (||∇D(x)||₂² + ||∇D(G(z))||₂²)`` (Mescheder et al. 2018, arXiv:1801.04406, equations 9 and 10;
    both together: Huang et al. 2024, arXiv:2501.05441, equation 3 and section 2.4). With augmentation T these are
    gradients of D(T(x)) with respect to x, as in the code of Huang et al.

    Attributes:
        weight: γ.
        every: Updates of D from one penalty to the next.
    """

    mixes: ClassVar[bool] = False
    weight: Scheduled
    every: int = 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, discriminator: Discriminator, real: Tensor, fake: Tensor, _mix: Tensor | None = None
    ) -> Tensor:
        """Return ``(||∇D(x)||₂² + ||∇D(G(z))||₂²) / 2``, shape (B,)."""
        penalty: Tensor = self.before_augmentation(discriminator, discriminator, real, fake)
        return penalty

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before_augmentation(
        self, of_real: Discriminator, of_fake: Discriminator, real: Tensor, fake: Tensor
    ) -> Tensor:
        """Return the same where D augments images, by functions of its own for real and for generated ones."""
        with torch.autocast(real.device.type, enabled=False):
            return self.of_gradients(_input_gradient(of_real, real), _input_gradient(of_fake, fake))

    @staticmethod
    def of_gradients(of_real: Tensor, of_fake: Tensor) -> Tensor:
        """Return the same, shape (B,), of gradients (B, …) at real and at generated images that are there."""
        return (of_real.flatten(1).square().sum(1) + of_fake.flatten(1).square().sum(1)) / 2


@dataclass(frozen=True)
class DRAGAN:
    """Two-sided penalty on the norm of D's gradient around real images.

    ``weight * (||∇D(x + δ)||₂ - 1)²`` with normal noise δ of every pixel (Kodali et al. 2017, arXiv:1705.07215,
    where λ is 10). The authors' code draws other noise, uniform and up to half of the standard deviation of the
    batch; here no image depends on its batch.

    >>> double = lambda images: 2 * images.flatten(1).sum(1)  # the gradient at each of its pixels is 2
    >>> images = torch.zeros(1, 1, 2, 2)
    >>> DRAGAN()(double, images, images, torch.tensor([0.5]))  # (‖(2, 2, 2, 2)‖ - 1)²
    tensor([9.])

    Attributes:
        weight: λ.
        deviation: The standard deviation of the noise, for images in [-1, 1].
    """

    mixes: ClassVar[bool] = True
    weight: Scheduled = 10.0
    deviation: float = 0.5

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, discriminator: Discriminator, real: Tensor, _fake: Tensor, mix: Tensor | None = None
    ) -> Tensor:
        """Return ``(||∇D(x + δ)||₂ - 1)²``, shape (B,); `mix` is the seed of each image's noise."""
        assert mix is not None
        with torch.autocast(real.device.type, enabled=False):
            noise = many_normal(mix.to(real.dtype).unsqueeze(1), math.prod(real.shape[1:])).view_as(real)
            return _away_from_one(discriminator, real + self.deviation * noise)


@dataclass(frozen=True)
class R1:
    """R1: the penalty on D's squared gradient at real images alone.

    ``weight / 2 * ||∇D(x)||₂²`` (Mescheder et al. 2018, arXiv:1801.04406, equation 9). With augmentation T it is
    the gradient of D(T(x)) with respect to x, as in the authors' code of Karras et al. 2020, arXiv:2006.06676.

    Attributes:
        weight: γ.
        every: Updates of D from one penalty to the next; 16 in Karras et al. 2020, arXiv:1912.04958, section 3.1.
    """

    mixes: ClassVar[bool] = False
    weight: Scheduled
    every: int = 1

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, discriminator: Discriminator, real: Tensor, _fake: Tensor, _mix: Tensor | None = None
    ) -> Tensor:
        """Return ``||∇D(x)||₂² / 2``, shape (B,)."""
        with torch.autocast(real.device.type, enabled=False):
            return _squared(discriminator, real) / 2

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def before_augmentation(
        self, of_real: Discriminator, _of_fake: Discriminator, real: Tensor, fake: Tensor
    ) -> Tensor:
        """Return the same where D augments real images."""
        penalty: Tensor = self(of_real, real, fake)
        return penalty


PENALTIES: dict[str, Callable[..., Penalty]] = {
    "GradientPenalty": GradientPenalty,
    "ZeroCentred": ZeroCentred,
    "DRAGAN": DRAGAN,
    "Consistency": Consistency,
    "R1": R1,
}
"""By the name of the class."""
