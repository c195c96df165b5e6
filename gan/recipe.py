"""Recipe: everything that defines a GAN variant, as data."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from gan.data.order import Sampling
from gan.images import ImageShape
from gan.methods.adaptive import Adaptive
from gan.methods.augmentations import Augmentation, ProbableAugmentation, is_probable, num_uniforms
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.generator_penalties import GeneratorPenalty, GeneratorTerm, is_lazy
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lazy import Due, correction, due_updates, every_of, period_of
from gan.methods.lecam import LeCam
from gan.methods.losses import AdversarialLoss
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import Penalty
from gan.methods.schedules import Scheduled, at, changes
from gan.models.architectures import Architecture, describe
from gan.models.initialization import Initialization


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines a GAN variant.

    Attributes:
        summary: What sets it apart, in one line.
        source: The papers, with sections.
        dataset: A key of `datasets.DATASETS`; `--dataset` overrides it.
        published_shape: Of a row for images of the user's: the shape of those that it was published with. Training
            takes `--image-shape`.
        batch_size: Real images of a process per update of D; `--batch-size` overrides it.
        epochs: Passes over the data; `--epochs` and `--steps` override it.
        sampling: How an epoch's batches are drawn.
        mirror: Mirror each real image, left to right, with probability 1/2: x-flip of the data.
        latent_dim: Width of the standard normal latents.
        generator: Architecture of G.
        discriminator: Architecture of D.
        initialization: A key of `initialization.INITIALIZERS`.
        loss: The pair of losses.
        generator_top_k: The part of its images that G learns on, those with D's highest logits; see
            `gan.methods.top_k`. It is a part of each process's micro-batch. 1 takes all.
        optimizer: The settings of G's, and of D's unless `discriminator_optimizer` has them.
        discriminator_optimizer: The settings of D's, where they differ: usually a higher learning rate, for two
            time-scales (Heusel et al. 2017, arXiv:1706.08500, equation 1). None takes `optimizer` for both.
        penalty: Added to D's loss, or taken in updates of its own: see `gan.methods.lazy`.
        lecam: Added to D's loss: holds logits near moving averages of earlier ones. None does not.
        latent_consistency: Added to both losses: what moving latents a little changes. None does not.
        generator_penalty: Of G: a `GeneratorPenalty` takes updates of its own, and a `GeneratorTerm` is added to
            G's loss.
        auxiliary: Added to both losses: what D's second head learns of images.
        augmentation: Keys of `augmentations.AUGMENTATIONS`, or frozen dataclasses that are called like them;
            applied to all that D sees. `--augment` overrides it.
        augmentation_probability: With which those that take a probability change an image; unless it is adapted.
        adaptive: Adapts that probability to how much D overfits. None does not.
        conditional: Both networks are conditioned on the class; the dataset must have labels.
        generator_first: Update G first and train D on the very same generated images, detached; otherwise D first.
        shared_fakes: With D first, train G on the very images that D's last update took, so that G runs once for
            both; otherwise on images of fresh latents.
        discriminator_steps: Updates of D in a step, before the one of G; each takes fresh images and latents.
        discriminator_clip: After each of its updates, clamp D's parameters to plus or minus this; 0 does not.
        ema_half_life: Images after which a generator counts half in the moving average of G that is saved and
            sampled; 0 takes G as it is. `--ema-half-life` overrides it.
        ema_ramp: The half-life is at most this multiple of the images seen, so that the average soon forgets its
            beginning (the authors' code of arXiv:2006.06676 has 0.05); 0 has no such limit.
        keep_generators: Keep a generator per epoch; `--keep-generators` overrides it.
    """

    summary: str
    source: str
    dataset: str
    published_shape: ImageShape | None = None
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
    generator_top_k: Scheduled = 1.0
    penalty: Penalty | None = None
    lecam: LeCam | None = None
    latent_consistency: LatentConsistency | None = None
    auxiliary: AuxiliaryLoss | None = None
    generator_penalty: GeneratorPenalty | GeneratorTerm | None = None
    augmentation: tuple[str | Augmentation | ProbableAugmentation, ...] = ()
    augmentation_probability: Scheduled = 1.0
    adaptive: Adaptive | None = None
    conditional: bool = False
    generator_first: bool = False
    shared_fakes: bool = False
    discriminator_steps: int = 1
    discriminator_clip: float = 0.0
    ema_half_life: Scheduled = 0
    ema_ramp: float = 0.0
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
        return num_uniforms(self.augmentation)

    @property
    def takes_probability(self) -> bool:
        """Whether an augmentation takes a probability."""
        return any(map(is_probable, self.augmentation))

    def probability(self, images_seen: int) -> float:
        """Return the probability of augmentation after so many images; an adaptive one begins with that."""
        return at(self.augmentation_probability, images_seen) if self.adaptive is None else self.adaptive.begin

    def half_life(self, images_seen: int) -> float:
        """Return the half-life of the average of G after so many images."""
        half_life = at(self.ema_half_life, images_seen)
        return min(half_life, self.ema_ramp * images_seen) if self.ema_ramp else half_life

    @property
    def lazy_penalty(self) -> Penalty | None:
        """D's penalty if it takes updates of its own; None if it is a part of D's loss, or if there is none."""
        return self.penalty if every_of(self.penalty) > 1 else None

    @property
    def lazy_generator_penalty(self) -> GeneratorPenalty | None:
        """G's penalty if it takes updates of its own; None if it is a part of G's loss, or if there is none."""
        return self.generator_penalty if is_lazy(self.generator_penalty) else None

    @property
    def generator_term(self) -> GeneratorTerm | None:
        """G's penalty if it is a part of G's loss; None if it takes updates of its own, or if there is none."""
        penalty: Any = self.generator_penalty
        term: GeneratorTerm | None = None if is_lazy(penalty) else penalty
        return term

    @property
    def lazy(self) -> dict[str, int]:
        """Updates from one penalty to the next, by network, where penalties take updates of their own."""
        penalties = {"discriminator": self.lazy_penalty, "generator": self.lazy_generator_penalty}
        return {network: every_of(penalty) for network, penalty in penalties.items() if penalty}

    @property
    def adds_terms(self) -> bool:
        """Whether a network's loss has terms besides the adversarial loss; a lazy penalty is none."""
        penalty = None if self.lazy_penalty else self.penalty
        terms = (self.auxiliary, self.lecam, self.latent_consistency, penalty, self.generator_term)
        return any(term is not None for term in terms)

    def due(self, step: int) -> Due:
        """Return which updates of the next step are followed by one for a penalty, after `step` steps."""
        lazy = self.lazy
        num_updates = self.discriminator_steps
        of_discriminator: tuple[int, ...] = ()
        if "discriminator" in lazy:
            of_discriminator = due_updates(lazy["discriminator"], step * num_updates, num_updates)
        return Due(of_discriminator, "generator" in lazy and step % lazy["generator"] == 0)

    @property
    def period(self) -> int:
        """Steps after which the same penalties are due again; 1 if all steps are alike."""
        return period_of(self.lazy, self.discriminator_steps)

    def num_updates(self, network: str, num_steps: int) -> int:
        """Return how many updates a network takes in the first steps, those for lazy penalties included."""
        num_updates = num_steps * (self.discriminator_steps if network == "discriminator" else 1)
        every = self.lazy.get(network)
        return num_updates + (-(-num_updates // every) if every else 0)

    @property
    def optimizers(self) -> dict[str, Adam | RMSprop]:
        """The settings of both optimizers, by network."""
        return {"discriminator": self.discriminator_optimizer or self.optimizer, "generator": self.optimizer}

    def numbers(self, network: str, images_seen: int) -> dict[str, Any]:
        """Return the arguments of a network's optimizer after so many images.

        Where penalties take updates of their own, they are corrected for these: see `gan.methods.lazy`.
        """
        lazy = self.lazy
        corrected = correction(lazy[network]) if network in lazy else 1.0
        return self.optimizers[network].after(images_seen, corrected)

    @property
    def scheduled(self) -> bool:
        """Whether an optimizer, a penalty, top-k or the probability of augmentation changes with images seen."""
        optimizers = any(optimizer.scheduled for optimizer in self.optimizers.values())
        weights = [penalty.weight for penalty in (self.penalty, self.generator_penalty) if penalty]
        return optimizers or any(map(changes, (*weights, self.augmentation_probability, self.generator_top_k)))

    @property
    def takes_top_k(self) -> bool:
        """Whether G learns on a part of its images."""
        return self.generator_top_k != 1

    @property
    def batchnorm(self) -> bool:
        """Whether a network has BatchNorm layers."""
        return self.generator.batchnorm or self.discriminator.batchnorm

    def to_json(self) -> dict[str, Any]:
        """Return what decides how the row trains, as JSON gives it back, without sizes, texts and what is OFF."""
        data = asdict(self)
        for name in NOT_IN_JSON:
            del data[name]
        for name in ("generator", "discriminator", "loss", "penalty", "auxiliary", "generator_penalty"):
            if data[name] is not None:
                data[name] = describe(getattr(self, name))
        if self.penalty and every_of(self.penalty) == 1:
            data["penalty"].pop("every", None)  # as runs have it that were begun before penalties had it
        data["augmentation"] = [item if isinstance(item, str) else describe(item) for item in self.augmentation]
        settings: dict[str, Any] = json.loads(json.dumps(data))
        return {name: value for name, value in settings.items() if name not in OFF or value != OFF[name]}


NOT_IN_JSON = ("summary", "source", "published_shape", "batch_size", "epochs", "keep_generators")
OFF: dict[str, Any] = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in fields(Recipe)
    if field.default is not MISSING
}
"""The settings that a row may do without, and their values then, as JSON gives them back."""
