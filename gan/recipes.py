"""RECIPES: one row a GAN variant, data only. Adding a variant is adding a row."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from gan.images import Sampling
from gan.losses import AdversarialLoss, NonSaturating
from gan.networks import MLP, Initialization, describe


@dataclass(frozen=True)
class Adam:
    """Adam's settings (Kingma and Ba 2015, arXiv:1412.6980), the same for both networks."""

    learning_rate: float
    betas: tuple[float, float]
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a GAN variant.

    Attributes:
        summary: What sets it apart, in one line.
        dataset: Default dataset; `--dataset` overrides it.
        batch_size: Images a process takes per step; `--batch-size` overrides it.
        epochs: Passes over the data; `--epochs` and `--steps` override it.
        sampling: How an epoch's batches are drawn.
        latent_dim: Width of the standard normal latents.
        generator: Hidden layers of G.
        discriminator: Hidden layers of D.
        initialization: A key of `networks.INITIALIZERS`.
        loss: The pair of losses.
        optimizer: Adam's settings.
        generator_first: Update G first and train D on the very same fakes, detached; otherwise D first and G
            on fresh latents.
        keep_generators: Keep a generator per epoch; `--keep-generators` overrides it.
        source: Where the method comes from.
    """

    summary: str
    dataset: str
    batch_size: int
    epochs: int
    sampling: Sampling = Sampling.SHUFFLE
    latent_dim: int = 100
    generator: MLP
    discriminator: MLP
    initialization: Initialization = "pytorch"
    loss: AdversarialLoss
    optimizer: Adam
    generator_first: bool = False
    keep_generators: bool = False
    source: str = "Goodfellow et al. 2014, arXiv:1406.2661, section 3"

    @property
    def latents_per_step(self) -> int:
        """Batches of latents a step needs: one when G and D share their fakes, else two."""
        return 1 if self.generator_first else 2

    def to_json(self) -> dict[str, Any]:
        """Return what decides how the row trains, as JSON gives it back; sizes and texts are left out."""
        data = asdict(self)
        for name in ("summary", "source", "batch_size", "epochs", "keep_generators"):
            del data[name]
        for name in ("generator", "discriminator", "loss"):
            data[name] = describe(getattr(self, name))
        normalised: dict[str, Any] = json.loads(json.dumps(data))
        return normalised


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
}
