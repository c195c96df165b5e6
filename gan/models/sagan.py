"""Residual networks with attention (Zhang et al. 2019, arXiv:1805.08318)."""

import itertools
import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.images import ImageShape
from gan.models.attention import SelfAttention, require_level
from gan.models.batchnormed import BatchNormed
from gan.models.conditional_norm import ClassBatchNorm, Norm, UnconditionalBatchNorm
from gan.models.conditioning import ProjectionDiscriminator
from gan.models.halving import halve
from gan.models.residual import ConditionalUpBlock, DownBlock, SumOverPixels

MOST_DOUBLINGS = 4
"""Channels double with each halving of the image until they are 16 times those at its size."""


@dataclass(frozen=True)
class SAGAN(BatchNormed):
    """Residual networks with attention and spectral norm in G and D, and a BatchNorm of each class in G.

    arXiv:1805.08318, sections 3 to 5, in the sizes of its authors' code. D has the projection.

    Attributes:
        generator_channels: Channels of G at the size of the image; 64 for the paper's 128×128 images.
        discriminator_channels: Channels after D's first block.
        attention_level: Attention where images have been halved so often: 2 is 32×32 for images of 128×128, where
            the paper has it. None has no attention.
    """

    generator_channels: int = 64
    discriminator_channels: int = 64
    attention_level: int | None = 2

    def __post_init__(self) -> None:
        require_level(self.attention_level)

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G without classes, with BatchNorm.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        return _Generator(self, latent_dim, image_shape, UnconditionalBatchNorm)

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build G for so many classes; raises likewise."""
        return _Generator(self, latent_dim, image_shape, partial(ClassBatchNorm, num_classes=num_classes))

    def discriminator(self, image_shape: ImageShape) -> nn.Sequential:
        """Build D: a block for each halving, one more, ReLU, the sum over pixels, a linear layer.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, _ = halve(image_shape, "sagan")
        widths = [self.discriminator_channels << min(level, MOST_DOUBLINGS) for level in range(num_halvings)]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise([image_shape[0], *widths, widths[-1]])):
            layers.append(DownBlock(before, after, halves=i < num_halvings, first=i == 0, hidden=after))
            if i + 1 == self.attention_level and i < num_halvings:
                layers.append(SelfAttention(after))
        head = spectral_norm(nn.Linear(widths[-1], 1))
        return nn.Sequential(*layers, nn.ReLU(), SumOverPixels(), head, nn.Flatten(0))

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build D with the projection on a class vector, which has spectral norm, too; raises likewise."""
        network = ProjectionDiscriminator(self.discriminator(image_shape), num_classes)
        spectral_norm(network.embedding)
        return network


class _Generator(nn.Module):
    """G: a linear layer, a block for each doubling of the image, BatchNorm, ReLU, 3×3 convolution."""

    def __init__(self, spec: SAGAN, latent_dim: int, image_shape: ImageShape, norm: Norm) -> None:
        super().__init__()
        num_halvings, smallest = halve(image_shape, "sagan")
        levels = range(num_halvings, -1, -1)
        widths = [spec.generator_channels << min(level, MOST_DOUBLINGS) for level in levels]
        self.linear = spectral_norm(nn.Linear(latent_dim, widths[0] * math.prod(smallest)))
        self.unflatten = nn.Unflatten(1, (widths[0], *smallest))
        self.blocks = nn.ModuleList(
            [ConditionalUpBlock(before, after, norm) for before, after in itertools.pairwise(widths)]
        )
        self.attentions = nn.ModuleDict()
        for i, (level, after) in enumerate(zip(levels[1:], widths[1:], strict=True)):
            if level == spec.attention_level:
                self.attentions[str(i)] = SelfAttention(after)
        self.output = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            spectral_norm(nn.Conv2d(widths[-1], image_shape[0], 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), and classes (B,) if conditional, to images (B, C, H, W)."""
        x = self.unflatten(self.linear(latents))
        for i, block in enumerate(self.blocks):
            x = block(x, labels)
            if str(i) in self.attentions:
                x = self.attentions[str(i)](x)
        images: Tensor = self.output(x)
        return images
