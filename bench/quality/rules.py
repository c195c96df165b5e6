"""The rules of time to quality, as numbers: docs/time-to-quality.md has them in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gan.errors import UsageError
from gan.quality.extractor import EXTRACTORS
from gan.quality.judge import NUM_EVALUATION_IMAGES

RULES_VERSION = 1
"""Submissions by different rules do not compare."""
TARGETS = {"mnist": 1448.0, "fashion_mnist": 411.0, "digits": 400.0}
"""Fréchet distance by dataset: what `mlp` reaches on MNIST in 20 epochs, and `mlp-batchnorm` on FashionMNIST."""
FIRST_EVALUATION_IMAGES = 1_000
GROWTH = 1.1
"""Images at an evaluation as a multiple of those at the one before, so that results of quick and of slow recipes
are alike fine."""
MOST_IMAGES = 3_000_000
"""A seed that has not reached the target by then has failed."""
LEAST_SEEDS = 5
"""With fewer seeds nothing is compared."""
SUBMITTED_SEEDS = 10


@dataclass(frozen=True)
class Rules:
    """What a seed has to reach, and how that is looked at.

    Attributes:
        dataset: Its training images are trained on and compared with.
        target: The Fréchet distance to reach.
        num_images: Generated images at an evaluation, at most.
        first: Images seen at the first evaluation.
        growth: Images seen at an evaluation, as a multiple of those at the one before.
        most: Images after which a seed has failed.
        extractor: SHA-256 of the classifier that extracts the features.
        version: Of the rules.
    """

    dataset: str
    target: float
    num_images: int
    first: int
    growth: float
    most: int
    extractor: str
    version: int = RULES_VERSION

    @classmethod
    def of(cls, dataset: str, most: int = MOST_IMAGES) -> "Rules":
        """Return the rules for a dataset; raise UsageError if it has none."""
        if dataset not in TARGETS:
            raise UsageError(f"--dataset {dataset}: has no target; choose {', '.join(TARGETS)}")
        extractor = EXTRACTORS[dataset].sha256
        return cls(
            dataset, TARGETS[dataset], NUM_EVALUATION_IMAGES, FIRST_EVALUATION_IMAGES, GROWTH, most, extractor
        )

    def next_evaluation(self, images: int) -> int:
        """Return the images seen at the next evaluation after one at `images`; 0 before the first."""
        return min(self.most, max(self.first, round(images * self.growth)))

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "Rules":
        """Return rules from JSON; raise KeyError, TypeError or ValueError if it has none."""
        return cls(
            dataset=str(data["dataset"]),
            target=float(data["target"]),
            num_images=int(data["num_images"]),
            first=int(data["first"]),
            growth=float(data["growth"]),
            most=int(data["most"]),
            extractor=str(data["extractor"]),
            version=int(data["version"]),
        )
