"""Convolutional networks of which D tells the class (Odena et al. 2017, arXiv:1610.09585)."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.images import ImageShape
from gan.models.batchnormed import BatchNormed
from gan.models.conditioning import one_hot
from gan.models.halving import halve
from gan.models.heads import HeadedDiscriminator

STRIDES = (2, 1, 2, 1, 2, 1)
"""Of D's convolutions."""


@dataclass(frozen=True)
class ACGAN(BatchNormed):
    """The networks for CIFAR-10 (arXiv:1610.09585, table 2 of appendix A), without noise in the activations.

    G gets the class as a vector of zeros and a one. D's second head has an output for each class.

    Attributes:
        generator_channels: Channels of G next to the image; they double with each halving.
        discriminator_channels: Channels of D's first convolution; they double with each further one, to 32 times.
        dropout: In D, after each convolution.
    """

    generator_channels: int = 96
    discriminator_channels: int = 16
    dropout: float = 0.5

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: a linear layer, and a transposed 5×5 convolution for each doubling of the image.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "acgan")
        widths = [self.generator_channels << level for level in reversed(range(num_halvings))]
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, widths[0] * math.prod(smallest)),
            nn.ReLU(),
            nn.Unflatten(1, (widths[0], *smallest)),
        ]
        for before, after in itertools.pairwise(widths):
            layers += [_doubling(before, after, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, _doubling(widths[-1], image_shape[0], bias=True), nn.Tanh())

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build G for so many classes; raises likewise."""
        return OneHotGenerator(self.generator(latent_dim + num_classes, image_shape), num_classes)

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D without classes."""
        features, width = self._features(image_shape)
        return nn.Sequential(*features, nn.Linear(width, 1), nn.Flatten(0))

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build D with a second head that tells the class."""
        features, width = self._features(image_shape)
        return HeadedDiscriminator(features, nn.Linear(width, 1), nn.Linear(width, num_classes))

    def _features(self, image_shape: ImageShape) -> tuple[nn.Sequential, int]:
        """Return six 3×3 convolutions, three of which halve the image, and the number of their features."""
        before, height, width = image_shape
        layers: list[nn.Module] = []
        for i, stride in enumerate(STRIDES):
            after = self.discriminator_channels << i
            layers.append(nn.Conv2d(before, after, 3, stride, 1, bias=i == 0))
            layers += [nn.BatchNorm2d(after)] if i > 0 else []
            layers += [nn.LeakyReLU(0.2), nn.Dropout(self.dropout)]
            before = after
            height = math.ceil(height / stride)
            width = math.ceil(width / stride)
        return nn.Sequential(*layers, nn.Flatten()), before * height * width


def _doubling(before: int, after: int, *, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(before, after, 5, 2, padding=2, output_padding=1, bias=bias)


class OneHotGenerator(nn.Module):
    """A generator that gets a one in the place of the class, and zeros elsewhere, after its latents."""

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and classes (B,) to images (B, C, H, W)."""
        classes = one_hot(labels, self.num_classes, latents.dtype)
        images: Tensor = self.network(torch.cat([latents, classes], 1))
        return images
