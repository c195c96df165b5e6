"""Datasets that live in memory: a batch is index, convert, scale."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.images import ImageShape, to_unit_range

GATHERED_BYTES = 4 * 2**20
"""Up to this size small batches are gathered and scaled together; singly, most of the time goes into starting."""


@dataclass(frozen=True)
class InMemoryImages:
    """A dataset as one uint8 tensor (N, C, H, W) on the training device.

    The other attributes are those of `datasets.ImageSource`.
    """

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
        """Yield the images (B, C, H, W) of each batch of indices, fp32 in [-1, 1]."""
        batch_bytes = 4 * math.prod(self.image_shape) * max(map(len, batches), default=0)
        batches_at_once = max(1, GATHERED_BYTES // max(1, batch_bytes))
        sizes = [len(batch) for batch in batches]
        remaining = torch.cat([torch.empty(0, dtype=torch.int64), *batches]).to(self.train.device)
        for first in range(0, len(batches), batches_at_once):
            gathered_sizes = sizes[first : first + batches_at_once]
            indices, remaining = remaining.tensor_split([sum(gathered_sizes)])
            yield from to_unit_range(self.train[indices]).split(gathered_sizes)
