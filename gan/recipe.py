"""Recipe: everything that defines a GAN variant, as data."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from gan.data.order import Sampling
from gan.methods.augmentations import UNIFORMS, Augmentation
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.losses import AdversarialLoss
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import Penalty
from gan.methods.schedules import Scheduled, changes
from gan.models.architectures import Architecture, describe
from gan.models.initialization import Initialization


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
        mirror: Mirror each real image, left to right, with probability 1/2: x-flip of the data.
        latent_dim: Width of the standard normal latents.
        generator: Architecture of G.
        discriminator: Architecture of D.
        initialization: A key of `initialization.INITIALIZERS`.
        loss: The pair of losses.
        optimizer: The settings of G's, and of D's unless `discriminator_optimizer` has them.
        discriminator_optimizer: The settings of D's, where they differ: usually a higher learning rate, for two
            time-scales (Heusel et al. 2017, arXiv:1706.08500, section 2). None takes `optimizer` for both.
        penalty: Added to D's loss.
        auxiliary: Added to both losses: what D's second head learns of images.
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
    mirror: bool = False
    latent_dim: int
    generator: Architecture
    discriminator: Architecture
    initialization: Initialization
    loss: AdversarialLoss
    optimizer: Adam | RMSprop
    discriminator_optimizer: Adam | RMSprop | None = None
    penalty: Penalty | None = None
    auxiliary: AuxiliaryLoss | None = None
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
        for name in ("generator", "discriminator", "loss", "penalty", "auxiliary"):
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
