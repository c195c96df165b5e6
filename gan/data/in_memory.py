"""Datasets that live in memory: a batch is index, convert, scale."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.images import ImageShape, to_unit_range

GATHERED_BYTES = 4 * 2**20
"""Memory for small batches that are gathered and scaled at once, because their own costs are mostly starts."""


@dataclass(frozen=True)
class InMemoryImages:
    """A dataset as one uint8 tensor (N, C, H, W) on the training device."""

    train: Tensor
    test: Tensor | None = None
    labels: Tensor | None = None
    test_labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    files_sha256: str | None = None
    description: str | None = None

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.train)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices."""
        batch_bytes = 4 * math.prod(self.image_shape) * max(map(len, batches), default=0)
        at_once = max(1, GATHERED_BYTES // max(1, batch_bytes))
        sizes = [len(batch) for batch in batches]
        indices = torch.cat([torch.empty(0, dtype=torch.int64), *batches]).to(self.train.device)
        for first in range(0, len(batches), at_once):
            gathered = sizes[first : first + at_once]
            now, indices = indices.tensor_split([sum(gathered)])
            yield from to_unit_range(self.train[now]).split(gathered)
