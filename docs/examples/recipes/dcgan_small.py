"""A small DCGAN for two CPU cores: as good on MNIST as `mlp` after 20 epochs, from a few thousand images.

    python -m bench time-to-quality --recipe docs/examples/recipes/dcgan_small.py --output mine.json

What makes it quick: convolutions of 16 channels instead of 64; batches of 16, so that a thousand images are over
sixty updates; ten times the usual learning rate, with a shorter memory of squared gradients; no BatchNorm in D;
and a moving average of G that forgets half in 500 images.
"""

from gan.data.order import Sampling
from gan.methods.losses import NonSaturating
from gan.methods.optimizers import Adam
from gan.models.dcgan import DCGAN
from gan.recipes import Recipe

recipe = Recipe(
    summary="a small DCGAN that is quick on a CPU",
    source="Radford et al. 2015, arXiv:1511.06434; its values were searched for: docs/log.md",
    dataset="mnist",
    batch_size=16,
    epochs=2,
    sampling=Sampling.SHUFFLE_DROP_LAST,
    latent_dim=32,
    generator=DCGAN(channels=16),
    discriminator=DCGAN(channels=16, batchnorm=False),
    initialization="dcgan",
    loss=NonSaturating(),
    optimizer=Adam(2e-3, betas=(0.5, 0.99)),
    ema_half_life=500,
)
