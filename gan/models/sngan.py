"""Residual networks with spectral norm in D (Miyato et al. 2018, arXiv:1802.05957)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.parametrizations import spectral_norm

from gan.images import ImageShape
from gan.models.batchnormed import BatchNormed
from gan.models.halving import halve
from gan.models.resampling import ResamplingBlock
from gan.models.residual import DownBlock, MeanOverPixels, SumOverPixels, left_as_it_is


@dataclass(frozen=True)
class SNResNet(BatchNormed):
    """Residual networks: BatchNorm in G, spectral norm in every layer of D (Miyato et al. 2018, table 4).

    Attributes:
        generator_channels: Channels of every block of G; 256 in the paper.
        discriminator_channels: Channels of every block of D; 128 in the paper.
    """

    generator_channels: int = 256
    discriminator_channels: int = 128

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
            DownBlock(image_shape[0], channels, halves=True, first=True),
            DownBlock(channels, channels, halves=True),
            DownBlock(channels, channels, halves=False),
            DownBlock(channels, channels, halves=False),
            nn.ReLU(),
            SumOverPixels(),
            spectral_norm(nn.Linear(channels, 1)),
            nn.Flatten(0),
        )


@dataclass(frozen=True)
class WGANResNet(SNResNet):
    """The residual networks of WGAN-GP for 32×32 images: D without any norm (arXiv:1704.00028, appendix F).

    G is that of `SNResNet` with 128 channels. D's last features are means over pixels, not sums.

    Attributes:
        generator_channels: Channels of every block of G.
        discriminator_channels: Channels of every block of D.
    """

    generator_channels: int = 128
    discriminator_channels: int = 128

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D: two blocks that halve the image, two that do not, ReLU, the mean over pixels, linear layer."""
        channels = self.discriminator_channels
        before = (image_shape[0], channels, channels, channels)
        blocks = [
            DownBlock(width, channels, halves=i < 2, first=i == 0, normalise=left_as_it_is)
            for i, width in enumerate(before)
        ]
        return nn.Sequential(*blocks, nn.ReLU(), MeanOverPixels(), nn.Linear(channels, 1), nn.Flatten(0))


class _UpBlock(ResamplingBlock):
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
        h = torch.relu(self.norms[0](x))
        h = self.double_and_convolve(h, self.convolutions[0])
        h = self.convolutions[1](torch.relu(self.norms[1](h)))
        return h + interpolate(self.shortcut(x), scale_factor=2)  # type: ignore[no-any-return]
