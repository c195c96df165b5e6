"""A recipe of my own: small convolutional networks, a loss, a penalty and an augmentation that gan/ does not have.

    accelerate launch gan/train.py --recipe docs/examples/my_recipe.py --dataset digits --epochs 1

Every part is a frozen dataclass, so that a run can record it. Its fields can be changed with --set.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan.data.order import Sampling
from gan.images import ImageShape
from gan.methods.optimizers import Adam
from gan.recipes import Recipe


@dataclass(frozen=True)
class SmallNetworks:
    """A generator that enlarges a coarse grid, and a discriminator of two strided convolutions."""

    channels: int = 16
    batchnorm: ClassVar[bool] = False  # whether a network has BatchNorm layers
    min_generator_tensors: ClassVar[int] = 4  # weights and biases: at least so many

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""
        num_channels, height, width = image_shape
        return nn.Sequential(
            nn.Linear(latent_dim, self.channels * 7 * 7),
            nn.Unflatten(1, (self.channels, 7, 7)),
            nn.ReLU(),
            nn.Upsample((height, width), mode="bilinear"),
            nn.Conv2d(self.channels, num_channels, 5, padding=2),
            nn.Tanh(),
        )

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Images (B, C, H, W) to logits (B,)."""
        return nn.Sequential(
            nn.Conv2d(image_shape[0], self.channels, 5, stride=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(self.channels, self.channels, 5, stride=2),
            nn.LeakyReLU(0.2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * self.channels, 1),
            nn.Flatten(0),
        )


@dataclass(frozen=True)
class Logistic:
    """The logistic loss with a temperature; each function returns a value for each image, shape (B,)."""

    relativistic: ClassVar[bool] = False  # whether G's loss takes the logits of real images, too
    temperature: float = 1.0

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """D's loss."""
        return softplus(-real_logits / self.temperature) + softplus(fake_logits / self.temperature)

    def generator(self, fake_logits: Tensor, _real_logits: Tensor | None = None) -> Tensor:
        """G's loss."""
        return softplus(-fake_logits / self.temperature)


@dataclass(frozen=True)
class LogitDrift:
    """A penalty on the squared logits of real images (Karras et al. 2018, arXiv:1710.10196, appendix A.1)."""

    mixes: ClassVar[bool] = False  # whether it takes random numbers
    weight: float = 1e-3

    def __call__(self, discriminator, real: Tensor, _fake: Tensor, _mix: Tensor | None = None) -> Tensor:
        """Return the penalty without its weight, shape (B,)."""
        with torch.autocast(real.device.type, enabled=False):  # a penalty is never in half precision
            return discriminator(real).square()


@dataclass(frozen=True)
class Flip:
    """Mirror images at random; a row of `uniform` (B, 7) has the random numbers of an image."""

    probability: float = 0.5

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Return images of the same shape."""
        mirrored = uniform[:, 0].view(-1, 1, 1, 1) < self.probability
        return torch.where(mirrored, images.flip(3), images)


recipe = Recipe(
    summary="small convolutional networks with a logistic loss",
    source="mine",
    dataset="mnist",
    batch_size=64,
    epochs=10,
    sampling=Sampling.SHUFFLE_DROP_LAST,
    latent_dim=32,
    generator=SmallNetworks(),
    discriminator=SmallNetworks(),
    initialization="pytorch",
    loss=Logistic(),
    optimizer=Adam(2e-4, betas=(0.5, 0.999)),
    penalty=LogitDrift(),
    augmentation=(Flip(),),
)
