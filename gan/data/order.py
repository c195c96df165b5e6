"""The order of an epoch's images: a function of seed and epoch, so that only a position needs saving."""

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

    The number of processes has no part in it: each takes its `shard` of every global batch.

    >>> batches = epoch_batches(10, 4, Sampling.SHUFFLE, seed=0, epoch=0)
    >>> [len(batch) for batch in batches]
    [4, 4, 2]
    >>> torch.cat(batches).sort().values.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
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
    """Return the number of batches of `epoch_batches`, without drawing them.

    >>> batches_per_epoch(10, 4, Sampling.SHUFFLE), batches_per_epoch(10, 4, Sampling.SHUFFLE_DROP_LAST)
    (3, 2)
    """
    if sampling is Sampling.SHUFFLE:
        return -(-num_images // global_batch_size)
    return num_images // global_batch_size


def shard(batch: Tensor, rank: int, world_size: int, updates: int = 1, micro_batches: int = 1) -> Tensor:
    """Return one process's rows of a global batch; sizes differ by at most one, and none is repeated.

    A step with several updates of D takes one batch for all of them. It is divided into updates first, then into
    the micro-batches of each, and among processes last: a micro-batch then has the same images, whatever the
    number of processes.

    >>> batch = torch.arange(10)
    >>> [shard(batch, rank, 3).tolist() for rank in range(3)]
    [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    >>> [shard(batch, rank, 2, updates=2).tolist() for rank in range(2)]
    [[0, 1, 2, 5, 6, 7], [3, 4, 8, 9]]
    >>> [shard(batch, rank, 2, updates=1, micro_batches=3).tolist() for rank in range(2)]
    [[0, 1, 4, 5, 7, 8], [2, 3, 6, 9]]

    Args:
        batch: Indices or rows, (B, …).
        rank: Of the process, from 0.
        world_size: Number of processes that share the batch.
        updates: Updates of D that the batch is for.
        micro_batches: Of each update.
    """
    if micro_batches > 1:
        return torch.cat([shard(part, rank, world_size, micro_batches) for part in batch.tensor_split(updates)])
    return torch.cat([part.tensor_split(world_size)[rank] for part in batch.tensor_split(updates)])
