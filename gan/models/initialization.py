"""Initial weights: one function for each scheme that a recipe can name."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gan.models.networks import linear_layers


def _weights(network: nn.Module) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weight and bias of each convolution and linear layer; of a normalised weight what it is made of."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            named = dict(module.named_parameters())
            yield named.get("parametrizations.weight.original", module.weight), module.bias


def _keep_built_in(network: nn.Module) -> None:
    """What the architecture has drawn as it was built."""


def _keep_default(network: nn.Module) -> None:
    """Weights and biases uniform(±1/sqrt(fan_in)), as PyTorch's `nn.Linear` draws them."""


def _xavier_normal_positive_bias(network: nn.Module) -> None:
    """Weights Xavier normal (Glorot and Bengio 2010, equation 16), biases uniform(0.1, 0.2)."""
    for layer in linear_layers(network):
        nn.init.xavier_normal_(layer.weight)
        nn.init.uniform_(layer.bias, 0.1, 0.2)


def _glorot_uniform_small_first(network: nn.Module) -> None:
    """First layer normal(0, 0.02), the rest Glorot uniform, biases 0: Keras's defaults but for the first."""
    for index, layer in enumerate(linear_layers(network)):
        if index == 0:
            nn.init.normal_(layer.weight, 0.0, 0.02)
        else:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def _kaiming_normal(network: nn.Module) -> None:
    """Weights Kaiming normal with ReLU's gain (He et al. 2015, arXiv:1502.01852, equation 10), biases 0."""
    for layer in linear_layers(network):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def _dcgan(network: nn.Module) -> None:
    """Weights normal(0, 0.02), those of BatchNorm normal(1, 0.02), biases 0 (Radford et al. 2015, section 4)."""
    for weight, bias in _weights(network):
        nn.init.normal_(weight, 0.0, 0.02)
        if bias is not None:
            nn.init.zeros_(bias)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _glorot_uniform(network: nn.Module) -> None:
    """Weights Glorot uniform (Glorot and Bengio 2010, equation 16), biases 0."""
    for weight, bias in _weights(network):
        nn.init.xavier_uniform_(weight)
        if bias is not None:
            nn.init.zeros_(bias)


Initialization = Literal[
    "built-in",
    "pytorch",
    "xavier-normal-positive-bias",
    "glorot-uniform-small-first",
    "kaiming-normal",
    "dcgan",
    "glorot-uniform",
]
INITIALIZERS: dict[Initialization, Callable[[nn.Module], None]] = {
    "built-in": _keep_built_in,
    "pytorch": _keep_default,
    "xavier-normal-positive-bias": _xavier_normal_positive_bias,
    "glorot-uniform-small-first": _glorot_uniform_small_first,
    "kaiming-normal": _kaiming_normal,
    "dcgan": _dcgan,
    "glorot-uniform": _glorot_uniform,
}
POWER_ITERATIONS = 15


@torch.no_grad()
def initialize(network: nn.Module, initialization: Initialization) -> None:
    """Draw initial weights, and let spectral norms find the singular vectors of what was drawn."""
    INITIALIZERS[initialization](network)
    for module in network.modules():
        if is_parametrized(module, "weight"):
            for _ in range(POWER_ITERATIONS):
                _ = module.weight  # each access in training is an iteration
