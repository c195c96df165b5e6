"""A small style-based GAN of classes: what its networks draw and look at together, in the generic tests."""

from dataclasses import replace

from gan.methods.optimizers import Adam
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1
from gan.models.stylegan2 import StyleGAN2
from gan.recipes import RECIPES

recipe = replace(
    RECIPES["cgan"],
    latent_dim=8,
    generator=StyleGAN2(4, 4, style_width=8, mapping_layers=2),
    discriminator=StyleGAN2(4, 4, mapping_layers=2),
    initialization="built-in",
    optimizer=Adam(2.5e-3, betas=(0.0, 0.99)),
    penalty=R1(1.0, every=2),
    generator_penalty=PathLength(every=2),
    shared_fakes=False,
    ema_half_life=500,
)
