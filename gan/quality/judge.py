"""Scores of G's images against the data."""

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
"""Of fewer no covariance of 64 features, and no neighbours, can be spoken of."""
EXTRACTOR_OF = {**{name: name for name in EXTRACTORS}, "stacked_mnist": "mnist"}
"""Dataset to the dataset whose classifier extracts its features, each channel's by itself."""


@dataclass(frozen=True)
class Judge:
    """What generated images are scored with: the real ones' features, and the network that extracts them.

    Attributes:
        extractor: The row of EXTRACTORS.
        network: Its classifier, on the training device.
        real: Of one part of the training images.
        others: Of another part, of the same number, whose scores are the floor.
        frequencies: Of each class in the data, shape (K,).
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
        """Return the scores of real images: what a perfect generator gets from so many."""
        return self.scores(self.others)

    def stamp(self, generated: Features) -> dict[str, Any]:
        """Return what decides the scores besides the images, JSON-ready."""
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
    """Raise UsageError where a dataset has no feature extractor."""
    if name not in EXTRACTOR_OF:
        raise UsageError(
            f"--dataset {name}: there is no feature extractor for it; quality is scored for "
            f"{', '.join(EXTRACTOR_OF)}"
        )


def judge_of(name: str, dataset: ImageSource, num_images: int = NUM_EVALUATION_IMAGES) -> Judge:
    """Return what scores images like those of a dataset.

    Args:
        name: The dataset's.
        dataset: Its images and classes.
        num_images: Most real images to compare with; at most half of those there are.

    Raises:
        UsageError: There is no extractor for it.
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
    """Return the frequencies (10 ** channels,) of classes (N,) whose decimal digits were drawn by themselves."""
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
    """Return the features of `num_images` images from fresh latents, whoever of several processes made them.

    The numbers are the same for any number of processes: each makes whole batches. All of them return all.

    Args:
        judge: What extracts them.
        generator: Latents (B, latent_dim), and classes if conditional, to images; used in evaluation mode.
        latent_dim: Width of its latents.
        num_images: How many.
        place: Which batches this process makes, and on which device.
        conditional: Whether it is told classes, which are drawn with the data's frequencies.
        seed: Of latents and classes.
    """
    own = []
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
            found = extract(judge.network, to_uint8(apply(generator, latents, classes)))
            own.append((index, found.features, found.probabilities))
    batches = sorted(gather_object(own), key=lambda batch: int(batch[0]))
    _, features, probabilities = zip(*batches, strict=True)
    return Features(torch.cat(features), torch.cat(probabilities))


def features_of_state(judge: Judge, state: TrainState, place: Place, seed: int) -> Features:
    """Return the features of as many images of a GAN in training as its judge has real ones."""
    return generated_features(
        judge,
        state.sampler,
        state.recipe.latent_dim,
        len(judge.real.features),
        place,
        conditional=state.recipe.conditional,
        seed=seed,
    )
