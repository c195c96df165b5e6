"""Recipes with options that no row has, among them a penalty whose gradients go through augmentation."""

from dataclasses import replace

from gan.methods.ada import AugmentationPipeline
from gan.methods.consistency import Consistency
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.penalties import ZeroCentred
from gan.models.mlp import MLP
from gan.recipes import RECIPES

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
