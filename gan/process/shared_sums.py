"""Sums of small tables over the processes of one host, in memory which they share."""

from typing import Any

from torch import Tensor

from gan.process.shared_memory import Neighbours


class SharedSums:
    """Adds up tables of all processes. Each of them writes its own, and reads those of all.

    Two places take turns, so that a place is written again two sums later. Every process comes to the sum in
    between only after it has read the place.
    """

    def __init__(self, neighbours: Neighbours, memory: Tensor) -> None:
        """Divide memory that processes share: shape (2 × processes × bytes of the largest table,), uint8."""
        self._neighbours = neighbours
        self._tables = memory.view(2, neighbours.world_size, -1)
        self._num_sums = 0

    def add_up(self, table: Tensor) -> Tensor:
        """Return the sum of the tables of all processes, in the order of ranks.

        Args:
            table: The same shape and dtype in all processes, all of which have to call this.

        Raises:
            torch.distributed.DistNetworkError: Another process has ended, or did not come.
            RuntimeError: Another process adds up something else.
        """
        tables = self._tables[self._num_sums % 2, :, : table.nbytes].view(table.dtype)
        self._num_sums += 1
        tables[self._neighbours.rank].copy_(table.flatten())
        self._neighbours.meet(table.nbytes)
        total = tables[0].clone()
        for other in tables[1:]:
            total.add_(other)
        return total.view(table.shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedSums":
        """Return itself: a copy of a network belongs to the same processes."""
        return self
