"""Scores of G's images against a dataset's."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from gan.data.datasets import ImageSource
from gan.errors import UsageError, require_known
from gan.images import ImageShape, to_uint8
from gan.models.networks import apply, evaluating
from gan.process.place import Place
from gan.process.watch import doing
from gan.quality.extractor import EXTRACTED_SIZE, EXTRACTORS, IMAGES_AT_ONCE, Extractor, extract
from gan.quality.scores import NEAREST, Features, scores
from gan.seeds import derive_seed, seed_default_generator
from gan.training.state import TrainState

EVALUATION_BATCH_SIZE = 1000
NUM_EVALUATION_IMAGES = 10_000
LEAST_EVALUATION_IMAGES = 100
"""With fewer images than features (64) a covariance is singular, and few images have near neighbours."""
SECONDS_BETWEEN_NEWS = 30.0
"""Of a long extraction of features."""
EXTRACTOR_OF = {**{name: name for name in EXTRACTORS}, "stacked_mnist": "mnist"}
"""By dataset, the dataset whose classifier extracts the features, channel by channel."""


class ExtractsFeatures(Protocol):
    """What images are generated for: `Judge`, or `PaperJudge` of `gan.quality.paper`."""

    @property
    def label_frequencies(self) -> Tensor:
        """Frequency of each class that a conditional generator takes, shape (C,)."""

    def extract(self, images: Tensor) -> Features:
        """Return the features of uint8 images (N, C, H, W), on the CPU."""


@dataclass(frozen=True)
class Judge:
    """Scores generated images: it has the features of real ones, and the network that extracts features.

    Attributes:
        extractor: The row of EXTRACTORS.
        network: Its classifier, on the training device.
        real: Features of training images.
        others: Features of as many other training images, whose scores are the floor.
        frequencies: Frequency of each class of the extractor in the data, shape (K,).
        label_frequencies: Frequency of each class that a conditional generator takes, shape (C,). The same as
            `frequencies`, unless the user chose the extractor of another dataset.
    """

    extractor: Extractor
    network: nn.Sequential
    real: Features
    others: Features
    frequencies: Tensor
    label_frequencies: Tensor

    def extract(self, images: Tensor) -> Features:
        """Return the features of uint8 images (N, C, 28, 28)."""
        return extract(self.network, images)

    def scores(self, generated: Features) -> dict[str, float]:
        """Return the scores of generated images."""
        return scores(self.real, generated, self.frequencies)

    def floor(self) -> dict[str, float]:
        """Return the scores of real images: those of a perfect generator with this number of images."""
        return self.scores(self.others)

    def stamp(self, generated: Features) -> dict[str, Any]:
        """Return the conditions of an evaluation, JSON-ready: scores compare only where they are equal."""
        return {
            "num_images": len(generated.features),
            "num_real": len(self.real.features),
            "split": "train",
            "resize": "none",
            "pixels": "uint8",
            "nearest": NEAREST,
            "kid_features": "over the root mean square of the real ones",
            "extractor": {
                "dataset": self.extractor.dataset,
                "sha256": self.extractor.sha256,
                "accuracy": self.extractor.accuracy,
            },
        }


def require_extractor(name: str, chosen: str | None, image_shape: ImageShape) -> Extractor:
    """Return the feature extractor for images of a dataset.

    Args:
        name: The name of the dataset.
        chosen: The extractor that the user chose; None for that of the dataset.
        image_shape: Of the images.

    Raises:
        UsageError: There is none, or it does not take the images.
    """
    if chosen is None:
        if name not in EXTRACTOR_OF:
            raise UsageError(
                f"--dataset {name}: there is no feature extractor for it; quality is scored for "
                f"{', '.join(EXTRACTOR_OF)}, or by the extractor of one of them with --extractor NAME"
            )
        return EXTRACTORS[EXTRACTOR_OF[name]]
    require_known("--extractor", chosen, EXTRACTORS)
    if image_shape[1:] != EXTRACTED_SIZE:
        size = "×".join(map(str, EXTRACTED_SIZE))
        raise UsageError(
            f"--extractor {chosen}: takes images of {size}; those of --dataset {name} are of "
            f"{'×'.join(map(str, image_shape[1:]))}, and are not resized for it"
        )
    return EXTRACTORS[chosen]


def require_enough_images(name: str, num_images: int) -> None:
    """Raise UsageError if a dataset has too few images to be scored: each of two halves needs the least number."""
    if num_images < 2 * LEAST_EVALUATION_IMAGES:
        raise UsageError(
            f"--dataset {name}: has {num_images:,} images; to be scored it needs {2 * LEAST_EVALUATION_IMAGES}"
        )


def judge_of(
    name: str, dataset: ImageSource, num_images: int = NUM_EVALUATION_IMAGES, chosen: str | None = None
) -> Judge:
    """Return the judge of images like those of a dataset.

    Args:
        name: The name of the dataset.
        dataset: Its images and classes.
        num_images: Real images to compare with, at most; never more than half of the dataset.
        chosen: The extractor that the user chose; None for that of the dataset.

    Raises:
        UsageError: There is no feature extractor for the dataset, or it has too few images.
    """
    extractor = require_extractor(name, chosen, dataset.image_shape)
    require_enough_images(name, len(dataset))
    order = order_of_real(len(dataset))
    num_real = min(num_images, len(dataset) // 2)
    (image,) = dataset.stream([order[:1]])
    network = extractor.network().to(image.device)
    real, others = (_features(network, dataset, rows) for rows in order[: 2 * num_real].split(num_real))
    if EXTRACTOR_OF.get(name) == extractor.dataset:
        assert dataset.labels is not None
        frequencies = class_frequencies(dataset.labels.cpu(), dataset.image_shape[0])
        return Judge(extractor, network, real, others, frequencies, frequencies)
    frequencies = _frequencies_by_classifier(real, others)
    return Judge(extractor, network, real, others, frequencies, label_frequencies_of(dataset))


def order_of_real(num_images: int) -> Tensor:
    """Return the rows of a dataset in the order in which real images are compared with, int64 (N,)."""
    source = torch.Generator().manual_seed(derive_seed(0, "real images"))
    return torch.randperm(num_images, generator=source)


def label_frequencies_of(dataset: ImageSource) -> Tensor:
    """Return the frequency of each class of a dataset, shape (C,); one class without labels."""
    labels = torch.zeros(1, dtype=torch.int64) if dataset.labels is None else dataset.labels.cpu()
    return torch.bincount(labels).double() / len(labels)


def _features(network: nn.Sequential, dataset: ImageSource, rows: Tensor) -> Features:
    """Return the features of some images of a dataset."""
    parts = []
    for number, images in enumerate(dataset.stream(rows.split(IMAGES_AT_ONCE)), 1):
        doing("the features of real batch", number)
        parts.append(extract(network, to_uint8(images)))
    features, probabilities = zip(*((part.features, part.probabilities) for part in parts), strict=True)
    return Features(torch.cat(features), torch.cat(probabilities))


def _frequencies_by_classifier(real: Features, others: Features) -> Tensor:
    """Return how often the classifier sees each of its classes in real images, shape (K,).

    Each class counts once more than it was seen: the divergence from a frequency of 0 would be infinite.
    """
    classes = torch.cat([real.probabilities, others.probabilities]).argmax(1)
    counts = torch.bincount(classes, minlength=real.probabilities.shape[1]).double() + 1
    return counts / counts.sum()


def class_frequencies(labels: Tensor, channels: int) -> Tensor:
    """Return the frequency of each class, shape (10 ** channels,).

    A class has a decimal digit for each channel. The digits were drawn independently of each other, so the
    frequency of a class is the product of its digits' frequencies. For a thousand classes that is less noisy than
    counting.

    >>> class_frequencies(torch.tensor([0, 11, 1, 10]), channels=2)[[0, 1, 10, 11, 12]].tolist()
    [0.25, 0.25, 0.25, 0.25, 0.0]

    Args:
        labels: Class of each image (N,).
        channels: Channels of an image.
    """
    joint = torch.ones(1, dtype=torch.float64)
    for exponent in reversed(range(channels)):
        digits = torch.bincount(labels // 10**exponent % 10, minlength=10).double() / len(labels)
        joint = torch.outer(joint, digits).flatten()
    return joint


@dataclass(frozen=True)
class GeneratedImages:
    """Images of a generator in batches, each of which has a seed of its own.

    Attributes:
        generator: Latents (B, latent_dim), and classes (B,) if conditional, to images; used in evaluation mode.
        latent_dim: Width of its latents.
        num_images: Number of images.
        batch_size: Images of a batch; the last one may have fewer.
        device: Where the generator is.
        label_frequencies: Frequency of each class that is drawn, shape (C,); None for a generator without classes.
        seed: Seed of latents, classes, and of what the generator draws itself.
    """

    generator: nn.Module
    latent_dim: int
    num_images: int
    batch_size: int
    device: torch.device
    label_frequencies: Tensor | None
    seed: int

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return -(-self.num_images // self.batch_size)

    @torch.no_grad()
    def batch(self, index: int) -> Tensor:
        """Return a batch as uint8 images (B, C, H, W)."""
        count = min(self.batch_size, self.num_images - index * self.batch_size)
        source = torch.Generator().manual_seed(derive_seed(self.seed, "generated images", index))
        latents = torch.randn(count, self.latent_dim, generator=source).to(self.device)
        classes = None
        if self.label_frequencies is not None:
            drawn = torch.multinomial(self.label_frequencies, count, replacement=True, generator=source)
            classes = drawn.to(self.device)
        seed_default_generator(self.device, derive_seed(self.seed, "generated noise", index))
        with evaluating(self.generator):
            return to_uint8(apply(self.generator, latents, classes))

    def images(self, rows: Tensor) -> Tensor:
        """Return chosen images again, as uint8 (N, C, H, W) on the CPU."""
        numbers = rows.tolist()
        batches = {row // self.batch_size: torch.empty(0) for row in numbers}
        for index in batches:
            batches[index] = self.batch(index).cpu()
        return torch.stack([batches[row // self.batch_size][row % self.batch_size] for row in numbers])


def generated_features(
    judge: ExtractsFeatures,
    generator: nn.Module,
    latent_dim: int,
    num_images: int,
    place: Place,
    *,
    conditional: bool = False,
    seed: int = 0,
) -> Features:
    """Return the features of `num_images` generated images; every process gets those of all.

    Args:
        judge: It extracts the features, and its label frequencies are those of the classes.
        generator: As in `GeneratedImages`.
        latent_dim: Width of its latents.
        num_images: Number of images, over all processes.
        place: Says which batches this process makes, and on which device.
        conditional: Whether the generator takes classes.
        seed: Seed of latents and classes.
    """
    label_frequencies = judge.label_frequencies if conditional else None
    images = GeneratedImages(
        generator, latent_dim, num_images, EVALUATION_BATCH_SIZE, place.device, label_frequencies, seed
    )
    return features_of_batches(
        judge.extract, images.batch, images.num_batches, place, "the features of generated batch"
    )


@torch.no_grad()
def features_of_batches(
    extract_features: Callable[[Tensor], Features],
    batch: Callable[[int], Tensor],
    num_batches: int,
    place: Place,
    activity: str,
    say: Callable[[str], object] = lambda _: None,
) -> Features:
    """Return the features of all batches of images, in their order; every process gets those of all.

    The result is the same for any number of processes: batches are dealt out to them whole.

    Args:
        extract_features: Features of uint8 images (B, C, H, W).
        batch: A batch of images by index. A process asks for its own ones only, in their order.
        num_batches: Over all processes.
        place: Says which batches this process takes.
        activity: What the watch over other ranks calls the work on a batch.
        say: Prints a line now and then, if there is much to do.
    """
    made: list[tuple[int, Tensor, Tensor]] = []  # batch, features, probabilities
    news_due = time.monotonic() + SECONDS_BETWEEN_NEWS
    for index in range(num_batches):
        doing(activity, index + 1)
        if time.monotonic() > news_due:
            say(f"{activity} {index + 1:,} of {num_batches:,}")
            news_due = time.monotonic() + SECONDS_BETWEEN_NEWS
        if index % place.world_size == place.rank:
            extracted = extract_features(batch(index))
            made.append((index, extracted.features, extracted.probabilities))
    doing("gathering the features")  # by itself: who still makes a batch is then behind
    batches = sorted(gather_object(made), key=lambda gathered: int(gathered[0]))
    _, features, probabilities = zip(*batches, strict=True)
    return Features(torch.cat(features), torch.cat(probabilities))


def features_of_state(judge: Judge, state: TrainState, place: Place, seed: int) -> Features:
    """Return the features of images of a GAN in training, as many as its judge has real ones."""
    return generated_features(
        judge,
        state.sampler,
        state.recipe.latent_dim,
        len(judge.real.features),
        place,
        conditional=state.recipe.conditional,
        seed=seed,
    )
