"""The order of an epoch's batches, a function of (seed, epoch, position, rank)."""

from enum import StrEnum

import torch
from torch import Tensor

from gan.seeds import derive_seed


class Sampling(StrEnum):
    """How an epoch's batches are drawn from N images."""

    SHUFFLE = "shuffle"
    """Every image once; the last batch may be smaller."""
    SHUFFLE_DROP_LAST = "shuffle-drop-last"
    """Every image at most once; a smaller last batch is dropped."""
    WITH_REPLACEMENT = "with-replacement"
    """N // batch batches of independent draws."""


def epoch_batches(
    num_images: int, global_batch_size: int, sampling: Sampling, *, seed: int, epoch: int
) -> tuple[Tensor, ...]:
    """Return the indices of each global batch of an epoch, int64 tensors on the CPU.

    The order depends on the seed and the epoch alone, so a position in it is all that resuming needs.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    full_batches = num_images // global_batch_size
    if sampling is Sampling.WITH_REPLACEMENT:
        shape = (full_batches, global_batch_size)
        return torch.randint(num_images, shape, generator=generator).unbind()
    order = torch.randperm(num_images, generator=generator)
    batches: tuple[Tensor, ...] = order.split(global_batch_size)
    return batches[:full_batches] if sampling is Sampling.SHUFFLE_DROP_LAST else batches


def batches_per_epoch(num_images: int, global_batch_size: int, sampling: Sampling) -> int:
    """Return how many batches `epoch_batches` gives."""
    if sampling is Sampling.SHUFFLE:
        return -(-num_images // global_batch_size)
    return num_images // global_batch_size


def shard(batch: Tensor, rank: int, num_processes: int, updates: int = 1) -> Tensor:
    """Return one process's rows of a global batch; sizes differ by at most one, and none is repeated.

    A batch for several updates is shared update by update.
    """
    return torch.cat([part.tensor_split(num_processes)[rank] for part in batch.tensor_split(updates)])
