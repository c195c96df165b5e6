"""Residual networks of large GANs of classes (Brock et al. 2019, arXiv:1809.11096)."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan.errors import UsageError
from gan.images import ImageShape
from gan.models.attention import SelfAttention, require_level
from gan.models.batchnormed import BatchNormed
from gan.models.conditional_norm import ConditionalBatchNorm, Norm
from gan.models.conditioning import ProjectionDiscriminator
from gan.models.halving import halve
from gan.models.residual import ConditionalUpBlock, DownBlock, SumOverPixels

GENERATOR_WIDTHS = {
    1: (4, 4),
    2: (4, 4, 4),
    3: (4, 4, 4, 4),
    4: (16, 16, 8, 4, 2),
    5: (16, 16, 8, 4, 2, 1),
    6: (16, 16, 8, 8, 4, 2, 1),
}
"""Channels of G from its smallest images on, as multiples of `generator_channels`, by the number of halvings:
3 are 32×32 images, 5 are 128×128 (arXiv:1809.11096, table 4), 6 are 256×256 (table 5)."""
DISCRIMINATOR_WIDTHS = {
    1: (4, 4, 4, 4),
    2: (4, 4, 4, 4),
    3: (4, 4, 4, 4),
    4: (1, 2, 4, 8, 16),
    5: (1, 2, 4, 8, 16, 16),
    6: (1, 2, 4, 8, 8, 16, 16),
}
"""Channels after each block of D, likewise."""
HALVING_BLOCKS_OF_SMALL_IMAGES = 2
"""Blocks of D that halve images of up to 32×32 pixels; of larger images all but the last one do."""


@dataclass(frozen=True)
class BigGAN(BatchNormed):
    """Residual networks with spectral norm, attention, and BatchNorm conditioned on class and latents.

    The latents are divided: G begins with the first part, and each block gets one more (hierarchical latents). All
    layers of G share one vector of the class (arXiv:1809.11096, section 3 and appendix B). D has the projection.

    Attributes:
        generator_channels: 96 in the paper for 128×128 images; for 32×32, its authors have 64.
        discriminator_channels: Likewise.
        class_width: Numbers of the shared vector of a class; 128 in the paper.
        attention_level: Attention where images have been halved so often: 1 is 64×64 for images of 128×128, as in
            the paper. None has no attention.
    """

    generator_channels: int = 96
    discriminator_channels: int = 96
    class_width: int = 128
    attention_level: int | None = 1

    def __post_init__(self) -> None:
        require_level(self.attention_level)

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G without classes: its layers are conditioned on the parts of the latents.

        Raises:
            UsageError: There are no networks for images of this shape, or too few latents.
        """
        return _Generator(self, latent_dim, image_shape, num_classes=0)

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build G for so many classes; raises likewise."""
        return _Generator(self, latent_dim, image_shape, num_classes)

    def discriminator(self, image_shape: ImageShape) -> nn.Sequential:
        """Build D: blocks, ReLU, the sum over pixels, a linear layer.

        Raises:
            UsageError: There are no networks for images of this shape.
        """
        num_halvings = _num_halvings(image_shape)
        widths = [self.discriminator_channels * multiple for multiple in DISCRIMINATOR_WIDTHS[num_halvings]]
        num_halving = len(widths) - 1 if num_halvings > 3 else HALVING_BLOCKS_OF_SMALL_IMAGES
        num_halving = min(num_halving, num_halvings)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise([image_shape[0], *widths])):
            layers.append(DownBlock(before, after, halves=i < num_halving, first=i == 0, hidden=after))
            if i + 1 == self.attention_level and i < num_halving:
                layers.append(SelfAttention(after))
        last = widths[-1]
        head = spectral_norm(nn.Linear(last, 1))
        return nn.Sequential(*layers, nn.ReLU(), SumOverPixels(), head, nn.Flatten(0))

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build D with the projection on a class vector, which has spectral norm, too; raises likewise."""
        network = ProjectionDiscriminator(self.discriminator(image_shape), num_classes)
        spectral_norm(network.embedding)
        return network


def _num_halvings(image_shape: ImageShape) -> int:
    num_halvings, _ = halve(image_shape, "biggan")
    if num_halvings not in GENERATOR_WIDTHS:
        sizes = " ".join(map(str, image_shape))
        raise UsageError(
            f"--image-shape {sizes}: biggan has networks for sides of at most 256; use smaller images"
        )
    return num_halvings


class _Generator(nn.Module):
    """G: a linear layer of the first part of the latents, then a block for each further part."""

    def __init__(self, spec: BigGAN, latent_dim: int, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        num_blocks = _num_halvings(image_shape)
        _, smallest = halve(image_shape, "biggan")
        self.num_parts = num_blocks + 1
        if latent_dim < self.num_parts:
            raise UsageError(
                f"latent_dim {latent_dim}: biggan divides the latents into {self.num_parts} parts for images of "
                f"this shape; use at least {self.num_parts}"
            )
        # as `tensor_split` divides them
        least, remainder = divmod(latent_dim, self.num_parts)
        first, *rest = (least + (part < remainder) for part in range(self.num_parts))
        class_width = spec.class_width if num_classes else 0
        widths = [spec.generator_channels * multiple for multiple in GENERATOR_WIDTHS[num_blocks]]
        self.embedding = nn.Embedding(num_classes, class_width) if num_classes else None
        self.linear = spectral_norm(nn.Linear(first, widths[0] * math.prod(smallest)))
        self.unflatten = nn.Unflatten(1, (widths[0], *smallest))
        self.blocks = nn.ModuleList(
            [
                ConditionalUpBlock(before, after, _norm_of(class_width + part))
                for (before, after), part in zip(itertools.pairwise(widths), rest, strict=True)
            ]
        )
        self.attentions = nn.ModuleDict()
        for i, after in enumerate(widths[1:], 1):
            if num_blocks - i == spec.attention_level:
                self.attentions[str(i - 1)] = SelfAttention(after)
        self.output = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(),
            spectral_norm(nn.Conv2d(widths[-1], image_shape[0], 3, padding=1)),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), and classes (B,) if conditional, to images (B, C, H, W)."""
        first, *conditions = latents.tensor_split(self.num_parts, 1)
        if self.embedding is not None:
            vectors = self.embedding(labels).to(latents.dtype)
            conditions = [torch.cat([vectors, part], 1) for part in conditions]
        x = self.unflatten(self.linear(first))
        for i, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            x = block(x, condition)
            if str(i) in self.attentions:
                x = self.attentions[str(i)](x)
        images: Tensor = self.output(x)
        return images


def _norm_of(condition_width: int) -> Norm:
    return lambda channels: ConditionalBatchNorm(channels, condition_width)
