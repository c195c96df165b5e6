"""How a run's generator is sampled: truncated latents or styles, and standing statistics of BatchNorm."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gan.errors import UsageError
from gan.methods.truncation import normal_latents
from gan.models.batch_statistics import has_batchnorm, take_standing_statistics
from gan.models.style_generator import StyleGenerator
from gan.quality.path_length import StyleBased
from gan.run_options import EvaluateOptions, SampleOptions
from gan.seeds import derive_seed, seed_default_generator
from gan.training.checkpoints import TrainedGenerator

STANDING_BATCH_SIZE = 64
"""Images of a batch of which BatchNorm's statistics are taken."""


def prepare_sampling(
    generator: TrainedGenerator, options: SampleOptions | EvaluateOptions, label: object, device: torch.device
) -> None:
    """Truncate a generator's styles and take BatchNorm's statistics anew, where the options ask for it.

    Every process does all of it, so they all get the same generator.

    Args:
        generator: Its network is changed.
        options: What was asked.
        label: The run that it is of, for errors.
        device: Where its network is.

    Raises:
        UsageError: The generator has no BatchNorm, or styles without an average one.
    """
    network = generator.network
    if options.truncation is not None:
        if isinstance(network, StyleGenerator):
            network.truncation = options.truncation
        elif isinstance(network, StyleBased):
            raise UsageError(
                f"--truncation: the generator of {label} has styles, and no average style to move them to; "
                "leave it out"
            )
    if options.standing_statistics:
        if not has_batchnorm(network):
            raise UsageError(f"--standing-statistics: the generator of {label} has no BatchNorm; leave it out")
        seed_default_generator(device, derive_seed(options.seed, "standing noise"))
        take_standing_statistics(network, _batches(generator, options, device))


def _batches(
    generator: TrainedGenerator, options: SampleOptions | EvaluateOptions, device: torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the latents, and classes if conditional, of which BatchNorm's statistics are taken."""
    count = options.standing_statistics * STANDING_BATCH_SIZE
    latents = latents_for("standing statistics", count, generator, options)
    labels = classes_in_turn(generator, count, generator.num_classes)
    parts = [tensor.split(STANDING_BATCH_SIZE) for tensor in (latents, labels) if tensor is not None]
    for batch in zip(*parts, strict=True):
        yield tuple(part.to(device) for part in batch)


def latent_threshold(generator: TrainedGenerator, options: SampleOptions | EvaluateOptions) -> float | None:
    """Return how far from 0 a number of the latents may be; None if latents are not truncated, as with styles."""
    return None if isinstance(generator.network, StyleGenerator) else options.truncation


def latents_for(
    purpose: str, count: int, generator: TrainedGenerator, options: SampleOptions | EvaluateOptions
) -> Tensor:
    """Return the latents of a purpose, such as "grid", shape (count, latent_dim), on the CPU."""
    source = torch.Generator().manual_seed(derive_seed(options.seed, purpose))
    return normal_latents(count, generator.latent_dim, latent_threshold(generator, options), source)


def classes_in_turn(generator: TrainedGenerator, count: int, num_classes: int) -> Tensor | None:
    """Return the first so many classes, at most all, in turn; shape (count,), None for an unconditional generator.

    A grid may have more columns than the generator has classes. Classes without images, which it was not trained
    on, are left out.
    """
    if not generator.num_classes:
        return None
    classes = torch.tensor(generator.classes[:num_classes])
    return classes[torch.arange(count) % len(classes)]


def stamp_of_sampling(generator: TrainedGenerator, options: EvaluateOptions) -> dict[str, Any]:
    """Return how images were sampled, JSON-ready: scores compare only where it is equal."""
    truncation: dict[str, Any] | None = None
    if options.truncation is not None:
        of_styles = isinstance(generator.network, StyleGenerator)
        truncation = {"of": "styles" if of_styles else "latents", "value": options.truncation}
    statistics: dict[str, Any] | None = None
    if options.standing_statistics:
        statistics = {"num_batches": options.standing_statistics, "batch_size": STANDING_BATCH_SIZE}
    return {"truncation": truncation, "standing_statistics": statistics}
