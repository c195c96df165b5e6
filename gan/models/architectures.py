"""Architectures: frozen specifications that build a generator and a discriminator for any shape of image.

A generator maps latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]; a discriminator maps such images to
logits (B,).
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, get_type_hints

from torch import nn

from gan.images import ImageShape
from gan.models.conditioning import CLASS_WIDTH, ConditionalGenerator, ProjectionDiscriminator
from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.models.r3gan import R3GAN
from gan.models.sngan import SNResNet


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


ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    kind.__name__: kind for kind in (MLP, DCGAN, SNResNet, R3GAN)
}


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
