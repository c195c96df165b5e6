"""Residual networks without normalisation (Huang et al. 2024)."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan.images import ImageShape
from gan.models.halving import num_halvings

EXPANSION = 2
R3GAN_SLOPE = 0.2


class _ResidualBlock(nn.Module):
    """Inverted bottleneck with a grouped 3×3 convolution; adds nothing to its input when it is new.

    Fixup initialisation (Zhang et al. 2019, arXiv:1901.09321, section 3.2): zeros in the last of the three layers,
    the others scaled by the number of a network's blocks to the power of -1/4.
    """

    def __init__(self, channels: int, group_width: int, blocks: int) -> None:
        hidden = EXPANSION * channels
        groups = max(1, hidden // group_width)
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(R3GAN_SLOPE),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups),
            nn.LeakyReLU(R3GAN_SLOPE),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        gain = nn.init.calculate_gain("leaky_relu", R3GAN_SLOPE) * blocks**-0.25
        for index, layer_gain in ((0, gain), (2, gain), (4, 0.0)):
            _normal(self.layers[index], layer_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.layers(x)  # type: ignore[no-any-return]


def _normal(layer: Any, gain: float = 1.0) -> Any:
    """Draw weights normal(0, gain / sqrt(fan_in)) and set biases to 0."""
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _LearnedBasis(nn.Module):
    """The smallest images of a generator: learned ones, each times a linear function of the latents."""

    def __init__(self, latent_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, *size))
        self.linear = _normal(nn.Linear(latent_dim, channels, bias=False))

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, latent_dim) to (B, C, H, W)."""
        factors: Tensor = self.linear(latents)
        return self.basis.to(factors.dtype) * factors[:, :, None, None]


@dataclass(frozen=True)
class R3GAN:
    """Residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441, section 3 and figure 4).

    Inverted bottlenecks with grouped convolutions at every size of the image, bilinear resampling between them,
    and no function that bounds G's images. Channels double at every halving of the image, as in the upper half of
    the paper's networks for 256×256 images.

    Attributes:
        channels: At the size of the image.
        blocks: At each size; 2 in the paper.
        group_width: Channels of a group of the 3×3 convolutions; 16 in the paper's.
    """

    channels: int
    blocks: int = 2
    group_width: int = 16

    @property
    def batchnorm(self) -> bool:
        """Whether it has BatchNorm layers; it has none."""
        return False

    @property
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""
        return 3 * self.blocks

    def _stages(self, image_shape: ImageShape) -> list[tuple[int, list[nn.Module]]]:
        """Return the channels and the blocks at each size, the image's first."""
        widths = [self.channels << level for level in range(num_halvings(image_shape, 4, "r3gan") + 1)]
        total = self.blocks * len(widths)
        return [
            (width, [_ResidualBlock(width, self.group_width, total) for _ in range(self.blocks)])
            for width in widths
        ]

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: the learned basis and blocks, then 1×1 convolution, upsampling and blocks for each doubling."""
        colours, height, width = image_shape
        stages = self._stages(image_shape)[::-1]
        halvings = len(stages) - 1
        layers: list[nn.Module] = [
            _LearnedBasis(latent_dim, stages[0][0], (height >> halvings, width >> halvings)),
            *stages[0][1],
        ]
        for (before, _), (after, blocks) in itertools.pairwise(stages):
            layers += [
                _normal(nn.Conv2d(before, after, 1, bias=False)),
                nn.Upsample(scale_factor=2, mode="bilinear"),
                *blocks,
            ]
        return nn.Sequential(*layers, _normal(nn.Conv2d(stages[-1][0], colours, 1, bias=False)))

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D, G's mirror image: at the end a learned basis for each channel and a linear layer."""
        colours, height, width = image_shape
        stages = self._stages(image_shape)
        halvings = len(stages) - 1
        layers: list[nn.Module] = [_normal(nn.Conv2d(colours, stages[0][0], 1, bias=False)), *stages[0][1]]
        for (before, _), (after, blocks) in itertools.pairwise(stages):
            # the mean over 2×2 is bilinear interpolation by a half
            layers += [nn.AvgPool2d(2), _normal(nn.Conv2d(before, after, 1, bias=False)), *blocks]
        last, size = stages[-1][0], (height >> halvings, width >> halvings)
        layers += [_normal(nn.Conv2d(last, last, size, groups=last, bias=False)), nn.Flatten()]
        return nn.Sequential(*layers, _normal(nn.Linear(last, 1, bias=False)), nn.Flatten(0))
