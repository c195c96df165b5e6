"""Images of files that are scored, and the scored images that look most like real ones."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gan.data.datasets import ImageSource
from gan.images import to_uint8
from gan.process.place import Place
from gan.seeds import derive_seed

ROWS_AT_ONCE = 1000
"""Rows computed at once of a matrix of all pairs of images, which would not fit into memory."""


class ScoredImages(Protocol):
    """Images to be scored: `GeneratedImages` or `ReadImages`."""

    @property
    def num_batches(self) -> int:
        """Number of batches."""

    def batch(self, index: int) -> Tensor:
        """Return a batch as uint8 images (B, C, H, W); each rank asks for every n-th of n ranks."""

    def images(self, rows: Tensor) -> Tensor:
        """Return chosen images, as uint8 (N, C, H, W) on the CPU."""


class ReadImages:
    """Images of a dataset, in the order of their files; of more than are asked for, a random choice.

    Args:
        dataset: The images.
        num_images: Most images to take.
        batch_size: Images of a batch; the last one may have fewer.
        place: Says which batches this process reads.
        seed: Seed of the choice.
    """

    def __init__(self, dataset: ImageSource, num_images: int, batch_size: int, place: Place, seed: int) -> None:
        source = torch.Generator().manual_seed(derive_seed(seed, "chosen images"))
        self._dataset = dataset
        self._rows = torch.randperm(len(dataset), generator=source)[:num_images].sort().values
        batches = self._rows.split(batch_size)
        self.num_batches = len(batches)
        self._mine = dataset.stream(batches[place.rank :: place.world_size])

    def batch(self, index: int) -> Tensor:  # noqa: ARG002 - the stream has the ones of this rank, in their order
        """Return this rank's next batch as uint8 images (B, C, H, W)."""
        return to_uint8(next(self._mine))

    def images(self, rows: Tensor) -> Tensor:
        """Return chosen images, as uint8 (N, C, H, W) on the CPU."""
        (images,) = self._dataset.stream([self._rows[rows]])
        return to_uint8(images).cpu()


@dataclass(frozen=True)
class Neighbours:
    """Scored images that lie nearest to real ones, the nearest first, and those real ones.

    Attributes:
        scored: Rows of the scored images, int64 (N,).
        real: Rows of the K nearest real images of each, the nearest first, int64 (N, K).
        distances: Euclidean distances of their features, (N, K).
    """

    scored: Tensor
    real: Tensor
    distances: Tensor


def nearest_neighbours(real: Tensor, scored: Tensor, num_scored: int, num_neighbours: int) -> Neighbours:
    """Return the scored images that lie nearest to real ones, with their nearest real images.

    Args:
        real: Features (N, F).
        scored: Features (M, F).
        num_scored: Scored images to return, at most.
        num_neighbours: K, at most.
    """
    nearest = torch.cat([torch.cdist(rows, real).amin(1) for rows in scored.split(ROWS_AT_ONCE)])
    rows = nearest.topk(min(num_scored, len(scored)), largest=False).indices
    distances, neighbours = torch.cdist(scored[rows], real).topk(min(num_neighbours, len(real)), largest=False)
    return Neighbours(rows, neighbours, distances)
