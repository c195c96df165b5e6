"""Residual networks with spectral norm in D (Miyato et al. 2018, arXiv:1802.05957)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from gan.images import ImageShape
from gan.models.halving import halve


@dataclass(frozen=True)
class SNResNet:
    """Residual networks: BatchNorm in G, spectral norm in every layer of D (Miyato et al. 2018, tables 3 and 4).

    Attributes:
        generator_channels: Channels of every block of G; 256 in the paper.
        discriminator_channels: Channels of every block of D; 128 in the paper.
    """

    generator_channels: int = 256
    discriminator_channels: int = 128

    @property
    def batchnorm(self) -> bool:
        """True: G has BatchNorm layers."""
        return True

    @property
    def min_generator_tensors(self) -> int:
        """Weight and bias of the first and the last layer."""
        return 4

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: a linear layer, a block for each doubling of the image, BatchNorm, ReLU, 3×3 convolution.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "sngan")
        channels = self.generator_channels
        return nn.Sequential(
            nn.Linear(latent_dim, channels * math.prod(smallest)),
            nn.Unflatten(1, (channels, *smallest)),
            *[_UpBlock(channels) for _ in range(num_halvings)],
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, image_shape[0], 3, padding=1),
            nn.Tanh(),
        )

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D: two blocks that halve the image, two that do not, ReLU, the sum over pixels, a linear layer."""
        channels = self.discriminator_channels
        return nn.Sequential(
            _DownBlock(image_shape[0], channels, halves=True, first=True),
            _DownBlock(channels, channels, halves=True),
            _DownBlock(channels, channels, halves=False),
            _DownBlock(channels, channels, halves=False),
            nn.ReLU(),
            _SumOverPixels(),
            spectral_norm(nn.Linear(channels, 1)),
            nn.Flatten(0),
        )


class _UpBlock(nn.Module):
    """Residual block that doubles the image.

    Twice BatchNorm, ReLU and a 3×3 convolution, with nearest upsampling before the first convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels) for _ in range(2)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)])
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        h = interpolate(torch.relu(self.norms[0](x)), scale_factor=2)
        h = self.convolutions[1](torch.relu(self.norms[1](self.convolutions[0](h))))
        return h + interpolate(self.shortcut(x), scale_factor=2)  # type: ignore[no-any-return]


class _DownBlock(nn.Module):
    """Residual block with spectral norm: twice ReLU and a 3×3 convolution; a mean over 2×2 pixels if it halves.

    The first block of a network sees the image itself, and leaves out its first ReLU.
    """

    def __init__(self, before: int, after: int, *, halves: bool, first: bool = False) -> None:
        super().__init__()
        hidden = after if first else before
        self.convolutions = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(before, hidden, 3, padding=1)),
                spectral_norm(nn.Conv2d(hidden, after, 3, padding=1)),
            ]
        )
        changes_shape = halves or before != after
        self.shortcut = spectral_norm(nn.Conv2d(before, after, 1)) if changes_shape else nn.Identity()
        self.halves = halves
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W), or half the height and width."""
        h = self.convolutions[0](x if self.first else torch.relu(x))
        h = self.convolutions[1](torch.relu(h))
        total: Tensor = h + self.shortcut(x)
        return avg_pool2d(total, 2) if self.halves else total


class _SumOverPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return x.sum((2, 3))
