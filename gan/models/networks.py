"""What is done with any network: call it, put it into evaluation mode, count its parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a network, from the input on."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def lies_by_channels_last(tensor: Tensor) -> bool:
    """Say whether channels vary quickest in the memory of a tensor (B, C, H, W), which makes another order."""
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def full_precision(values: Tensor) -> Tensor:
    """Return half-precision values as fp32, others as they are. Losses and moments are never in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def num_parameters(network: nn.Module) -> int:
    """Return how many numbers the parameters of a network have."""
    return sum(parameter.numel() for parameter in network.parameters())


def apply(network: Callable[..., Tensor], inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Call a network, with classes (B,) if it is conditional and without (None) if it is not."""
    return network(inputs) if labels is None else network(inputs, labels)


def passes_repeat(network: nn.Module) -> bool:
    """Say whether a second pass of the same images is like the first one.

    Spectral norm iterates in each pass, and dropout draws other numbers. What hooks do is not known.
    """
    others = (_SpectralNorm, nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
    return not any(isinstance(layer, others) or _has_hooks(layer) for layer in network.modules())


def is_changed(layer: nn.Module) -> bool:
    """Say whether a layer may compute something else than its class: by hooks, or a `forward` of its own."""
    return "forward" in vars(layer) or _has_hooks(layer)


def only_runs_layers(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Say whether a module runs its layers one after the other, and nothing else, as not all of users' do."""
    is_sequence = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return is_sequence and "forward" not in vars(module)


def _has_hooks(layer: nn.Module) -> bool:
    """Say whether a layer has hooks; those of a module that holds others are taken for watching ones."""
    return bool((layer._forward_hooks or layer._forward_pre_hooks) and not [*layer.children()])


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode; afterwards each has the mode that it had."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, training in zip(networks, modes, strict=True):
            network.train(training)
