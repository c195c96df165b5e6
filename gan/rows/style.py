"""StyleGAN2 and StyleGAN2-ADA at their published sizes."""

from gan.data.order import Sampling
from gan.methods.adaptive import Adaptive
from gan.methods.losses import NonSaturating
from gan.methods.optimizers import Adam
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1
from gan.models.stylegan2 import StyleGAN2
from gan.recipe import Recipe

CIFAR_CORRECTION = 4 / 5
"""By which G's optimizer is corrected in `cifar`, as if a penalty of G were due after every 4th update.

G has none there, and the authors' code corrects its optimizer all the same; so G learns at 0.002. D's is corrected
for the penalty that it has, by `Recipe.numbers`. See `gan.methods.lazy`.
"""

STYLE: dict[str, Recipe] = {
    "stylegan2": Recipe(
        summary="style-based G, mixing, path length penalty, lazy R1; 256×256 images of yours",
        source="Karras et al. 2020, arXiv:1912.04958, and arXiv:2006.06676; settings: paper256 and the run "
        "ffhq-res256-mirror-paper256-noaug of its authors' code, github.com/NVlabs/stylegan2-ada-pytorch",
        dataset="folder",
        published_shape=(3, 256, 256),
        batch_size=64,
        epochs=357,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        mirror=True,
        latent_dim=512,
        generator=StyleGAN2(64),
        discriminator=StyleGAN2(64, group_size=8),
        initialization="built-in",
        loss=NonSaturating(),
        optimizer=Adam(2.5e-3, betas=(0.0, 0.99)),
        penalty=R1(1.0, every=16),
        generator_penalty=PathLength(2.0, every=4),
        ema_half_life=20_000,
    ),
    "stylegan2-ada": Recipe(
        summary="stylegan2 for CIFAR-10 and its classes, with augmentation that adapts to how much D overfits",
        source="Karras et al. 2020, arXiv:2006.06676; settings: cifar of its authors' code, "
        "github.com/NVlabs/stylegan2-ada-pytorch, and the run cifar10c-cifar-ada",
        dataset="cifar10",
        batch_size=64,
        epochs=2000,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=512,
        generator=StyleGAN2(512, mapping_layers=2, mixing=0.0),
        discriminator=StyleGAN2(512, residual=False, group_size=32),
        initialization="built-in",
        loss=NonSaturating(),
        optimizer=Adam(2.5e-3 * CIFAR_CORRECTION, betas=(0.0, 0.99**CIFAR_CORRECTION)),
        discriminator_optimizer=Adam(2.5e-3, betas=(0.0, 0.99)),
        penalty=R1(0.01, every=16),
        augmentation=("ada",),
        adaptive=Adaptive(0.6, interval=4, images=500_000),
        conditional=True,
        ema_half_life=500_000,
        ema_ramp=0.05,
    ),
}
