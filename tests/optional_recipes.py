"""A recipe with the options that no row has."""

from dataclasses import replace

from gan.methods.ada import AugmentationPipeline
from gan.methods.consistency import Consistency
from gan.methods.lecam import LeCam
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
