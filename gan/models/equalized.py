"""Layers with equalised learning rates (Karras et al. 2018, arXiv:1710.10196, section 4.1).

Weights are drawn from normal(0, 1), and each pass scales them by 1 / sqrt(fan in). Adam's updates are as large for
a small gradient as for a large one, so that all weights learn at one speed in relation to their size.
"""

import math

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

NEGATIVE_SLOPE = 0.2
GAIN = math.sqrt(2)
"""By which LeakyReLU's output is multiplied, so that its second moment is about that of its input."""


def activate(x: Tensor, gain: float = 1.0, clamp: float = 0.0) -> Tensor:
    """Return LeakyReLU of x, scaled by sqrt(2) and by `gain`, within plus or minus `gain * clamp`.

    Limits keep activations within the range of fp16 (arXiv:2006.06676); 0 is none.

    >>> import torch
    >>> activate(torch.tensor([1.0, -1.0]), clamp=1.2)
    tensor([ 1.2000, -0.2828])
    """
    return limit(leaky_relu(x, NEGATIVE_SLOPE) * (GAIN * gain), gain * clamp)


def limit(x: Tensor, most: float) -> Tensor:
    """Return x within plus or minus `most`; 0 is no limit."""
    return x.clamp(-most, most) if most else x


class EqualizedLinear(nn.Linear):
    """A linear layer with an equalised learning rate.

    Attributes:
        rate: Its learning rate as a multiple of the optimizer's: weights and biases are held divided by it.
    """

    def __init__(self, in_features: int, out_features: int, *, rate: float = 1.0, bias: float = 0.0) -> None:
        """Draw weights, and set all biases to `bias`."""
        super().__init__(in_features, out_features)
        self.rate = rate
        self.scale = rate / math.sqrt(in_features)
        nn.init.normal_(self.weight, 0.0, 1 / rate)
        nn.init.constant_(self.bias, bias / rate)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (B, in_features) to (B, out_features)."""
        bias = self.bias if self.rate == 1 else self.bias * self.rate
        return linear(input, self.weight * self.scale, bias)


class EqualizedConv2d(nn.Conv2d):
    """A convolution with an equalised learning rate; biases begin at 0."""

    def __init__(
        self, before: int, after: int, size: int, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        """Draw weights."""
        super().__init__(before, after, size, stride=stride, padding=padding, bias=bias)
        self.scale = 1 / math.sqrt(before * size * size)
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (B, before, H, W) to (B, after, H', W')."""
        output: Tensor = self._conv_forward(input, self.weight * self.scale, self.bias)
        return output
