"""Scores as papers give them: FID, KID, inception score, precision and recall of Inception-v3 features."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan.data.datasets import ImageSource
from gan.images import to_uint8
from gan.process.place import Place
from gan.quality.batches import features_of_batches
from gan.quality.inception import Inception
from gan.quality.real_images import order_of_real, require_enough_images
from gan.quality.scores import Features, classifier_score, frechet_distance, kernel_distance, manifold_scores

PAPER_NUM_IMAGES = 50_000
"""Generated images that papers score."""
BATCH_SIZE = 50
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
"""Bińkowski et al. 2018 (arXiv:1801.01401) average KID over so many subsets of this size."""
SPLITS = 10
"""Salimans et al. 2016 (arXiv:1606.03498) average the inception score over so many parts of the images."""
PAPER_NEAREST = 3
"""The k of precision and recall of Kynkäänniemi et al. 2019 (arXiv:1904.06991)."""
DRAWING_SEED = 2020
"""Of KID's subsets and the inception score's parts; torch-fidelity's, so that both draw the same ones."""
PAPER_MEANING = {
    "fid": "Fréchet distance of features, lower is better",
    "kid": "kernel distance of features, lower is better",
    "kid_std": "its standard deviation over subsets",
    "inception_score": "sharpness and variety, higher is better",
    "inception_score_std": "its standard deviation over parts",
    "precision": "generated images that look real",
    "recall": "real images that could be generated",
}
"""What each score says, in the order in which scores are shown."""


@dataclass(frozen=True)
class PaperJudge:
    """Scores images by their Inception-v3 features against real ones.

    Attributes:
        inception: Extracts the features.
        real: Features of the real images. On other ranks than 0 they may be empty.
        rows: The rows of the dataset that the real images are, int64 (N,).
        label_frequencies: Frequency of each class of the data, shape (C,).
        num_images: Number of images that are scored.
        batch_size: Of generation and of real images.
        device: Where scores are computed: 50,000 by 50,000 distances take minutes on a CPU.
    """

    inception: Inception
    real: Features
    rows: Tensor
    label_frequencies: Tensor
    num_images: int
    batch_size: int
    device: torch.device

    def extract(self, images: Tensor) -> Features:
        """Return the features of uint8 images (N, C, H, W)."""
        return self.inception.extract(images)

    def scores(self, generated: Features) -> dict[str, float]:
        """Return the scores of generated images, the keys of PAPER_MEANING."""
        return self._scores(self.real, generated)

    def _scores(self, real: Features, generated: Features) -> dict[str, float]:
        if self.device.type != "cuda":  # others may have no float64
            return paper_scores(real, generated)
        return paper_scores(
            Features(real.features.to(self.device), real.probabilities),
            Features(generated.features.to(self.device), generated.probabilities),
        )

    @property
    def num_floor_images(self) -> int:
        """Real images that stand for generated ones in the floor."""
        return min(self.num_images, len(self.rows) // 2)

    def floor(self) -> dict[str, float]:
        """Return the scores of some of the real images against the others."""
        num_images = self.num_floor_images
        some = Features(self.real.features[:num_images], self.real.probabilities[:num_images])
        others = Features(self.real.features[num_images:], self.real.probabilities[num_images:])
        return self._scores(others, some)

    def stamp(self, generated: Features) -> dict[str, Any]:
        """Return the conditions of an evaluation, JSON-ready: scores compare only where they are equal."""
        num_images = len(generated.features)
        return {
            "num_images": num_images,
            "num_real": len(self.real.features),
            "num_floor_images": self.num_floor_images,
            "split": "train",
            "resize": self.inception.resize,
            "pixels": "uint8",
            "batch_size": self.batch_size,
            "nearest": PAPER_NEAREST,
            "kid_subsets": KID_SUBSETS,
            "kid_subset_size": min(KID_SUBSET_SIZE, num_images, len(self.real.features)),
            "inception_score_parts": SPLITS,
            "drawing_seed": DRAWING_SEED,
            "backbone": self.inception.stamp(),
        }


def paper_scores(real: Features, generated: Features) -> dict[str, float]:
    """Return the scores of generated images by name, the keys of PAPER_MEANING.

    Args:
        real: Features of real images.
        generated: Features of generated images.
    """
    distances = subset_kernel_distances(real.features, generated.features)
    parts = part_scores(generated.probabilities)
    manifolds = manifold_scores(real.features, generated.features, PAPER_NEAREST)
    return {
        "fid": frechet_distance(real.features, generated.features),
        "kid": float(distances.mean()),
        "kid_std": float(distances.std(correction=0)),
        "inception_score": float(parts.mean()),
        "inception_score_std": float(parts.std(correction=0)),
        "precision": manifolds["precision"],
        "recall": manifolds["recall"],
    }


def subset_kernel_distances(real: Tensor, generated: Tensor) -> Tensor:
    """Return `kernel_distance` of random subsets of two sets of features (N, F) and (M, F), shape (KID_SUBSETS,).

    The subsets are drawn without replacement, and are those of torch-fidelity with generated images as its first
    input. If neither set has more images than a subset, all subsets are equal.
    """
    size = min(KID_SUBSET_SIZE, len(real), len(generated))
    if size == len(real) == len(generated):
        return torch.full((KID_SUBSETS,), kernel_distance(real, generated), dtype=torch.float64)
    draws = np.random.RandomState(DRAWING_SEED)
    distances = []
    for _ in range(KID_SUBSETS):
        some_generated = generated[torch.from_numpy(draws.choice(len(generated), size, replace=False))]
        some_real = real[torch.from_numpy(draws.choice(len(real), size, replace=False))]
        distances.append(kernel_distance(some_real, some_generated))
    return torch.tensor(distances, dtype=torch.float64)


def part_scores(probabilities: Tensor) -> Tensor:
    """Return `classifier_score` of each of SPLITS parts of class probabilities (N, K), shape (SPLITS,).

    The rows are dealt to the parts at random, as torch-fidelity deals them: G's images may have an order.
    """
    num_images = len(probabilities)
    draws = np.random.RandomState(DRAWING_SEED)
    shuffled = probabilities[torch.from_numpy(draws.permutation(num_images))]
    edges = [part * num_images // SPLITS for part in range(SPLITS + 1)]
    parts = [shuffled[begin:end] for begin, end in itertools.pairwise(edges)]
    return torch.tensor([classifier_score(part) for part in parts], dtype=torch.float64)


def real_rows(name: str, num_images: int, num_real: int | None) -> Tensor:
    """Return the rows of a dataset's images that others are compared with: all, or the first of a random order.

    Args:
        name: The name of the dataset.
        num_images: Its number of images.
        num_real: How many to take, at most; None for all.

    Raises:
        UsageError: The dataset has too few images.
    """
    require_enough_images(name, num_images)
    return order_of_real(num_images)[:num_real]


def features_of_rows(
    inception: Inception,
    dataset: ImageSource,
    rows: Tensor,
    batch_size: int,
    place: Place,
    say: Callable[[str], object],
) -> Features:
    """Return the features of chosen images of a dataset; every process gets those of all.

    Args:
        inception: Extracts the features.
        dataset: The images.
        rows: Which of them, int64 (N,).
        batch_size: Images that are read at once.
        place: Says which batches this process takes.
        say: As in `features_of_batches`.
    """
    batches = rows.split(batch_size)
    mine = dataset.stream(batches[place.rank :: place.world_size])
    activity = "the features of real batch"
    return features_of_batches(
        inception.extract, lambda _: to_uint8(next(mine)), len(batches), place, activity, say
    )
