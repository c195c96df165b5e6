"""One pass of a network for several batches, each of which BatchNorm normalises by itself.

A convolution takes less time for all images at once. What comes out, and what the running statistics are, is that
of one pass for each batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from gan.models.batch_statistics import GlobalStatistics
from gan.models.networks import is_changed, passes_repeat

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
MOST_IMAGES_APART = 8
"""Larger batches that BatchNorm takes apart cost more, by copies of what it puts out, than one pass saves."""


def can_take_batches_apart(network: nn.Module) -> bool:
    """Say whether one pass for several batches does what a pass for each of them does, one after the other.

    A user's layer may mix the images of a batch, or hand them to BatchNorm in another order, so that a network
    with such a layer cannot. Neither can one with a BatchNorm over several processes, or one that draws numbers,
    because their order would change.
    """
    layers = [*network.modules()]
    norms = [layer for layer in layers if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return (
        passes_repeat(network)
        and all(_is_known(layer) and not isinstance(layer, GlobalStatistics) for layer in layers)
        and not any(isinstance(layer, _InstanceNorm) and layer.track_running_stats for layer in layers)
        and all(type(norm) in _BATCHNORMS for norm in norms)
    )


def is_faster_apart(images: Tensor) -> bool:
    """Say whether one pass is faster for several batches like this one (B, C, H, W); not in compiled code."""
    return images.device.type == "cpu" and len(images) <= MOST_IMAGES_APART and not torch.compiler.is_compiling()


def _is_known(layer: nn.Module) -> bool:
    return type(layer).__module__.partition(".")[0] in ("torch", "gan") and not is_changed(layer)


@contextmanager
def batches_apart(network: nn.Module, num_batches: int) -> Iterator[None]:
    """Let the inputs of a network be so many batches of equal size, one after the other.

    Layers keep their classes, which copies and compilers see.
    """
    layers = [layer for layer in network.modules() if type(layer) in _BATCHNORMS]
    for layer in layers:
        layer.forward = partial(_normalised, layer.forward, num_batches)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _normalised(normalise: Callable[[Tensor], Tensor], num_batches: int, x: Tensor) -> Tensor:
    return torch.cat([normalise(batch) for batch in x.split(len(x) // num_batches)])
