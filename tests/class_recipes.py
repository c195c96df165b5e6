"""Recipes with networks that bring their own conditioning, attention or a second head, each at a small size."""

from dataclasses import replace

from gan.methods.auxiliary import ClassPrediction, MutualInformation
from gan.methods.losses import Hinge, Relativistic
from gan.methods.optimizers import Adam
from gan.methods.penalties import ZeroCentred
from gan.models.acgan import ACGAN
from gan.models.biggan import BigGAN
from gan.models.infogan import InfoGAN
from gan.models.r3gan import WideR3GAN
from gan.models.sagan import SAGAN
from gan.recipes import RECIPES

# G's convolutions have biases before BatchNorm, as published. Their gradient is 0 but for rounding, of which Adam
# makes whole steps unless its epsilon is large.
_conditional = replace(
    RECIPES["cgan"],
    shared_fakes=False,
    loss=Hinge(),
    latent_dim=12,
    optimizer=Adam(2e-4, betas=(0.5, 0.999), eps=1e-3),
)

biggan = replace(
    _conditional,
    generator=BigGAN(2, 2, 4),
    discriminator=BigGAN(2, 2, 4),
    initialization="orthogonal",
    ema_half_life=500,
)
sagan = replace(
    _conditional,
    generator=SAGAN(4, 4, 1),
    discriminator=SAGAN(4, 4, 1),
    initialization="glorot-uniform",
    discriminator_optimizer=Adam(4e-4, betas=(0.0, 0.9)),
)
acgan = replace(
    RECIPES["cgan"],
    generator=ACGAN(4, 2),
    discriminator=ACGAN(4, 2),
    auxiliary=ClassPrediction(weight=0.5),
    latent_dim=12,
)
infogan = replace(
    RECIPES["dcgan"],
    generator=InfoGAN(4, 16, 8),
    discriminator=InfoGAN(4, 16, 8),
    auxiliary=MutualInformation(),
    latent_dim=20,
    shared_fakes=False,
)
wide_r3gan = replace(
    _conditional,
    generator=WideR3GAN(4, 1, 16, 8),
    discriminator=WideR3GAN(4, 1, 16, 8),
    initialization="built-in",
    loss=Relativistic(),
    penalty=ZeroCentred(0.05),
)
