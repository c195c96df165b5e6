"""By whose features images are scored: those of Inception-v3 or of a small classifier."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from gan.data.datasets import ImageSource
from gan.data.streamed import StreamedImages
from gan.process.place import Place
from gan.quality.feature_cache import NO_CACHE, FeatureCache, cached_features, contents_of, default_cache, key_of
from gan.quality.inception import NUM_FEATURES, PUBLISHED, Inception, require_channels, require_library
from gan.quality.judge import Judge, judge_of
from gan.quality.paper import PaperJudge, features_of_rows, real_rows
from gan.quality.real_images import label_frequencies_of
from gan.quality.scores import Features
from gan.quality.weights import checked_weights
from gan.run_options import EvaluateOptions
from gan.session.subject import Subject


def inception_of(options: EvaluateOptions, device: torch.device) -> Inception:
    """Return Inception-v3 with the weights that the options name.

    Raises:
        UsageError: The extra or the weights are missing.
    """
    require_library()
    weights = checked_weights(
        PUBLISHED,
        options.inception_weights,
        "--backbone inception",
        options.inception_sha256,
        "--inception-sha256",
    )
    return Inception(weights, options.resize, device)


def judge_for(
    inception: Inception | None,
    options: EvaluateOptions,
    subject: Subject,
    dataset: ImageSource,
    num_images: int,
    place: Place,
    say: Callable[[str], object],
) -> Judge | PaperJudge:
    """Return the judge of images; all ranks call this together.

    Args:
        inception: Extracts the features; None for a small classifier.
        options: What was asked.
        subject: What is scored.
        dataset: The real images.
        num_images: Number of images that are scored.
        place: Says which real images this process takes.
        say: Prints a line, on rank 0.

    Raises:
        UsageError: The dataset has too few images, or images or classes that the extractor does not take.
    """
    if inception is None:
        return judge_of(subject.dataset, dataset, num_images, options.extractor or subject.begun.extractor)
    require_channels(dataset.image_shape[0])
    rows = real_rows(subject.dataset, len(dataset), options.num_real)
    real = _real_features(inception, options, dataset, rows, place, say)
    frequencies = label_frequencies_of(dataset)
    return PaperJudge(inception, real, rows, frequencies, num_images, options.batch_size, place.device)


def _real_features(
    inception: Inception,
    options: EvaluateOptions,
    dataset: ImageSource,
    rows: Tensor,
    place: Place,
    say: Callable[[str], object],
) -> Features:
    """Return the features of the rows of a dataset, from the cache where it has them."""
    directory = options.cache or default_cache()
    cache = FeatureCache(None if options.cache == Path(NO_CACHE) else directory, say)
    compute = partial(features_of_rows, inception, dataset, rows, options.batch_size, place, say)
    if cache.directory is None:
        return compute()
    conditions = {
        "image_shape": dataset.image_shape,
        "batch_size": options.batch_size,
        "device": place.device.type,
        "torch": torch.__version__,
        **({"pillow": version("pillow")} if isinstance(dataset, StreamedImages) else {}),  # it decodes and resizes
        **inception.stamp(),
    }
    key = key_of(contents_of(dataset, rows, options.batch_size, place), conditions)
    return cached_features(cache, key, compute, place, NUM_FEATURES)
