"""Sums over processes by torch.distributed, each with the name of what is added up, for whoever watches them."""

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
    before = _name.set(name)
    try:
        torch.distributed.all_reduce(summed)
    finally:
        _name.reset(before)
    return summed


def name_of_sum() -> str:
    """Return the name of the sum that this thread is forming; empty if it forms none."""
    return _name.get()
