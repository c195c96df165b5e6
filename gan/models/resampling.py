"""A 3×3 convolution beside a halving or doubling of images, as one convolution, for CPUs.

The sum of shifted 3×3 kernels is one 4×4 kernel. It takes 16 products where the two operations take 36.
"""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate

from gan.models.networks import is_changed, lies_by_channels_last

LEAST_PIXELS = 512
"""The least pixels of the smaller images of a batch for which a merged convolution is taken.

For fewer, making and reading the larger kernel takes more time than it saves if there are 128 channels or more,
and about as much if there are fewer (on an AMD EPYC with AVX-512).
"""


class ResamplingBlock(nn.Module):
    """A block of a network that may halve or double images.

    Attributes:
        merges: Whether that and the 3×3 convolution beside it are one convolution in large batches.
    """

    merges = False

    def is_merged(self, convolution: nn.Module, batch_size: int, height: int, width: int) -> TypeGuard[nn.Conv2d]:
        """Say whether one convolution is taken for a batch whose smaller images have this size."""
        return self.merges and batch_size * height * width >= LEAST_PIXELS and _can_merge(convolution)

    def double_and_convolve(self, x: Tensor, convolution: nn.Module) -> Tensor:
        """Return a 3×3 convolution, with padding 1, of nearest-neighbour upsampled (B, C, H, W)."""
        if self.is_merged(convolution, len(x), *x.shape[2:]):
            return _double_and_convolve(x, convolution)
        convolved: Tensor = convolution(interpolate(x, scale_factor=2))
        return convolved


def _can_merge(layer: nn.Module) -> bool:
    """Say whether a layer is a 3×3 convolution with padding 1, and nothing else. It may be parametrized."""
    if not isinstance(layer, nn.Conv2d) or is_changed(layer):
        return False
    settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
    return settings == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def _double_and_convolve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    # each of the four outputs of a pixel sees 2×2 pixels of x, by sums of the weights
    weight = convolution.weight
    turned = weight.transpose(0, 1).flip(2, 3)
    if lies_by_channels_last(weight):
        turned = turned.contiguous(memory_format=torch.channels_last)
    kernel = avg_pool2d(turned, 2, stride=1, padding=1, divisor_override=1)
    return conv_transpose2d(x, kernel, convolution.bias, stride=2, padding=1)


def convolve_and_halve(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Return the means over 2×2 pixels of a 3×3 convolution, with padding 1, of (B, C, H, W).

    Its outputs have the means of shifted kernels. With spectral norm, each reading of the weight is an iteration.
    """
    kernel = avg_pool2d(convolution.weight, 2, stride=1, padding=1)
    return conv2d(x, kernel, convolution.bias, stride=2, padding=1)
