"""Numbers of which each rank has its part."""

import torch
from torch import Tensor


def mean_over_ranks(value: Tensor, world_size: int) -> Tensor:
    """Return the mean of the ranks' values, all of which have to call this; nobody's value changes."""
    if world_size == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / world_size
