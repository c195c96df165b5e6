"""Fully connected networks."""

import math
from dataclasses import dataclass

from torch import nn

from gan.images import ImageShape


@dataclass(frozen=True)
class MLP:
    """The hidden layers of a fully connected network. Its input and output follow from the images and latents.

    Attributes:
        widths: Units of each hidden layer, from the input on.
        negative_slope: LeakyReLU's slope; 0 is ReLU.
        dropout: Probability after each hidden activation; 0 is none.
        batchnorm: BatchNorm1d between each hidden layer and its activation.
    """

    widths: tuple[int, ...]
    negative_slope: float = 0.0
    dropout: float = 0.0
    batchnorm: bool = False

    @property
    def min_generator_tensors(self) -> int:
        """Weight and bias of each linear layer, the last one included."""
        return 2 * len(self.widths) + 2

    def layers(self, num_inputs: int, num_outputs: int) -> list[nn.Module]:
        """Return the layers from `num_inputs` to `num_outputs`; the last one is linear."""
        layers: list[nn.Module] = []
        for width in self.widths:
            layers.append(nn.Linear(num_inputs, width))
            if self.batchnorm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.LeakyReLU(self.negative_slope) if self.negative_slope else nn.ReLU())
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            num_inputs = width
        return [*layers, nn.Linear(num_inputs, num_outputs)]

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator: latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""
        layers = self.layers(latent_dim, math.prod(image_shape))
        return nn.Sequential(*layers, nn.Tanh(), nn.Unflatten(1, image_shape))

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator: images (B, C, H, W) to logits (B,)."""
        return nn.Sequential(nn.Flatten(), *self.layers(math.prod(image_shape), 1), nn.Flatten(0))
