"""Recipes whose penalties take updates of their own, and whose augmentation adapts, with small networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan.data.order import Sampling
from gan.images import ImageShape
from gan.methods.ada import AugmentationPipeline
from gan.methods.adaptive import Adaptive
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1
from gan.methods.schedules import Cosine, Linear
from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.recipes import RECIPES

SCHEDULE_IMAGES = 20_000


class StyledGenerator(nn.Module):
    """Two layers of styles, on which the images depend by products."""

    def __init__(self, latent_dim: int, width: int, image_shape: ImageShape) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.mapping = nn.Sequential(nn.Linear(latent_dim, width), nn.LeakyReLU(0.2), nn.Linear(width, width))
        self.constant = nn.Parameter(torch.randn(width))
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, math.prod(image_shape))

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.mapping(latents).unsqueeze(1).repeat(1, 2, 1)

    def synthesis(self, styles: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(self.constant * (1 + styles[:, 0])))
        return torch.tanh(self.output(hidden * (1 + styles[:, 1]))).view(-1, *self.image_shape)

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.styles(latents))


@dataclass(frozen=True)
class Styled:
    width: int = 8
    batchnorm: ClassVar[bool] = False
    min_generator_tensors: ClassVar[int] = 9

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        return StyledGenerator(latent_dim, self.width, image_shape)

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        return MLP((16, 8), negative_slope=0.2).discriminator(image_shape)


@dataclass(frozen=True)
class Fade:
    """Fade an image towards grey, with a probability."""

    num_uniforms: ClassVar[int] = 2

    def __call__(self, images: Tensor, uniform: Tensor, probability: Tensor) -> Tensor:
        fades = uniform[:, 0] < probability
        return images * torch.where(fades, uniform[:, 1], 1.0).view(-1, 1, 1, 1)


styled = replace(
    RECIPES["mlp-compact"],
    generator=Styled(),
    discriminator=Styled(),
    sampling=Sampling.SHUFFLE_DROP_LAST,
    optimizer=Adam(1e-3, betas=(0.5, 0.99)),
    penalty=R1(Linear(2.0, 1.0, images=1000), every=3),
    generator_penalty=PathLength(every=2),
    ema_half_life=500,
    ema_ramp=0.5,
)
several = replace(
    RECIPES["wgan-gp"],
    generator=DCGAN(4),
    discriminator=DCGAN(4, batchnorm=False),
    penalty=replace(RECIPES["wgan-gp"].penalty, every=2),
    discriminator_steps=3,
    conditional=True,
    shared_fakes=True,
)
adaptive = replace(
    RECIPES["mlp"],
    generator=MLP((16,)),
    discriminator=MLP((16,)),
    augmentation=(Fade(), "cutout"),
    adaptive=Adaptive(interval=4, images=1000, begin=0.5),
    penalty=R1(1.0, every=2),
)
scheduled = replace(
    styled,
    discriminator=MLP((16, 8), negative_slope=0.2, dropout=0.2),
    optimizer=Adam(
        Cosine(1e-2, 1e-3, images=SCHEDULE_IMAGES), (0.5, Linear(0.9, 0.99, images=SCHEDULE_IMAGES)), 1e-3
    ),
    discriminator_optimizer=RMSprop(Linear(1e-2, 1e-3, images=SCHEDULE_IMAGES), eps=1e-3),
    generator_top_k=Linear(1.0, 0.25, images=SCHEDULE_IMAGES),
    penalty=R1(Linear(2.0, 1.0, images=SCHEDULE_IMAGES), every=2),
    generator_penalty=PathLength(Cosine(2.0, 1.0, images=SCHEDULE_IMAGES), every=3),
    augmentation=(AugmentationPipeline(("blit", "geom")), "cutout"),
    augmentation_probability=Linear(0.0, 1.0, images=SCHEDULE_IMAGES),
    lecam=LeCam(),
    latent_consistency=LatentConsistency(),
    ema_half_life=Linear(5000, 500, images=SCHEDULE_IMAGES),
)
"""Whatever can change with images seen, or follows what was seen, does so."""
