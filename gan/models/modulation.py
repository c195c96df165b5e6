"""Convolutions whose weights depend on the image (Karras et al. 2020, arXiv:1912.04958, section 2.2).

A style s scales the input channels of the weights: w' = s_i w_oik. Demodulation divides the result by the norm of
what an output channel is made of, sqrt(Σ_ik w'²): activations keep their size without looking at them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

from gan.models.equalized import EqualizedLinear
from gan.models.networks import full_precision

EPSILON = 1e-8


def norms_of(weight: Tensor, styles: Tensor) -> Tensor:
    """Return the norm of each image's weights for each output channel, (B, O), of weights (O, I, k, k)."""
    with torch.autocast(weight.device.type, enabled=False):
        return (styles.square() @ weight.square().sum((2, 3)).t() + EPSILON).sqrt()


def modulated_convolution(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    demodulate: bool = True,
    doubles: bool = False,
    fused: bool = False,
) -> Tensor:
    """Return the convolution of each image with its modulated weights (arXiv:1912.04958, equations 1 and 3).

    Args:
        x: Shape (B, I, H, W).
        weight: Shape (O, I, k, k) with an odd k.
        styles: Shape (B, I), not in half precision.
        demodulate: Whether to divide by the norms.
        doubles: Transposed, with stride 2: the result has shape (B, O, 2H + k - 2, 2W + k - 2), and its filter is
            still to come. Otherwise it has shape (B, O, H, W).
        fused: Whether to modulate the weights of each image, and take one convolution with B groups. Otherwise
            input and output of one convolution are scaled, which is the same, and mostly faster for many images.
    """
    if demodulate and x.dtype == torch.float16:  # whose range ends at 65,504; the norms take the factor out again
        styles = styles / styles.abs().amax(1, keepdim=True).clamp(min=EPSILON)
    norms = norms_of(weight, styles) if demodulate else None
    if not fused or not len(x):
        y = _convolve(x * styles.to(x.dtype)[:, :, None, None], weight, 1, doubles)
        return y if norms is None else y * norms.reciprocal().to(y.dtype)[:, :, None, None]
    images = len(x)
    weights = weight * styles[:, None, :, None, None]
    if norms is not None:
        weights = weights / norms[:, :, None, None, None]
    y = _convolve(x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), images, doubles)
    return y.reshape(images, -1, *y.shape[2:])


def _convolve(x: Tensor, weight: Tensor, groups: int, doubles: bool) -> Tensor:
    """Convolve x (B, groups * I, H, W) with weights (groups * O, I, k, k)."""
    if not doubles:
        return conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=groups)
    transposed = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return conv_transpose2d(x, transposed.to(x.dtype), stride=2, groups=groups)


class ModulatedConv2d(nn.Module):
    """A modulated convolution with an equalised learning rate, and the linear layer that makes its styles."""

    def __init__(
        self,
        before: int,
        after: int,
        size: int,
        style_width: int,
        *,
        demodulate: bool = True,
        doubles: bool = False,
        fused: bool = False,
    ) -> None:
        """Draw weights; styles begin at about 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, size, size))
        self.styles = EqualizedLinear(style_width, before, bias=1.0)
        self.scale = 1 / math.sqrt(before * size * size)
        self.demodulate = demodulate
        self.doubles = doubles
        self.fused = fused

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (B, before, H, W) and styles (B, style_width) to (B, after, H', W')."""
        with torch.autocast(x.device.type, enabled=False):
            styles = self.styles(full_precision(style)) * self.scale
        return modulated_convolution(
            x, self.weight, styles, demodulate=self.demodulate, doubles=self.doubles, fused=self.fused
        )
