"""Recipes that share the images of D's last update with G, each with what sharing could get wrong."""

from dataclasses import replace

from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.models.sngan import SNResNet
from gan.recipes import RECIPES

several = replace(
    RECIPES["wgan-gp"],
    generator=DCGAN(4),
    discriminator=DCGAN(4, batchnorm=False),
    discriminator_steps=3,
    augmentation=("color", "cutout"),
    conditional=True,
    shared_fakes=True,
)
relativistic = replace(RECIPES["r3gan"], generator=MLP((16,), batchnorm=True), shared_fakes=True)
clipped = replace(RECIPES["wgan"], generator=DCGAN(4), discriminator=DCGAN(4), shared_fakes=True)
spectral = replace(RECIPES["sngan"], generator=SNResNet(4, 4), discriminator=SNResNet(4, 4), shared_fakes=True)
dropout = replace(RECIPES["mlp-dropout"], shared_fakes=True)
