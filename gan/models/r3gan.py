"""Residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441)."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan.images import ImageShape
from gan.models.halving import halve
from gan.models.initialization import WeightsOf

EXPANSION = 2
"""Channels inside a block as a multiple of those outside."""
NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class R3GAN:
    """Residual networks without normalisation (Huang et al. 2024, arXiv:2501.05441, section 3 and figure 2).

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
    def own_weights(self) -> WeightsOf:
        """Layers are drawn by their depth, the last one of a block as 0."""
        return "drawn"

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
            layers += [*_transition(before, after), nn.Upsample(scale_factor=2, mode="bilinear"), *blocks]
        return nn.Sequential(*layers, _draw_weights(nn.Conv2d(self.channels, image_shape[0], 1, bias=False)))

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D, G's mirror image: at the end a learned basis for each channel and a linear layer.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        return nn.Sequential(*self._discriminator_layers(image_shape, num_outputs=1), nn.Flatten(0))

    def _discriminator_layers(self, image_shape: ImageShape, num_outputs: int) -> list[nn.Module]:
        """Return the layers from images (B, C, H, W) to outputs (B, num_outputs)."""
        num_halvings, smallest = halve(image_shape, "r3gan")
        stages = self._stages(num_halvings)
        width, blocks = stages[0]
        layers: list[nn.Module] = [_draw_weights(nn.Conv2d(image_shape[0], width, 1, bias=False)), *blocks]
        for (before, _), (after, blocks) in itertools.pairwise(stages):
            # the mean over 2×2 pixels is bilinear interpolation by a half
            layers += [nn.AvgPool2d(2), *_transition(before, after), *blocks]
        last = stages[-1][0]
        layers += [_draw_weights(nn.Conv2d(last, last, smallest, groups=last, bias=False)), nn.Flatten()]
        return [*layers, _draw_weights(nn.Linear(last, num_outputs, bias=False))]

    def _stages(self, num_halvings: int) -> list[tuple[int, list[nn.Module]]]:
        """Return the channels and the blocks at each size, the image's own size first."""
        widths = self._widths(num_halvings)
        total = self.blocks * len(widths)
        return [
            (width, [_ResidualBlock(width, self.group_width, total) for _ in range(self.blocks)])
            for width in widths
        ]

    def _widths(self, num_halvings: int) -> list[int]:
        """Return the channels at each size, the image's own size first."""
        return [self.channels << level for level in range(num_halvings + 1)]


@dataclass(frozen=True)
class WideR3GAN(R3GAN):
    """R3GAN as its authors configure it: no size has more than so many channels, and classes are their way.

    `channels` is 768 for CIFAR-10, and 384 for FFHQ at 64×64 (arXiv:2501.05441, and its authors' presets). A
    class is a linear function beside G's latents, of the latents' width. D's logit is the product of its features
    with a learned vector of the class.

    Attributes:
        most_channels: Channels at a size where doubling them further would give more.
    """

    most_channels: int = 768

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build G for so many classes; raises as `generator` does."""
        return _ClassGenerator(self.generator(2 * latent_dim, image_shape), num_classes, latent_dim)

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build D for so many classes; raises as `discriminator` does."""
        num_halvings, _ = halve(image_shape, "r3gan")
        width = self._widths(num_halvings)[-1]
        features = nn.Sequential(*self._discriminator_layers(image_shape, num_outputs=width))
        return _ClassDiscriminator(features, num_classes, width)

    def _widths(self, num_halvings: int) -> list[int]:
        return [min(width, self.most_channels) for width in super()._widths(num_halvings)]


class _ClassGenerator(nn.Module):
    """A generator that gets a linear function of the class after its latents."""

    def __init__(self, network: nn.Module, num_classes: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.embedding = _class_vectors(num_classes, width)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and classes (B,) to images (B, C, H, W)."""
        images: Tensor = self.network(torch.cat([latents, self.embedding(labels).to(latents.dtype)], 1))
        return images


class _ClassDiscriminator(nn.Module):
    """A discriminator whose logit is the product of features with a linear function of the class."""

    def __init__(self, features: nn.Module, num_classes: int, width: int) -> None:
        super().__init__()
        self.features = features
        self.embedding = _class_vectors(num_classes, width)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, C, H, W) and classes (B,) to logits (B,)."""
        features: Tensor = self.features(images)
        products: Tensor = features * self.embedding(labels).to(features.dtype)
        return products.sum(1)


def _class_vectors(num_classes: int, width: int) -> nn.Embedding:
    """Return a linear layer of classes: normal with variance 1 / num_classes, as for any other linear layer."""
    embedding = nn.Embedding(num_classes, width)
    nn.init.normal_(embedding.weight, 0.0, num_classes**-0.5)
    return embedding


def _transition(before: int, after: int) -> list[nn.Module]:
    """Return what changes the number of channels between two sizes; nothing where it stays."""
    return [] if before == after else [_draw_weights(nn.Conv2d(before, after, 1, bias=False))]


class _ResidualBlock(nn.Module):
    """Inverted bottleneck with a grouped 3×3 convolution; a new one adds nothing to its input.

    Fixup initialisation (Zhang et al. 2019, arXiv:1901.09321): the last of the m = 3 layers begins at zero. In the
    others He's gain is scaled by L^(-1 / (2m - 2)) = L^(-1/4), where L is the network's number of blocks, so that
    an update changes the output by as much however deep the network is.
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
