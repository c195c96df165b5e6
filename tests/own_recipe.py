"""A recipe of a file, as a user's: small networks that share nothing with ours; every generic test runs on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan.data.order import Sampling
from gan.images import ImageShape
from gan.methods.optimizers import Adam
from gan.recipes import Recipe


class Sine(nn.Module):
    """A module of its own class, which nothing in gan knows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Generator(nn.Module):
    def __init__(self, latent_dim: int, width: int, image_shape: ImageShape) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.hidden = nn.Linear(latent_dim, width)
        self.normal = nn.BatchNorm1d(width)
        self.output = nn.Linear(width, math.prod(image_shape))
        self.register_buffer("scale", torch.tensor(0.9), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = torch.sin(self.normal(self.hidden(latents)))
        return torch.tanh(self.scale * self.output(hidden)).view(-1, *self.image_shape)


@dataclass(frozen=True)
class TinyNetworks:
    width: int = 12
    slopes: tuple[float, ...] = (0.2,)
    batchnorm: ClassVar[bool] = True
    min_generator_tensors: ClassVar[int] = 4

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        return Generator(latent_dim, self.width, image_shape)

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        pixels = math.prod(image_shape)
        hidden = [nn.Linear(pixels, self.width), nn.LeakyReLU(self.slopes[0]), nn.Linear(self.width, self.width)]
        return nn.Sequential(nn.Flatten(), *hidden, Sine(), nn.Linear(self.width, 1), nn.Flatten(0))


@dataclass(frozen=True)
class Tempered:
    relativistic: ClassVar[bool] = True
    temperature: float = 1.5

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return softplus((fake_logits - real_logits) / self.temperature)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        assert real_logits is not None
        return softplus((real_logits - fake_logits) / self.temperature)


@dataclass(frozen=True)
class Drift:
    mixes: ClassVar[bool] = True
    weight: float = 0.1

    def __call__(self, discriminator, real: Tensor, fake: Tensor, mix: Tensor | None = None) -> Tensor:
        assert mix is not None
        with torch.autocast(real.device.type, enabled=False):
            between = torch.lerp(fake, real, mix.to(real.dtype).view(-1, 1, 1, 1))
            return discriminator(between).square()


@dataclass(frozen=True)
class Shade:
    strength: float = 0.3

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return images + self.strength * (uniform[:, 0].view(-1, 1, 1, 1) - 0.5)


recipe = Recipe(
    summary="tiny",
    source="arXiv:0000.00000",
    dataset="digits",
    batch_size=16,
    epochs=2,
    sampling=Sampling.SHUFFLE,
    latent_dim=5,
    generator=TinyNetworks(),
    discriminator=TinyNetworks(8),
    initialization="pytorch",
    loss=Tempered(),
    optimizer=Adam(1e-3, betas=(0.5, 0.9)),
    penalty=Drift(),
    augmentation=("cutout", Shade()),
    ema_half_life=500,
)
