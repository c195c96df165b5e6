"""RECIPES: one row per GAN variant, data only. To add a variant, add a row.

A row states every setting, except those of `Recipe` with a default that it does without. `--dry-run` prints a row
with the options of a command applied.
"""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from gan.data.order import Sampling
from gan.methods.augmentations import UNIFORMS, Augmentation
from gan.methods.losses import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import GradientPenalty, Penalty, ZeroCentred
from gan.methods.schedules import Cosine, Scheduled, changes
from gan.models.architectures import Architecture, describe
from gan.models.dcgan import DCGAN
from gan.models.initialization import Initialization
from gan.models.mlp import MLP
from gan.models.r3gan import R3GAN
from gan.models.sngan import SNResNet


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a GAN variant.

    Attributes:
        summary: What sets it apart, in one line.
        source: The papers, with sections.
        dataset: A key of `datasets.DATASETS`; `--dataset` overrides it.
        batch_size: Real images of a process per update of D; `--batch-size` overrides it.
        epochs: Passes over the data; `--epochs` and `--steps` override it.
        sampling: How an epoch's batches are drawn.
        latent_dim: Width of the standard normal latents.
        generator: Architecture of G.
        discriminator: Architecture of D.
        initialization: A key of `initialization.INITIALIZERS`.
        loss: The pair of losses.
        optimizer: The settings of G's, and of D's unless `discriminator_optimizer` has them.
        discriminator_optimizer: The settings of D's, where they differ: usually a higher learning rate, for two
            time-scales (Heusel et al. 2017, arXiv:1706.08500, section 2). None takes `optimizer` for both.
        penalty: Added to D's loss.
        augmentation: Keys of `augmentations.AUGMENTATIONS`, or frozen dataclasses that are called like them;
            applied to all that D sees. `--augment` overrides it.
        conditional: Both networks are conditioned on the class; the dataset must have labels.
        generator_first: Update G first and train D on the very same generated images, detached; otherwise D first.
        shared_fakes: With D first, train G on the very images that D's last update took, so that G runs once for
            both; otherwise on images of fresh latents.
        discriminator_steps: Updates of D in a step, before the one of G; each takes fresh images and latents.
        discriminator_clip: After each of its updates, clamp D's parameters to plus or minus this; 0 does not.
        ema_half_life: Images after which a generator counts half in the moving average of G that is saved and
            sampled; 0 takes G as it is. `--ema-half-life` overrides it.
        keep_generators: Keep a generator per epoch; `--keep-generators` overrides it.
    """

    summary: str
    source: str
    dataset: str
    batch_size: int
    epochs: int
    sampling: Sampling
    latent_dim: int
    generator: Architecture
    discriminator: Architecture
    initialization: Initialization
    loss: AdversarialLoss
    optimizer: Adam | RMSprop
    discriminator_optimizer: Adam | RMSprop | None = None
    penalty: Penalty | None = None
    augmentation: tuple[str | Augmentation, ...] = ()
    conditional: bool = False
    generator_first: bool = False
    shared_fakes: bool = False
    discriminator_steps: int = 1
    discriminator_clip: float = 0.0
    ema_half_life: Scheduled = 0
    keep_generators: bool = False

    def __post_init__(self) -> None:
        if self.discriminator_steps > 1:
            unequal = "several updates of D take batches of equal size, and with shuffle the last one is smaller"
            assert self.sampling is not Sampling.SHUFFLE, unequal
            assert not self.generator_first, "several updates of D cannot share the images of one update of G"
        order = "with generator_first D already learns on G's images; give shared_fakes or generator_first"
        assert not (self.shared_fakes and self.generator_first), order

    @property
    def latents_per_step(self) -> int:
        """Batches of latents in a step: one per update; G's is one of D's if they share generated images."""
        return self.discriminator_steps + (not self.generator_first and not self.shared_fakes)

    @property
    def warp_dim(self) -> int:
        """Uniform numbers that the augmentation of an image takes; 0 without augmentation."""
        return UNIFORMS if self.augmentation else 0

    @property
    def optimizers(self) -> dict[str, Adam | RMSprop]:
        """The settings of both optimizers, by network."""
        return {"discriminator": self.discriminator_optimizer or self.optimizer, "generator": self.optimizer}

    @property
    def scheduled(self) -> bool:
        """Whether an optimizer or the penalty changes with images seen."""
        optimizers = any(optimizer.scheduled for optimizer in self.optimizers.values())
        return optimizers or (self.penalty is not None and changes(self.penalty.weight))

    @property
    def batchnorm(self) -> bool:
        """Whether a network has BatchNorm layers."""
        return self.generator.batchnorm or self.discriminator.batchnorm

    def to_json(self) -> dict[str, Any]:
        """Return what decides how the row trains, as JSON gives it back, without sizes, texts and what is OFF."""
        data = asdict(self)
        for name in NOT_IN_JSON:
            del data[name]
        for name in ("generator", "discriminator", "loss", "penalty"):
            if data[name] is not None:
                data[name] = describe(getattr(self, name))
        data["augmentation"] = [item if isinstance(item, str) else describe(item) for item in self.augmentation]
        settings: dict[str, Any] = json.loads(json.dumps(data))
        return {name: value for name, value in settings.items() if name not in OFF or value != OFF[name]}


NOT_IN_JSON = ("summary", "source", "batch_size", "epochs", "keep_generators")
OFF: dict[str, Any] = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in fields(Recipe)
    if field.default is not MISSING
}
"""The settings that a row may do without, and their values then, as JSON gives them back."""

ROWS_BEFORE = {"shared_fakes": "false"}
"""Settings that some rows have now and none had before, and the value then, as `--set` takes it.

