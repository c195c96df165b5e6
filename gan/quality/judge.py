"""Scores of G's images against a dataset's."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from gan.data.datasets import ImageSource
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.images import to_uint8
from gan.models.networks import apply, evaluating
from gan.process.place import Place
from gan.quality.extractor import EXTRACTORS, Extractor, extract
from gan.quality.scores import NEAREST, Features, scores
from gan.seeds import derive_seed
from gan.training.state import TrainState

EVALUATION_BATCH_SIZE = 1000
NUM_EVALUATION_IMAGES = 10_000
LEAST_EVALUATION_IMAGES = 100
"""With fewer images than features (64) a covariance is singular, and few images have near neighbours."""
EXTRACTOR_OF = {**{name: name for name in EXTRACTORS}, "stacked_mnist": "mnist"}
"""By dataset, the dataset whose classifier extracts the features, channel by channel."""


@dataclass(frozen=True)
class Judge:
    """Scores generated images: it has the features of real ones, and the network that extracts features.

    Attributes:
        extractor: The row of EXTRACTORS.
        network: Its classifier, on the training device.
        real: Features of training images.
        others: Features of as many other training images, whose scores are the floor.
        frequencies: Frequency of each class in the data, shape (K,).
    """

    extractor: Extractor
    network: nn.Sequential
    real: Features
    others: Features
    frequencies: Tensor

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


def require_extractor(name: str) -> None:
    """Raise UsageError if there is no feature extractor for a dataset."""
    if name not in EXTRACTOR_OF:
        raise UsageError(
            f"--dataset {name}: there is no feature extractor for it; quality is scored for "
            f"{', '.join(EXTRACTOR_OF)}"
        )


def judge_of(name: str, dataset: ImageSource, num_images: int = NUM_EVALUATION_IMAGES) -> Judge:
    """Return the judge of images like those of a dataset.

    Args:
        name: The name of the dataset.
        dataset: Its images and classes.
        num_images: Real images to compare with, at most; never more than half of the dataset.

    Raises:
        UsageError: There is no feature extractor for the dataset.
    """
    require_extractor(name)
    assert isinstance(dataset, InMemoryImages)
    assert dataset.labels is not None
    extractor = EXTRACTORS[EXTRACTOR_OF[name]]
    network = extractor.network().to(dataset.train.device)
    source = torch.Generator().manual_seed(derive_seed(0, "real images"))
    order = torch.randperm(len(dataset), generator=source).to(dataset.train.device)
    num_real = min(num_images, len(dataset) // 2)
    real, others = (extract(network, dataset.train[rows]) for rows in order[: 2 * num_real].split(num_real))
    return Judge(extractor, network, real, others, class_frequencies(dataset.labels.cpu(), dataset.image_shape[0]))


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


@torch.no_grad()
def generated_features(
    judge: Judge,
    generator: nn.Module,
    latent_dim: int,
    num_images: int,
    place: Place,
    *,
    conditional: bool = False,
    seed: int = 0,
) -> Features:
    """Return the features of `num_images` generated images; every process gets those of all.

    The result is the same for any number of processes. The batches are dealt out to them whole, and each batch has
    a seed of its own.

    Args:
        judge: Its network extracts the features, and its class frequencies are those of the images.
        generator: Latents (B, latent_dim), and classes (B,) if conditional, to images; used in evaluation mode.
        latent_dim: Width of its latents.
        num_images: Number of images, over all processes.
        place: Says which batches this process makes, and on which device.
        conditional: Whether the generator takes classes.
        seed: Seed of latents and classes.
    """
    made: list[tuple[int, Tensor, Tensor]] = []  # batch, features, probabilities
    with evaluating(generator):
        for index, first in enumerate(range(0, num_images, EVALUATION_BATCH_SIZE)):
            if index % place.world_size != place.rank:
                continue
            count = min(EVALUATION_BATCH_SIZE, num_images - first)
            source = torch.Generator().manual_seed(derive_seed(seed, "generated images", index))
            latents = torch.randn(count, latent_dim, generator=source).to(place.device)
            classes = None
            if conditional:
                drawn = torch.multinomial(judge.frequencies, count, replacement=True, generator=source)
                classes = drawn.to(place.device)
            batch = extract(judge.network, to_uint8(apply(generator, latents, classes)))
            made.append((index, batch.features, batch.probabilities))
    batches = sorted(gather_object(made), key=lambda batch: int(batch[0]))
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
