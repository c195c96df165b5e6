"""Judge: scores of images by the features of a small classifier, against real ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan.data.datasets import ImageSource
from gan.errors import UsageError, require_known
from gan.images import ImageShape, to_uint8
from gan.process.watch import doing
from gan.quality.extractor import EXTRACTED_SIZE, EXTRACTORS, IMAGES_AT_ONCE, Extractor, extract
from gan.quality.real_images import class_frequencies, label_frequencies_of, order_of_real, require_enough_images
from gan.quality.scores import NEAREST, Features, scores

NUM_EVALUATION_IMAGES = 10_000
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
