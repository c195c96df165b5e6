"""INITIALIZERS: initial weights, one function for each scheme that a recipe can name."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

POWER_ITERATIONS = 15
"""Iterations of spectral norm after the weights were drawn; the norm of a layer is then 1 within 3 %."""


def _keep_built_in(network: nn.Module) -> None:
    """Keep what the architecture drew when it was built."""


def _keep_pytorch_default(network: nn.Module) -> None:
    """Keep weights and biases uniform(±1/sqrt(fan_in)), as PyTorch's `nn.Linear` draws them."""


def _xavier_normal_positive_bias(network: nn.Module) -> None:
    """Weights normal with the variance of Glorot and Bengio 2010, equation 16; biases uniform(0.1, 0.2)."""
    for weight, bias in _weights_and_biases(network, nn.Linear):
        nn.init.xavier_normal_(weight)
        if bias is not None:
            nn.init.uniform_(bias, 0.1, 0.2)


def _glorot_uniform_small_first(network: nn.Module) -> None:
    """First layer normal(0, 0.02), the others Glorot uniform, biases 0.

    Keras's defaults, but for the first layer.
    """
    for index, (weight, bias) in enumerate(_weights_and_biases(network, nn.Linear)):
        if index == 0:
            nn.init.normal_(weight, 0.0, 0.02)
        else:
            nn.init.xavier_uniform_(weight)
        if bias is not None:
            nn.init.zeros_(bias)


def _kaiming_normal(network: nn.Module) -> None:
    """Weights Kaiming normal with ReLU's gain (He et al. 2015, arXiv:1502.01852, equation 10), biases 0."""
    for weight, bias in _weights_and_biases(network, nn.Linear):
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
        if bias is not None:
            nn.init.zeros_(bias)


def _dcgan(network: nn.Module) -> None:
    """Weights normal(0, 0.02), those of BatchNorm normal(1, 0.02), biases 0 (Radford et al. 2015, section 4)."""
    for weight, bias in _weights_and_biases(network):
        nn.init.normal_(weight, 0.0, 0.02)
        if bias is not None:
            nn.init.zeros_(bias)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _glorot_uniform(network: nn.Module) -> None:
    """Weights Glorot uniform (Glorot and Bengio 2010, equation 16), biases 0."""
    for weight, bias in _weights_and_biases(network):
        nn.init.xavier_uniform_(weight)
        if bias is not None:
            nn.init.zeros_(bias)


def _glorot_uniform_residual(network: nn.Module) -> None:
    """Weights Glorot uniform, biases 0, and the 3×3 convolutions of residual blocks sqrt(2) times as large.

    As in the authors' code of arXiv:1704.00028 and of arXiv:1802.05957: He et al.'s gain for what a ReLU precedes.
    """
    _glorot_uniform(network)
    for block in network.modules():
        if isinstance(layers := getattr(block, "convolutions", None), nn.ModuleList):
            for weight, _ in _weights_and_biases(layers):
                weight.mul_(math.sqrt(2))


def _orthogonal(network: nn.Module) -> None:
    """Weights orthogonal (Saxe et al. 2014, arXiv:1312.6120), also those of classes; biases 0.

    Brock et al. 2019, arXiv:1809.11096, section 3. The weights of a convolution are a matrix with a row an output.
    """
    for weight, bias in _weights_and_biases(network):
        _draw_orthogonal(weight)
        if bias is not None:
            nn.init.zeros_(bias)
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            (weight,) = module.parameters()
            _draw_orthogonal(weight)


def _draw_orthogonal(weight: Tensor) -> None:
    """Draw in double precision: the last bits of the decomposition depend on the number of threads."""
    weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=torch.float64)))


def _weights_and_biases(
    network: nn.Module, kinds: Any = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weight and bias of each convolution and linear layer, or of those of some kinds, from the input on.

    Under spectral norm a layer's `weight` is computed; what is yielded, and drawn, is the parameter behind it. A
    weight that is computed of several parameters, as by weight norm, is set once it was drawn.
    """
    for module in network.modules():
        if isinstance(module, kinds):
            parameters = dict(module.named_parameters())
            computed = module.weight  # under spectral norm an iteration
            yield parameters.get("parametrizations.weight.original", computed), module.bias
            if "parametrizations.weight.original0" in parameters:
                module.weight = computed


Initialization = Literal[
    "built-in",
    "pytorch",
    "xavier-normal-positive-bias",
    "glorot-uniform-small-first",
    "kaiming-normal",
    "dcgan",
    "glorot-uniform",
    "glorot-uniform-residual",
    "orthogonal",
]

INITIALIZERS: dict[Initialization, Callable[[nn.Module], None]] = {
    "built-in": _keep_built_in,
    "pytorch": _keep_pytorch_default,
    "xavier-normal-positive-bias": _xavier_normal_positive_bias,
    "glorot-uniform-small-first": _glorot_uniform_small_first,
    "kaiming-normal": _kaiming_normal,
    "dcgan": _dcgan,
    "glorot-uniform": _glorot_uniform,
    "glorot-uniform-residual": _glorot_uniform_residual,
    "orthogonal": _orthogonal,
}


KEEPING: tuple[Initialization, ...] = ("built-in", "pytorch")
"""Those that keep what a network was built with."""

WeightsOf = Literal["drawn", "scaled"]
"""What an architecture may say in a property `own_weights`: it draws weights by a rule of its own, which another
initialization replaces; or its layers also scale weights in each pass, so that others would be of a wrong size."""


@torch.no_grad()
def initialize(network: nn.Module, initialization: Initialization) -> None:
    """Draw initial weights in place, from torch's default generator.

    Spectral norms estimated the singular vectors of the weights that the layers were built with. They are iterated
    here until they fit the weights that were drawn.
    """
    INITIALIZERS[initialization](network)
    for module in network.modules():
        if is_parametrized(module, "weight"):
            for _ in range(POWER_ITERATIONS):
                _ = module.weight  # in training mode each access is one power iteration
