"""Architectures: frozen specifications that build a generator and a discriminator for any shape of image.

A generator maps latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]; a discriminator maps such images to
logits (B,).
"""

import itertools
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from gan.errors import UsageError
from gan.models.networks import ImageShape


class Architecture(Protocol):
    """What builds both networks of a recipe, or one of them."""

    @property
    def batchnorm(self) -> bool:
        """Whether it has BatchNorm layers."""

    @property
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator: latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator: images (B, C, H, W) to logits (B,)."""


@dataclass(frozen=True)
class MLP:
    """The hidden layers of a fully connected network; the task fixes its input and output.

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
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""
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


def _halvings(image_shape: ImageShape, least: int, name: str) -> int:
    """Return how often an image is halved until a side is below twice `least`.

    Raises:
        UsageError: A side is odd before that, or the image is too small to be halved.
    """
    _, height, width = image_shape
    halvings = 0
    while min(height, width) >= 2 * least and not height % 2 and not width % 2:
        height, width, halvings = height // 2, width // 2, halvings + 1
    if not halvings or min(height, width) >= 2 * least or max(height, width) >= 4 * least:
        raise UsageError(
            f"--image-shape {' '.join(map(str, image_shape))}: {name} halves images until a side is {least} to "
            f"{2 * least - 1}; use a height and width such as 28, 32 or 64"
        )
    return halvings


@dataclass(frozen=True)
class DCGAN:
    """Strided convolutions, the channels doubled at every halving of the image (Radford et al. 2015, figure 1).

    28×28 images are halved to 7×7, 32×32 and 64×64 images to 4×4.

    Attributes:
        channels: Of the layer next to the image.
        batchnorm: BatchNorm2d in G after every layer but the last, in D after every layer but first and last.
    """

    channels: int = 64
    batchnorm: bool = True

    @property
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""
        return 2

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator of transposed convolutions with ReLU."""
        colours, height, width = image_shape
        halvings = _halvings(image_shape, 4, "dcgan")
        size = height >> halvings, width >> halvings
        widths = [self.channels << level for level in reversed(range(halvings))]
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        layers += [nn.ConvTranspose2d(latent_dim, widths[0], size, bias=not self.batchnorm)]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            layers += [nn.BatchNorm2d(before)] if self.batchnorm else []
            last = after is None
            bias = last or not self.batchnorm
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after or colours, 4, 2, 1, bias=bias)]
        return nn.Sequential(*layers, nn.Tanh())

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator of strided convolutions with LeakyReLU 0.2."""
        before, height, width = image_shape
        halvings = _halvings(image_shape, 4, "dcgan")
        layers: list[nn.Module] = []
        for level in range(halvings):
            after = self.channels << level
            normalised = self.batchnorm and level > 0
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=not normalised)]
            layers += [nn.BatchNorm2d(after)] if normalised else []
            layers += [nn.LeakyReLU(0.2)]
            before = after
        layers += [nn.Conv2d(before, 1, (height >> halvings, width >> halvings))]
        return nn.Sequential(*layers, nn.Flatten(0))


class _UpBlock(nn.Module):
    """Residual block that doubles the image: BatchNorm, ReLU, nearest upsampling, 3×3 convolution; twice."""

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
    """Residual block with spectral norm: ReLU and 3×3 convolution, twice, and a mean over 2×2 where it halves.

    The first block of a network sees the image itself, and leaves out its first ReLU.
    """

    def __init__(self, before: int, after: int, *, halves: bool, first: bool = False) -> None:
        super().__init__()
        hidden = after if first else before
        self.convolutions = nn.ModuleList(
            [spectral_norm(nn.Conv2d(*widths, 3, padding=1)) for widths in ((before, hidden), (hidden, after))]
        )
        changes = halves or before != after
        self.shortcut = spectral_norm(nn.Conv2d(before, after, 1)) if changes else nn.Identity()
        self.halves, self.first = halves, first

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W), or half the height and width."""
        h = self.convolutions[0](x if self.first else torch.relu(x))
        h = self.convolutions[1](torch.relu(h))
        total: Tensor = h + self.shortcut(x)
        return avg_pool2d(total, 2) if self.halves else total


@dataclass(frozen=True)
class SNResNet:
    """Residual networks: BatchNorm in G, spectral norm in every layer of D (Miyato et al. 2018, tables 3 and 4).

    Attributes:
        generator_channels: Of every block of G; 256 in the paper.
        discriminator_channels: Of every block of D; 128 in the paper.
    """

    generator_channels: int = 256
    discriminator_channels: int = 128

    @property
    def batchnorm(self) -> bool:
        """Whether it has BatchNorm layers; G does."""
        return True

    @property
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""
        return 4

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: a linear layer, a block for each doubling of the image, BatchNorm, ReLU, 3×3 convolution."""
        colours, height, width = image_shape
        halvings = _halvings(image_shape, 4, "sngan")
        channels, size = self.generator_channels, (height >> halvings, width >> halvings)
        return nn.Sequential(
            nn.Linear(latent_dim, channels * math.prod(size)),
            nn.Unflatten(1, (channels, *size)),
            *[_UpBlock(channels) for _ in range(halvings)],
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, colours, 3, padding=1),
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


