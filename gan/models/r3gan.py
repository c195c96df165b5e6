"""Residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441)."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan.images import ImageShape
from gan.models.halving import halve

EXPANSION = 2
"""Channels inside a block as a multiple of those outside."""
NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class R3GAN:
    """Residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441, section 3 and figure 4).

    They have inverted bottlenecks with grouped convolutions at every size of the image, and bilinear resampling
    between the sizes. No function bounds G's images. Channels double whenever the image is halved, as in the upper
    half of the paper's networks for 256×256 images.

    Attributes:
        channels: Channels at the size of the image.
        blocks: Blocks at each size; 2 in the paper.
        group_width: Channels of a group of the 3×3 convolutions; 16 in the paper.
    """

    channels: int
    blocks: int = 2
    group_width: int = 16

    @property
    def batchnorm(self) -> bool:
        """False: neither network has BatchNorm layers."""
        return False

    @property
    def min_generator_tensors(self) -> int:
        """The weights of the three layers of each block, at one size."""
        return 3 * self.blocks

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: learned basis and blocks, then 1×1 convolution, upsampling and blocks for each doubling.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "r3gan")
        stages = self._stages(num_halvings)[::-1]
        width, blocks = stages[0]
        layers: list[nn.Module] = [_LearnedBasis(latent_dim, width, smallest), *blocks]
        for (before, _), (after, blocks) in itertools.pairwise(stages):
            layers += [
                _draw_weights(nn.Conv2d(before, after, 1, bias=False)),
                nn.Upsample(scale_factor=2, mode="bilinear"),
                *blocks,
            ]
        return nn.Sequential(*layers, _draw_weights(nn.Conv2d(self.channels, image_shape[0], 1, bias=False)))

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D, G's mirror image: at the end a learned basis for each channel and a linear layer.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "r3gan")
        stages = self._stages(num_halvings)
        width, blocks = stages[0]
        layers: list[nn.Module] = [_draw_weights(nn.Conv2d(image_shape[0], width, 1, bias=False)), *blocks]
        for (before, _), (after, blocks) in itertools.pairwise(stages):
            # the mean over 2×2 pixels is bilinear interpolation by a half
            layers += [nn.AvgPool2d(2), _draw_weights(nn.Conv2d(before, after, 1, bias=False)), *blocks]
        last = stages[-1][0]
        layers += [_draw_weights(nn.Conv2d(last, last, smallest, groups=last, bias=False)), nn.Flatten()]
        return nn.Sequential(*layers, _draw_weights(nn.Linear(last, 1, bias=False)), nn.Flatten(0))

    def _stages(self, num_halvings: int) -> list[tuple[int, list[nn.Module]]]:
        """Return the channels and the blocks at each size, the image's own size first."""
        widths = [self.channels << level for level in range(num_halvings + 1)]
        total = self.blocks * len(widths)
        return [
            (width, [_ResidualBlock(width, self.group_width, total) for _ in range(self.blocks)])
            for width in widths
        ]


class _ResidualBlock(nn.Module):
    """Inverted bottleneck with a grouped 3×3 convolution; a new one adds nothing to its input.

    Fixup initialisation (Zhang et al. 2019, arXiv:1901.09321, section 3.2): the last of the three layers begins at
    zero. In the m = 2 others He's gain is scaled by L^(-1 / 2m) = L^(-1/4), where L is the network's number of
    blocks, so that an update changes the output by as much however deep the network is.
    """

    def __init__(self, channels: int, group_width: int, num_blocks: int) -> None:
        hidden = EXPANSION * channels
        groups = max(1, hidden // group_width)
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        gain = nn.init.calculate_gain("leaky_relu", NEGATIVE_SLOPE) * num_blocks**-0.25
        for index, layer_gain in ((0, gain), (2, gain), (4, 0.0)):
            _draw_weights(self.layers[index], layer_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.layers(x)  # type: ignore[no-any-return]


class _LearnedBasis(nn.Module):
    """G's smallest images: learned ones, one a channel, each times a linear function of the latents."""

    def __init__(self, latent_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, *size))
        self.linear = _draw_weights(nn.Linear(latent_dim, channels, bias=False))

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, latent_dim) to (B, C, H, W)."""
        factors: Tensor = self.linear(latents)
        return self.basis.to(factors.dtype) * factors[:, :, None, None]


def _draw_weights(layer: Any, gain: float = 1.0) -> Any:
    """Draw a layer's weights from normal(0, gain / sqrt(fan_in)), set its biases to 0, and return the layer."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