A run whose record lacks one goes on as it was begun.
"""

R3GAN_SCHEDULE_IMAGES = 2_000_000
"""Images over which R3GAN's schedules run; a tenth of its authors' for CIFAR-10."""

RECIPES: dict[str, Recipe] = {
    "quickstart": Recipe(
        summary="mlp-smooth with mlp-batchnorm's G on the bundled digits, about a minute on two CPU cores",
        source="Goodfellow et al. 2014, arXiv:1406.2661; smoothing: Salimans et al. 2016, arXiv:1606.03498, 3.4",
        dataset="digits",
        batch_size=64,
        epochs=130,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=64,
        generator=MLP((128, 256, 512), negative_slope=0.2, batchnorm=True),
        discriminator=MLP((1024, 512, 256), negative_slope=0.2, dropout=0.3),
        initialization="glorot-uniform-small-first",
        loss=NonSaturating(real_label=0.9, scale=0.5),
        optimizer=Adam(2e-4, betas=(0.5, 0.999), eps=1e-7),
    ),
    "mlp": Recipe(
        summary="G first, and D on the same fakes",
        source="Goodfellow et al. 2014, arXiv:1406.2661, section 3",
        dataset="mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE,
        latent_dim=100,
        generator=MLP((256, 512, 1024)),
        discriminator=MLP((1024, 512, 256)),
        initialization="pytorch",
        loss=NonSaturating(scale=0.5),
        optimizer=Adam(2e-4, betas=(0.5, 0.999)),
        generator_first=True,
    ),
    "mlp-dropout": Recipe(
        summary="dropout in both networks; positive initial biases",
        source="Goodfellow et al. 2014, arXiv:1406.2661, section 3",
        dataset="mnist",
        batch_size=200,
        epochs=200,
        sampling=Sampling.SHUFFLE,
        latent_dim=100,
        generator=MLP((256, 256), dropout=0.1),
        discriminator=MLP((256, 256), negative_slope=0.01, dropout=0.1),
        initialization="xavier-normal-positive-bias",
        loss=NonSaturating(),
        optimizer=Adam(2e-4, betas=(0.9, 0.999)),
    ),
    "mlp-smooth": Recipe(
        summary="one-sided label smoothing; batches drawn with replacement",
        source="Goodfellow et al. 2014, arXiv:1406.2661; smoothing: Salimans et al. 2016, arXiv:1606.03498, 3.4",
        dataset="mnist",
        batch_size=128,
        epochs=400,
        sampling=Sampling.WITH_REPLACEMENT,
        latent_dim=100,
        generator=MLP((256, 512, 1024), negative_slope=0.2),
        discriminator=MLP((1024, 512, 256), negative_slope=0.2, dropout=0.3),
        initialization="glorot-uniform-small-first",
        loss=NonSaturating(real_label=0.9, scale=0.5),
        optimizer=Adam(2e-4, betas=(0.5, 0.999), eps=1e-7),
    ),
    "mlp-batchnorm": Recipe(
        summary="BatchNorm in G; FashionMNIST",
        source="Goodfellow et al. 2014, arXiv:1406.2661; smoothing: Salimans et al. 2016, arXiv:1606.03498, 3.4",
        dataset="fashion_mnist",
        batch_size=64,
        epochs=100,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=64,
        generator=MLP((128, 256, 512), negative_slope=0.2, batchnorm=True),
        discriminator=MLP((512, 256), negative_slope=0.2, dropout=0.3),
        initialization="kaiming-normal",
        loss=NonSaturating(real_label=0.9),
        optimizer=Adam(1e-4, betas=(0.5, 0.999)),
    ),
    "mlp-compact": Recipe(
        summary="two narrow hidden layers; a generator is kept per epoch",
        source="Goodfellow et al. 2014, arXiv:1406.2661, section 3",
        dataset="mnist",
        batch_size=100,
        epochs=200,
        sampling=Sampling.SHUFFLE,
        latent_dim=100,
        generator=MLP((256, 256)),
        discriminator=MLP((256, 256), negative_slope=0.2),
        initialization="pytorch",
        loss=NonSaturating(),
        optimizer=Adam(2e-4, betas=(0.9, 0.999)),
        keep_generators=True,
    ),
    "dcgan": Recipe(
        summary="strided convolutions with BatchNorm",
        source="Radford et al. 2015, arXiv:1511.06434, figure 1 and section 4; channels for 28×28 images",
        dataset="mnist",
        batch_size=128,
        epochs=25,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=100,
        generator=DCGAN(),
        discriminator=DCGAN(),
        initialization="dcgan",
        loss=NonSaturating(),
        optimizer=Adam(2e-4, betas=(0.5, 0.999)),
        shared_fakes=True,
    ),
    "cgan": Recipe(
        summary="dcgan conditioned on the class: a learned vector beside G's latents, projection in D",
        source="Mirza and Osindero 2014, arXiv:1411.1784; Miyato and Koyama 2018, arXiv:1802.05637, equation 4",
        dataset="mnist",
        batch_size=128,
        epochs=25,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=100,
        generator=DCGAN(),
        discriminator=DCGAN(),
        initialization="dcgan",
        loss=NonSaturating(),
        optimizer=Adam(2e-4, betas=(0.5, 0.999)),
        conditional=True,
        shared_fakes=True,
    ),
    "lsgan": Recipe(
        summary="dcgan with least squares",
        source="Mao et al. 2017, arXiv:1611.04076, equation 9; networks: Radford et al. 2015, arXiv:1511.06434",
        dataset="mnist",
        batch_size=128,
        epochs=25,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=100,
        generator=DCGAN(),
        discriminator=DCGAN(),
        initialization="dcgan",
        loss=LeastSquares(),
        optimizer=Adam(2e-4, betas=(0.5, 0.999)),
        shared_fakes=True,
    ),
    "wgan": Recipe(
        summary="the critic's weights clipped to ±0.01, five updates of D to one of G",
        source="Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1; networks: Radford et al., arXiv:1511.06434",
        dataset="mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=100,
        generator=DCGAN(),
        discriminator=DCGAN(),
        initialization="dcgan",
        loss=Wasserstein(),
        optimizer=RMSprop(5e-5),
        discriminator_steps=5,
        discriminator_clip=0.01,
    ),
    "wgan-gp": Recipe(
        summary="gradient penalty instead of clipped weights; no BatchNorm in D",
        source="Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1; networks: Radford et al., arXiv:1511.06434",
        dataset="mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=100,
        generator=DCGAN(),
        discriminator=DCGAN(batchnorm=False),
        initialization="dcgan",
        loss=Wasserstein(),
        optimizer=Adam(1e-4, betas=(0.0, 0.9)),
        penalty=GradientPenalty(10.0),
        discriminator_steps=5,
    ),
    "sngan": Recipe(
        summary="residual networks, spectral norm in D, hinge loss",
        source="Miyato et al. 2018, arXiv:1802.05957, tables 3 and 4; channels for 28×28 images",
        dataset="fashion_mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=128,
        generator=SNResNet(32, 32),
        discriminator=SNResNet(32, 32),
        initialization="glorot-uniform",
        loss=Hinge(),
        optimizer=Adam(2e-4, betas=(0.0, 0.9)),
        discriminator_steps=5,
    ),
    "r3gan": Recipe(
        summary="residual networks without normalisation, relativistic loss, R1 and R2, schedules, average of G",
        source="Huang et al. 2024, arXiv:2501.05441, and its authors' settings for CIFAR-10; networks, batch and "
        "schedules for 28×28 images",
        dataset="mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=64,
        generator=R3GAN(16, 1),
        discriminator=R3GAN(16, 1),
        initialization="built-in",
        loss=Relativistic(),
        optimizer=Adam(
            Cosine(2e-4, 5e-5, R3GAN_SCHEDULE_IMAGES), betas=(0.0, Cosine(0.9, 0.99, R3GAN_SCHEDULE_IMAGES))
        ),
        penalty=ZeroCentred(Cosine(0.05, 0.005, R3GAN_SCHEDULE_IMAGES)),
        ema_half_life=Cosine(0, R3GAN_SCHEDULE_IMAGES / 4, R3GAN_SCHEDULE_IMAGES),
    ),
}
