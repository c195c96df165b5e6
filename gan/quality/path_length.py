"""Perceptual path length: how much images of a style-based generator change along a path of styles.

Karras et al. 2019 (arXiv:1812.04948, section 4.1), as Karras et al. 2020 (arXiv:1912.04958) measure it: between
styles, at one end of the path, of whole images. The code of the latter does not truncate styles
(github.com/NVlabs/stylegan2, metrics/perceptual_path_length.py). Here a generator may truncate its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from gan.errors import UsageError
from gan.models.networks import evaluating
from gan.process.place import Place
from gan.process.watch import doing
from gan.seeds import derive_seed, seed_default_generator

EPSILON = 1e-4
"""The share of the path from one end that two images are apart."""
PERCENTILES = (1, 99)
"""Lengths outside of these are left out, as by the authors."""
LARGEST = 256
"""Larger images are averaged down to this height, as by the authors."""


@runtime_checkable
class StyleBased(Protocol):
    """A generator that maps latents to styles, and styles to images."""

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the styles (B, layers, width) of latents (B, D)."""

    def synthesis(self, styles: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of styles."""


@dataclass(frozen=True)
class Paths:
    """Which paths are measured.

    Attributes:
        latent_dim: Width of the latents.
        num_paths: Number of paths, over all processes.
        batch_size: Paths at once.
        label_frequencies: Frequency of each class that is drawn, shape (C,); None for a generator without classes.
        seed: Seed of latents, classes and noise.
    """

    latent_dim: int
    num_paths: int
    batch_size: int
    label_frequencies: Tensor | None
    seed: int


def require_style_based(generator: nn.Module, label: object) -> StyleBased:
    """Return a generator whose paths can be measured.

    Args:
        generator: The generator.
        label: The run that it is of, for the error.

    Raises:
        UsageError: It has no styles.
    """
    if not isinstance(generator, StyleBased):
        raise UsageError(f"--ppl: the generator of {label} is not style-based, and has no paths; leave --ppl out")
    return generator


@torch.no_grad()
def path_lengths(
    generator: StyleBased, distance: Callable[[Tensor, Tensor], Tensor], paths: Paths, place: Place
) -> Tensor:
    """Return the length of each path, float64 (N,); every process gets those of all.

    The result is the same for any number of processes: batches are dealt out to them whole.

    Args:
        generator: Used in evaluation mode.
        distance: Perceptual distances (B,) of two sets of images (B, C, H, W) in [-1, 1].
        paths: Which paths.
        place: Says which batches this process takes, and on which device.
    """
    assert isinstance(generator, nn.Module)
    made: list[tuple[int, Tensor]] = []
    with evaluating(generator):
        for index, first in enumerate(range(0, paths.num_paths, paths.batch_size)):
            doing("the path lengths of batch", index + 1)
            if index % place.world_size == place.rank:
                count = min(paths.batch_size, paths.num_paths - first)
                made.append((index, _lengths(generator, distance, paths, index, count, place.device)))
    doing("gathering the path lengths")
    batches = sorted(gather_object(made), key=lambda batch: int(batch[0]))
    return torch.cat([lengths for _, lengths in batches])


def _lengths(
    generator: StyleBased,
    distance: Callable[[Tensor, Tensor], Tensor],
    paths: Paths,
    index: int,
    count: int,
    device: torch.device,
) -> Tensor:
    source = torch.Generator().manual_seed(derive_seed(paths.seed, "path latents", index))
    latents = torch.randn(2 * count, paths.latent_dim, generator=source).to(device)
    labels = None
    if paths.label_frequencies is not None:
        drawn = torch.multinomial(paths.label_frequencies, count, replacement=True, generator=source)
        labels = drawn.repeat(2).to(device)
    start, end = generator.styles(latents, labels).chunk(2)
    images = []
    for styles in (start, start.lerp(end, EPSILON)):
        seed_default_generator(device, derive_seed(paths.seed, "path noise", index))  # the same noise in both
        images.append(_at_most_largest(generator.synthesis(styles)))
    return distance(*images).double().cpu() / EPSILON**2


def _at_most_largest(images: Tensor) -> Tensor:
    factor = images.shape[2] // LARGEST
    return nn.functional.avg_pool2d(images, factor) if factor > 1 else images


def perceptual_path_length(lengths: Tensor) -> float:
    """Return the mean of path lengths (N,) between their PERCENTILES.

    >>> perceptual_path_length(torch.tensor([1.0] * 996 + [1000.0, 0.0] * 2))
    1.0
    """
    values = lengths.numpy()
    least, most = PERCENTILES
    lowest = np.percentile(values, least, method="lower")
    highest = np.percentile(values, most, method="higher")
    return float(values[(values >= lowest) & (values <= highest)].mean())


def stamp_of(paths: Paths) -> dict[str, Any]:
    """Return the conditions of a perceptual path length, JSON-ready."""
    return {
        "num_paths": paths.num_paths,
        "batch_size": paths.batch_size,
        "epsilon": EPSILON,
        "space": "styles",
        "sampling": "end",
        "crop": "none",
        "percentiles": list(PERCENTILES),
    }
