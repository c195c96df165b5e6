"""Numbers of which each rank has its part."""

from torch import Tensor

from gan.process.named_sums import total


def mean_over_ranks(value: Tensor, world_size: int, name: str) -> Tensor:
    """Return the mean of the ranks' values, all of which have to call this; nobody's value changes.

    Args:
        value: Of this rank.
        world_size: Number of ranks.
        name: What the value is.
    """
    return value if world_size == 1 else total(value, name) / world_size
