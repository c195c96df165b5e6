"""ARCHITECTURES: frozen specifications that build a generator and a discriminator for any shape of image.

A generator maps latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]; a discriminator maps such images to
logits (B,).
"""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, Protocol, get_type_hints, runtime_checkable

from torch import nn

from gan.errors import UsageError
from gan.images import ImageShape
from gan.models.acgan import ACGAN
from gan.models.biggan import BigGAN
from gan.models.conditioning import CLASS_WIDTH, ConditionalGenerator, ProjectionDiscriminator
from gan.models.dcgan import DCGAN
from gan.models.infogan import InfoGAN
from gan.models.mlp import MLP
from gan.models.networks import only_runs_layers
from gan.models.r3gan import R3GAN, WideR3GAN
from gan.models.sagan import SAGAN
from gan.models.sngan import SNResNet, WGANResNet
from gan.models.stylegan2 import StyleGAN2


class Architecture(Protocol):
    """A specification of both networks of a recipe, or of one of them."""

    @property
    def batchnorm(self) -> bool:
        """Whether a network of it has BatchNorm layers."""

    @property
    def min_generator_tensors(self) -> int:
        """A lower bound on the tensors of a saved generator.

        A damaged specification with billions of layers is refused by it before any layer is built.
        """

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator: latents (B, latent_dim) to images (B, C, H, W) in [-1, 1]."""

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator: images (B, C, H, W) to logits (B,)."""


@runtime_checkable
class ClassConditioning(Protocol):
    """What a specification has besides if it brings its own way to condition networks on the class.

    Of any other, G gets a learned vector of the class beside its latents, and D the projection
    (`gan.models.conditioning`).
    """

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build a generator: latents (B, latent_dim) and classes (B,) to images (B, C, H, W) in [-1, 1]."""

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build a discriminator: images (B, C, H, W) and classes (B,) to logits (B,)."""


ARCHITECTURES: dict[str, Callable[..., Architecture]] = {
    "MLP": MLP,
    "DCGAN": DCGAN,
    "SNResNet": SNResNet,
    "R3GAN": R3GAN,
    "StyleGAN2": StyleGAN2,
    "WGANResNet": WGANResNet,
    "WideR3GAN": WideR3GAN,
    "SAGAN": SAGAN,
    "BigGAN": BigGAN,
    "ACGAN": ACGAN,
    "InfoGAN": InfoGAN,
}
"""By the name of the class, which is the `kind` in saved generators and run folders."""


def build_generator(
    spec: Architecture, latent_dim: int, image_shape: ImageShape, num_classes: int = 0
) -> nn.Module:
    """Build G; conditional on the class unless `num_classes` is 0.

    Raises:
        UsageError: The architecture has no networks for images of this shape.
    """
    if not num_classes:
        return spec.generator(latent_dim, image_shape)
    if isinstance(spec, ClassConditioning):
        return spec.conditional_generator(latent_dim, image_shape, num_classes)
    return ConditionalGenerator(spec.generator(latent_dim + CLASS_WIDTH, image_shape), num_classes)


def build_discriminator(spec: Architecture, image_shape: ImageShape, num_classes: int = 0) -> nn.Module:
    """Build D; conditional on the class unless `num_classes` is 0.

    Raises:
        UsageError: The architecture has no networks for images of this shape.
    """
    if num_classes and isinstance(spec, ClassConditioning):
        return spec.conditional_discriminator(image_shape, num_classes)
    network = spec.discriminator(image_shape)
    if not num_classes:
        return network
    # its last layers are taken apart, so that a forward of its own would be that of the others
    if not only_runs_layers(network) or not isinstance([None, None, *network][-2], nn.Linear | nn.Conv2d):
        raise UsageError(
            f"{type(spec).__name__}: D of a conditional recipe must be an nn.Sequential that ends with the linear "
            "or convolutional layer of the logit, and an nn.Flatten, and has no forward of its own"
        )
    return ProjectionDiscriminator(network, num_classes)


def describe(spec: Any) -> dict[str, Any]:
    """Return a frozen dataclass, such as an architecture or a loss, as JSON-ready data that names its class.

    >>> describe(MLP((256, 256), negative_slope=0.2))
    {'kind': 'MLP', 'widths': (256, 256), 'negative_slope': 0.2, 'dropout': 0.0, 'batchnorm': False}
    """
    return {"kind": type(spec).__name__, **asdict(spec)}


def with_values(spec: Any, values: Mapping[str, Any]) -> Any:
    """Return a frozen dataclass with the values that `describe` returned of another one, read back from JSON.

    Fields may be dataclasses themselves. Those that are no arguments of their class keep what they are.

    >>> with_values(MLP((256,)), {"widths": [512, 512]}).widths
    (512, 512)

    Raises:
        TypeError: There is no such field.
    """
    fixed = {field.name for field in fields(spec) if not field.init}
    changed = {
        name: with_values(getattr(spec, name), value)
        if isinstance(value, Mapping) and is_dataclass(getattr(spec, name, None))
        else _as_tuples(value)
        for name, value in values.items()
        if name not in fixed
    }
    return replace(spec, **changed)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def is_built_in(spec: Any) -> bool:
    """Say whether an architecture is one of ours, which can be rebuilt from a description alone."""
    return ARCHITECTURES.get(type(spec).__name__) is type(spec)


def architecture(description: Any) -> Architecture:
    """Return the architecture that `describe` described, read back from JSON.

    >>> architecture({"kind": "MLP", "widths": [256, 256]})
    MLP(widths=(256, 256), negative_slope=0.0, dropout=0.0, batchnorm=False)

    Raises:
        KeyError: There is no architecture of this kind.
        ValueError: The description is not an object, or a setting of it is missing, unknown or out of range.
    """
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
    """Say whether a setting has the type of its field; whole numbers must be positive, others not negative."""
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_fits(number, int) for number in value)
    if kind is int:
        return type(value) is int and value > 0
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return isinstance(value, kind)
