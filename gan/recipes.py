"""RECIPES: one row a GAN variant, data only. Adding a variant is adding a row."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gan.data.order import Sampling
from gan.methods.augmentations import UNIFORMS
from gan.methods.losses import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein
from gan.methods.penalties import GradientPenalty, Penalty, ZeroCentred
from gan.methods.schedules import Cosine, Scheduled, at
from gan.models.architectures import Architecture, describe
from gan.models.dcgan import DCGAN
from gan.models.initialization import Initialization
from gan.models.mlp import MLP
from gan.models.r3gan import R3GAN
from gan.models.sngan import SNResNet


@dataclass(frozen=True)
class Adam:
    """Adam's settings (Kingma and Ba 2015, arXiv:1412.6980), the same for both networks."""

    learning_rate: Scheduled
    betas: tuple[float, Scheduled]
    eps: float = 1e-8

    def after(self, images_seen: int) -> dict[str, Any]:
        """Return `torch.optim.Adam`'s arguments after so many images."""
        betas = self.betas[0], at(self.betas[1], images_seen)
        return {"lr": at(self.learning_rate, images_seen), "betas": betas, "eps": self.eps}


@dataclass(frozen=True)
class RMSprop:
    """RMSprop's settings (Tieleman and Hinton 2012, lecture 6.5), the same for both networks."""

    learning_rate: Scheduled
    alpha: float = 0.99
    eps: float = 1e-8

    def after(self, images_seen: int) -> dict[str, Any]:
        """Return `torch.optim.RMSprop`'s arguments after so many images."""
        return {"lr": at(self.learning_rate, images_seen), "alpha": self.alpha, "eps": self.eps}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a GAN variant.

    Attributes:
        summary: What sets it apart, in one line.
        dataset: Default dataset; `--dataset` overrides it.
        batch_size: Real images a process takes per update of D; `--batch-size` overrides it.
        epochs: Passes over the data; `--epochs` and `--steps` override it.
        sampling: How an epoch's batches are drawn.
        latent_dim: Width of the standard normal latents.
        generator: Architecture of G.
        discriminator: Architecture of D.
        initialization: A key of `initialization.INITIALIZERS`.
        loss: The pair of losses.
        penalty: Added to D's loss.
        augmentation: Keys of `augmentations.AUGMENTATIONS`, applied to all that D sees; `--augment` overrides it.
        optimizer: Its settings.
        conditional: Both networks are told the class; the dataset must have labels.
        generator_first: Update G first and train D on the very same fakes, detached; otherwise D first and G
            on fresh latents.
        discriminator_steps: Updates of D a step, each on fresh images and latents, before the one of G.
        discriminator_clip: Clamp D's parameters to plus or minus this after each of its updates; 0 does not.
        ema_half_life: Images after which a generator counts half in the moving average of G that is saved and
            sampled; 0 takes G as it is. `--ema-half-life` overrides it. Like the learning rate, Adam's second beta
            and the penalty's weight it may follow a schedule in images seen.
        keep_generators: Keep a generator per epoch; `--keep-generators` overrides it.
        source: Where the method comes from.
    """

    summary: str
    dataset: str
    batch_size: int
    epochs: int
    sampling: Sampling = Sampling.SHUFFLE
    latent_dim: int = 100
    generator: Architecture
    discriminator: Architecture
    initialization: Initialization = "pytorch"
    loss: AdversarialLoss
    penalty: Penalty | None = None
    augmentation: tuple[str, ...] = ()
    optimizer: Adam | RMSprop
    conditional: bool = False
    generator_first: bool = False
    discriminator_steps: int = 1
    discriminator_clip: float = 0.0
    ema_half_life: Scheduled = 0
    keep_generators: bool = False
    source: str = "Goodfellow et al. 2014, arXiv:1406.2661, section 3"

    def __post_init__(self) -> None:
        if self.discriminator_steps > 1:
            assert self.sampling is not Sampling.SHUFFLE, "each update of D takes a batch of equal size"
            assert not self.generator_first

    @property
    def latents_per_step(self) -> int:
        """Batches of latents a step needs: one an update, or one in all when G and D share their fakes."""
        return 1 if self.generator_first else self.discriminator_steps + 1

    @property
    def warp_dim(self) -> int:
        """Uniform numbers an augmented image takes; 0 where nothing is augmented."""
        return UNIFORMS if self.augmentation else 0

    @property
    def scheduled(self) -> bool:
        """Whether the optimizer or the penalty changes with images seen."""
        numbers = [self.optimizer.learning_rate, *getattr(self.optimizer, "betas", ())]
        numbers += [self.penalty.weight] if self.penalty else []
        return any(isinstance(number, Cosine) for number in numbers)

    @property
    def batchnorm(self) -> bool:
        """Whether a network has BatchNorm layers."""
        return self.generator.batchnorm or self.discriminator.batchnorm

    def to_json(self) -> dict[str, Any]:
        """Return what decides how the row trains, as JSON gives it back.

        Sizes and texts are left out, and the settings of OFF if the row does without them.
        """
        data = asdict(self)
        for name in ("summary", "source", "batch_size", "epochs", "keep_generators"):
            del data[name]
        for field in fields(self):
            if field.name in OFF and getattr(self, field.name) == field.default:
                del data[field.name]
        for name in ("generator", "discriminator", "loss", "penalty"):
            if data.get(name) is not None:
                data[name] = describe(getattr(self, name))
        normalised: dict[str, Any] = json.loads(json.dumps(data))
        return normalised


OFF: dict[str, Any] = {
    "penalty": None,
    "augmentation": [],
    "conditional": False,
    "discriminator_steps": 1,
    "discriminator_clip": 0.0,
    "ema_half_life": 0,
}
"""Settings that most rows do without, and their values then, as in JSON."""

_MLP = Recipe(
    summary="G first, and D on the same fakes",
    dataset="mnist",
    batch_size=64,
    epochs=50,
    generator=MLP((256, 512, 1024)),
    discriminator=MLP((1024, 512, 256)),
    loss=NonSaturating(scale=0.5),
    optimizer=Adam(2e-4, (0.5, 0.999)),
    generator_first=True,
)

_MLP_COMPACT = Recipe(
    summary="two narrow hidden layers; a generator is kept per epoch",
    dataset="mnist",
    batch_size=100,
    epochs=200,
    generator=MLP((256, 256)),
    discriminator=MLP((256, 256), negative_slope=0.2),
    loss=NonSaturating(),
    optimizer=Adam(2e-4, (0.9, 0.999)),
    keep_generators=True,
)

_MLP_SMOOTH = replace(
    _MLP,
    summary="one-sided label smoothing; batches drawn with replacement",
    batch_size=128,
    epochs=400,
    sampling=Sampling.WITH_REPLACEMENT,
    generator=MLP((256, 512, 1024), negative_slope=0.2),
    discriminator=MLP((1024, 512, 256), negative_slope=0.2, dropout=0.3),
    initialization="glorot-uniform-small-first",
    loss=NonSaturating(real_label=0.9, scale=0.5),
    optimizer=Adam(2e-4, (0.5, 0.999), eps=1e-7),
    generator_first=False,
    source="Goodfellow et al. 2014, arXiv:1406.2661; smoothing: Salimans et al. 2016, arXiv:1606.03498, 3.4",
)

_MLP_BATCHNORM = replace(
    _MLP_SMOOTH,
    summary="BatchNorm in G; FashionMNIST",
    dataset="fashion_mnist",
    batch_size=64,
    epochs=100,
    sampling=Sampling.SHUFFLE_DROP_LAST,
    latent_dim=64,
    generator=MLP((128, 256, 512), negative_slope=0.2, batchnorm=True),
    discriminator=MLP((512, 256), negative_slope=0.2, dropout=0.3),
    initialization="kaiming-normal",
    loss=NonSaturating(real_label=0.9),
    optimizer=Adam(1e-4, (0.5, 0.999)),
)

_DCGAN = Recipe(
    summary="strided convolutions with BatchNorm",
    dataset="mnist",
    batch_size=128,
    epochs=25,
    sampling=Sampling.SHUFFLE_DROP_LAST,
    generator=DCGAN(),
    discriminator=DCGAN(),
    initialization="dcgan",
    loss=NonSaturating(),
    optimizer=Adam(2e-4, (0.5, 0.999)),
    source="Radford et al. 2015, arXiv:1511.06434, figure 1 and section 4; channels for 28×28 images",
)

_WGAN = replace(
    _DCGAN,
    summary="the critic's weights clipped to ±0.01, five updates of D to one of G",
    batch_size=64,
    epochs=50,
    loss=Wasserstein(),
    optimizer=RMSprop(5e-5),
    discriminator_steps=5,
    discriminator_clip=0.01,
    source="Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1; networks: Radford et al. 2015, arXiv:1511.06434",
)

R3GAN_BURN_IN = 2_000_000
"""Images over which R3GAN's schedules run; a tenth of its authors' for CIFAR-10."""

RECIPES: dict[str, Recipe] = {
    "quickstart": replace(
        _MLP_SMOOTH,
        summary="mlp-smooth with mlp-batchnorm's G on the bundled digits, about a minute on two CPU cores",
        dataset="digits",
        batch_size=64,
        epochs=130,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=_MLP_BATCHNORM.latent_dim,
        generator=_MLP_BATCHNORM.generator,
    ),
    "mlp": _MLP,
    "mlp-dropout": replace(
        _MLP_COMPACT,
        summary="dropout in both networks; positive initial biases",
        batch_size=200,
        generator=MLP((256, 256), dropout=0.1),
        discriminator=MLP((256, 256), negative_slope=0.01, dropout=0.1),
        initialization="xavier-normal-positive-bias",
        keep_generators=False,
    ),
    "mlp-smooth": _MLP_SMOOTH,
    "mlp-batchnorm": _MLP_BATCHNORM,
    "mlp-compact": _MLP_COMPACT,
    "dcgan": _DCGAN,
    "cgan": replace(
        _DCGAN,
        summary="dcgan told the class: a learned vector beside G's latents, projection in D",
        conditional=True,
        source="Mirza and Osindero 2014, arXiv:1411.1784; Miyato and Koyama 2018, arXiv:1802.05637, equation 4",
    ),
    "lsgan": replace(
        _DCGAN,
        summary="dcgan with least squares",
        loss=LeastSquares(),
        source="Mao et al. 2017, arXiv:1611.04076, equation 9; networks: Radford et al. 2015, arXiv:1511.06434",
    ),
    "wgan": _WGAN,
    "wgan-gp": replace(
        _WGAN,
        summary="gradient penalty instead of clipped weights; no BatchNorm in D",
        discriminator=DCGAN(batchnorm=False),
        penalty=GradientPenalty(10.0),
        optimizer=Adam(1e-4, (0.0, 0.9)),
        discriminator_clip=0.0,
        source="Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1; networks: Radford et al., arXiv:1511.06434",
    ),
    "sngan": Recipe(
        summary="residual networks, spectral norm in D, hinge loss",
        dataset="fashion_mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=128,
        generator=SNResNet(32, 32),
        discriminator=SNResNet(32, 32),
        initialization="glorot-uniform",
        loss=Hinge(),
        optimizer=Adam(2e-4, (0.0, 0.9)),
        discriminator_steps=5,
        source="Miyato et al. 2018, arXiv:1802.05957, tables 3 and 4; channels for 28×28 images",
    ),
    "r3gan": Recipe(
        summary="residual networks without normalisation, relativistic loss, R1 and R2, schedules, average of G",
        dataset="mnist",
        batch_size=64,
        epochs=50,
        sampling=Sampling.SHUFFLE_DROP_LAST,
        latent_dim=64,
        generator=R3GAN(16, 1),
        discriminator=R3GAN(16, 1),
        initialization="built-in",
        loss=Relativistic(),
        penalty=ZeroCentred(Cosine(0.05, 0.005, R3GAN_BURN_IN)),
        optimizer=Adam(Cosine(2e-4, 5e-5, R3GAN_BURN_IN), (0.0, Cosine(0.9, 0.99, R3GAN_BURN_IN))),
        ema_half_life=Cosine(0, R3GAN_BURN_IN / 4, R3GAN_BURN_IN),
        source="Huang et al. 2024, arXiv:2501.05441, and its authors' settings for CIFAR-10; networks, batch and "
        "schedules for 28×28 images",
    ),
}
