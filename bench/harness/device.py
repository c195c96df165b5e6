"""The device that a process measures on, and the compiler. PyTorch is imported when it is needed."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_waiter(device: "torch.device") -> Callable[[], None]:
    """Return a function that returns as soon as a device is idle."""
    if device.type != "cuda":
        return lambda: None
    import torch

    return partial(torch.cuda.synchronize, device)


def num_compilations() -> int:
    """Return how many graphs a compiler has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
