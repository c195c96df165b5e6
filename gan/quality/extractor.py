"""EXTRACTORS: a small classifier for each dataset of 28×28 digits or clothes, whose features are scored.

Features of classifiers of photographs say little about such images. `train_extractor.py` trains these classifiers.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from gan.errors import UsageError
from gan.images import to_unit_range
from gan.quality.scores import Features

NUM_FEATURES = 64
NUM_CLASSES = 10
EXTRACTED_SIZE = (28, 28)
"""Height and width of the images that the classifiers take."""
IMAGES_AT_ONCE = 1000
"""Images that go through a classifier as one batch."""


@dataclass(frozen=True)
class Extractor:
    """A classifier of images.

    Attributes:
        dataset: The dataset that it was trained on.
        sha256: Digest of the file of its weights.
        accuracy: On images that it was not trained on: the dataset's test split, or the last 300 of digits.
    """

    dataset: str
    sha256: str
    accuracy: float

    @property
    def weights(self) -> Path:
        """The file of its weights, in half precision."""
        return Path(__file__).with_name("extractors") / f"{self.dataset}.safetensors"

    def network(self) -> nn.Sequential:
        """Return the classifier in evaluation mode, on the CPU, in float32.

        Raises:
            UsageError: The file of its weights is damaged.
        """
        data = self.weights.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise UsageError(
                f"{self.weights}: damaged (its SHA-256 is not {self.sha256}); install the package again"
            )
        network = build_classifier()
        network.load_state_dict(load(data))
        return network.eval().requires_grad_(requires_grad=False)


EXTRACTORS = {
    extractor.dataset: extractor
    for extractor in (
        Extractor("digits", "7bc975f187bce7513bbe35bf65b24c9cc197284659e0e646e6b8a203ac18421e", 0.9367),
        Extractor("mnist", "0ed6556d0f94576b10e79820f4c601ebad1fd55e0e54f82c4a040fb3bf05a8de", 0.9952),
        Extractor("fashion_mnist", "e2b3a7c4859872fdbd5a1ca149d542d8e94a1333e0b84796d4dc78137471e8aa", 0.9209),
    )
}
"""By the name of the dataset."""


def build_classifier() -> nn.Sequential:
    """Build a classifier: images (B, 1, 28, 28) in [-1, 1] to logits (B, 10).

    The outputs of all layers but the last two are the features, (B, 64).
    """
    layers: list[nn.Module] = []
    channels = 1
    for width in (16, 32, 64):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * 9, NUM_FEATURES), nn.ReLU(), nn.Linear(NUM_FEATURES, NUM_CLASSES)
    )


@torch.no_grad()
def extract(network: nn.Sequential, images: Tensor) -> Features:
    """Return the features (N, 64 C) and class probabilities (N, 10 ** C) of uint8 images (N, C, 28, 28).

    The classifier sees one channel at a time. Features of the channels are concatenated. The class of an image has
    a decimal digit for each channel, the first channel's the most significant, and the product of their
    probabilities. The results are on the CPU.
    """
    parts = [_extract(network, images[:, [channel]]) for channel in range(images.shape[1])]
    probabilities = parts[0].probabilities
    for part in parts[1:]:
        probabilities = (probabilities.unsqueeze(2) * part.probabilities.unsqueeze(1)).flatten(1)
    return Features(torch.cat([part.features for part in parts], 1), probabilities)


def _extract(network: nn.Sequential, images: Tensor) -> Features:
    features = torch.cat([network[:-2](to_unit_range(rows)) for rows in images.split(IMAGES_AT_ONCE)])
    logits = network[-2:](features)
    return Features(features.cpu().double(), logits.cpu().double().softmax(1))
