"""Networks that keep few activations for a backward pass, and compute the others again in it.

The layers of a sequence are divided into about √n segments of n layers. Only the inputs of segments are kept, so
that memory grows with √n, for one more forward pass (Chen et al. 2016, arXiv:1604.06174, section 4.3).
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils.checkpoint import checkpoint

from gan.models.batch_statistics import running_statistics_of_images
from gan.models.networks import only_runs_layers

LEAST_LAYERS = 3
"""A shorter sequence keeps its activations."""
_of_thread = threading.local()
_Vectors = dict[nn.Module, Sequence[Tensor]]
_Buffers = dict[nn.Module, dict[str, Tensor | None]]


def recompute_in_backward(network: nn.Module) -> None:
    """Let the sequences and lists of blocks in a network keep few activations, in place.

    An item of a list of blocks is a segment; so is about the square root of the layers of a sequence.
    """
    for module in [*_outermost(network)]:
        if isinstance(module, nn.Sequential):
            _replace(module, "forward", partial(_in_segments, _segments(module)))
        else:
            for block in module.children():
                _replace(block, "forward", partial(_recomputed, block, block.forward))


def _replace(module: nn.Module, name: str, function: Callable[..., object]) -> None:
    """Give a module a function of its own, which a copy of the module has, too."""
    setattr(module, name, function)


def _outermost(module: nn.Module) -> Iterator[nn.Sequential | nn.ModuleList]:
    """Yield the sequences and lists in a module that are in no other one."""
    if isinstance(module, nn.ModuleList) or (only_runs_layers(module) and len(module) >= LEAST_LAYERS):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _segments(sequence: nn.Sequential) -> list[nn.Sequential]:
    layers = [*sequence]
    length = math.ceil(math.sqrt(len(layers)))
    return [nn.Sequential(*layers[first : first + length]) for first in range(0, len(layers), length)]


def _in_segments(segments: Sequence[nn.Sequential], inputs: Tensor) -> Tensor:
    for segment in segments:
        inputs = _recomputed(segment, segment, inputs)
    return inputs


def _recomputed(module: nn.Module, call: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """Call a module's function so that its activations are computed again in the backward pass."""
    if not torch.is_grad_enabled() or getattr(_of_thread, "keeps", False):
        return call(*inputs, **settings)
    return checkpoint(call, *inputs, use_reentrant=False, context_fn=partial(_contexts, module), **settings)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what the first pass and the second one are in."""
    vectors: _Vectors = {}
    buffers: _Buffers = {}
    return _first(module, vectors, buffers), _again(module, vectors, buffers)


@contextmanager
def _first(module: nn.Module, vectors: _Vectors, buffers: _Buffers) -> Iterator[None]:
    """Keep the vectors with which spectral norm divided: other passes may come before the second one.

    A hook has to iterate to them again. Of those layers, the vectors before the pass are kept. So are all buffers,
    but not copied, for layers that replace theirs.
    """
    vectors.update({layer: [held.clone() for held in _vectors_of_hooks(layer)] for layer in module.modules()})
    buffers.update({layer: dict(layer._buffers) for layer in module.modules()})
    yield
    for layer in module.modules():
        if isinstance(layer, _SpectralNorm):
            vectors[layer] = (layer._u.clone(), layer._v.clone())


@contextmanager
def _again(module: nn.Module, vectors: _Vectors, buffers: _Buffers) -> Iterator[None]:
    """Compute what the first pass did, and let what it changed stay as it is.

    Layers save as many tensors as in the first pass: the checkpoint compares them one by one.
    """
    with ExitStack() as stack:
        for layer in module.modules():
            stack.callback(layer._buffers.update, dict(layer._buffers))
            layer._buffers.update(buffers[layer])
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.num_batches_tracked is not None:
                stack.callback(layer.num_batches_tracked.copy_, layer.num_batches_tracked.clone())
                stack.callback(setattr, layer, "momentum", layer.momentum)
                layer.momentum = 0.0
            if isinstance(layer, _SpectralNorm):
                for held, first in zip((layer._u, layer._v), vectors[layer], strict=True):
                    stack.callback(held.copy_, held.clone())
                    held.copy_(first)
                stack.callback(delattr, layer, "_power_method")
                _replace(layer, "_power_method", _nothing)
            else:
                for held, first in zip(_vectors_of_hooks(layer), vectors[layer], strict=True):
                    stack.callback(held.copy_, held.clone())
                    held.copy_(first)
            for held in running_statistics_of_images(layer):
                stack.callback(held.copy_, held.clone())
        yield


def _vectors_of_hooks(layer: nn.Module) -> list[Tensor]:
    """Return the vectors of `nn.utils.spectral_norm`, which a hook of a layer iterates before each pass."""
    hooks = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return [getattr(layer, f"{hook.name}_{vector}") for hook in hooks for vector in "uv"]


def _nothing(*_: object) -> None:
    """Take no iteration."""


@contextmanager
def activations_kept() -> Iterator[None]:
    """Let networks keep all activations of passes inside, for gradients of gradients."""
    before = getattr(_of_thread, "keeps", False)
    _of_thread.keeps = True
    try:
        yield
    finally:
        _of_thread.keeps = before


def as_one_segment(network: nn.Module, call: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function that runs a network, which is then computed again as a whole in the backward pass."""

    def whole(*taken: Any) -> Any:
        with activations_kept():
            return call(*taken)

    return _recomputed(network, whole, *inputs)
