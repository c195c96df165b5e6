"""Recipes with options that no row has, among them a penalty whose gradients go through augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from gan.data.order import Sampling
from gan.images import ImageShape
from gan.methods.ada import AugmentationPipeline
from gan.methods.adaptive import Adaptive
from gan.methods.auxiliary import ClassPrediction
from gan.methods.consistency import Consistency
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.losses import Relativistic
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.penalties import GradientPenalty, ZeroCentred
from gan.models.acgan import OneHotGenerator
from gan.models.heads import HeadedDiscriminator
from gan.models.mlp import MLP
from gan.recipes import RECIPES


@dataclass(frozen=True)
class Headed:
    """Linear layers, with a second head that tells the class and without BatchNorm."""

    width: int = 16
    batchnorm: ClassVar[bool] = False
    min_generator_tensors: ClassVar[int] = 4

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        return MLP((self.width,)).generator(latent_dim, image_shape)

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        return OneHotGenerator(self.generator(latent_dim + num_classes, image_shape), num_classes)

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        return MLP((self.width,), negative_slope=0.2).discriminator(image_shape)

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        layers = (nn.Flatten(), nn.Linear(math.prod(image_shape), self.width), nn.LeakyReLU(0.2))
        heads = (nn.Linear(self.width, 1), nn.Linear(self.width, num_classes))
        return HeadedDiscriminator(nn.Sequential(*layers), *heads)


optional = replace(
    RECIPES["mlp"],
    generator=MLP((16,)),
    discriminator=MLP((16,)),
    augmentation=(AugmentationPipeline(("blit", "geom")), "cutout"),
    augmentation_probability=0.5,
    penalty=Consistency(1.0, on_fakes=True),
    lecam=LeCam(),
    mirror=True,
)
augmented = replace(
    RECIPES["mlp-compact"],
    generator=MLP((16,)),
    discriminator=MLP((16,), negative_slope=0.2),
    augmentation=("color", "ada"),
    augmentation_probability=0.8,
    penalty=ZeroCentred(2.0),
)
near = replace(
    RECIPES["mlp-compact"],
    generator=MLP((16,)),
    discriminator=MLP((16,), negative_slope=0.2),
    augmentation=("color",),
    latent_consistency=LatentConsistency(deviation=0.3),
    shared_fakes=True,
)
combined = replace(
    RECIPES["mlp-compact"],
    sampling=Sampling.SHUFFLE_DROP_LAST,
    generator=Headed(),
    discriminator=Headed(),
    loss=Relativistic(),
    penalty=GradientPenalty(3.0, every=3),
    lecam=LeCam(),
    latent_consistency=LatentConsistency(deviation=0.3),
    generator_penalty=OrthogonalRegularization(0.01),
    auxiliary=ClassPrediction(0.5),
    augmentation=(AugmentationPipeline(("blit", "geom")), "color"),
    adaptive=Adaptive(interval=2, images=1000, begin=0.5),
    mirror=True,
    conditional=True,
    shared_fakes=True,
    discriminator_steps=2,
    discriminator_clip=0.1,
    ema_half_life=500,
)
"""Whatever goes together."""
chosen = replace(combined, generator_top_k=0.5)
"""With another choice of images in each micro-batch and process."""
