"""What processes add up or gather by torch.distributed, with its name for whoever watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_name: ContextVar[str] = ContextVar("name", default="")


def total(table: Tensor, name: str) -> Tensor:
    """Return the sum of the tables of all processes, all of which have to call this; nobody's table changes.

    Args:
        table: Any shape, the same in all processes.
        name: What is added up, such as "BatchNorm"; the same in all processes.
    """
    summed = table.clone(memory_format=torch.contiguous_format)
    with _named(name):
        torch.distributed.all_reduce(summed)
    return summed


def gathered(values: Tensor, name: str) -> Tensor:
    """Return the values of all processes, all of which have to call this.

    Args:
        values: Shape (N,), the same in all processes.
        name: What is gathered; the same in all processes.

    Returns:
        A row for each process, by rank: shape (processes, N).
    """
    all_values = values.new_empty(torch.distributed.get_world_size() * len(values))
    new_name = hasattr(torch.distributed, "all_gather_single")  # since PyTorch 2.13, where the old one warns
    gather = torch.distributed.all_gather_single if new_name else torch.distributed.all_gather_into_tensor
    with _named(name):
        gather(all_values, values)
    return all_values.view(-1, len(values))


@contextmanager
def _named(name: str) -> Iterator[None]:
    before = _name.set(name)
    try:
        yield
    finally:
        _name.reset(before)


def name_of_sum() -> str:
    """Return the name of what this thread is adding up or gathering; empty if it does neither."""
    return _name.get()