EXPANSION = 2
R3GAN_SLOPE = 0.2


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
        widths = [self.channels << level for level in range(_halvings(image_shape, 4, "r3gan") + 1)]
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


class _SumOverPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return x.sum((2, 3))


CLASS_WIDTH = 32


class ConditionalGenerator(nn.Module):
    """A generator that takes a learned vector of the class beside its latents (Mirza and Osindero 2014, 3.2)."""

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.embedding = nn.Embedding(num_classes, CLASS_WIDTH)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and classes (B,) to images (B, C, H, W)."""
        images: Tensor = self.network(torch.cat([latents, self.embedding(labels).to(latents.dtype)], 1))
        return images


class ProjectionDiscriminator(nn.Module):
    """A discriminator that adds the product of its features with a learned vector of the class.

    ``head(φ(x)) + <v_y, φ(x)>``, where φ is summed over pixels in the product (Miyato and Koyama 2018,
    arXiv:1802.05637, equation 4).
    """

    def __init__(self, network: nn.Sequential, num_classes: int) -> None:
        super().__init__()
        self.features, self.head = network[:-2], network[-2]
        assert isinstance(self.head, nn.Linear | nn.Conv2d)
        self.embedding = nn.Embedding(num_classes, self.head.weight.shape[1])
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, C, H, W) and classes (B,) to logits (B,)."""
        features = self.features(images)
        logits: Tensor = self.head(features).flatten()
        pooled = features.view(*features.shape[:2], -1).sum(2)
        product: Tensor = self.embedding(labels).to(pooled.dtype) * pooled
        return logits + product.sum(1)


def build_generator(
    spec: Architecture, latent_dim: int, image_shape: ImageShape, num_classes: int = 0
) -> nn.Module:
    """Build G, conditional on the class where there are any."""
    if not num_classes:
        return spec.generator(latent_dim, image_shape)
    return ConditionalGenerator(spec.generator(latent_dim + CLASS_WIDTH, image_shape), num_classes)


def build_discriminator(spec: Architecture, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
    """Build D, conditional on the class where there are any."""
    network = spec.discriminator(image_shape)
    if not num_classes:
        return network
    assert isinstance(network, nn.Sequential)
    return ProjectionDiscriminator(network, num_classes)


ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    kind.__name__: kind for kind in (MLP, DCGAN, SNResNet, R3GAN)
}


def describe(spec: Any) -> dict[str, Any]:
    """Return a specification, a frozen dataclass, as JSON-ready data that names its class."""
    return {"kind": type(spec).__name__, **asdict(spec)}


def architecture(description: Any) -> Architecture:
    """Return the architecture that `describe` described; raise KeyError or ValueError if it is none."""
    if not isinstance(description, Mapping):
        raise ValueError(f"{reprlib.repr(description)} instead of an architecture")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
    }
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"kind {reprlib.repr(kind)}, not one of {', '.join(ARCHITECTURES)}")
    types = get_type_hints(ARCHITECTURES[kind])
    for name, value in settings.items():
        if name not in types or not _fits(value, types[name]):
            raise ValueError(f"{reprlib.repr(name)} {reprlib.repr(value)} of {kind}")
    try:
        return ARCHITECTURES[kind](**settings)
    except TypeError as error:  # a setting without a default is missing
        raise ValueError(str(error)) from error


def _fits(value: Any, kind: Any) -> bool:
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_fits(number, int) for number in value)
    if kind is int:
        return type(value) is int and value > 0
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return isinstance(value, kind)
