"""The features of real images on disk: of the same images under the same conditions they need computing once.

A file is named after a digest of the images' contents and of all that the features depend on, so it is never out
of date. It appears whole or not at all, and may be deleted at any time.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gan.data.datasets import ImageSource
from gan.data.streamed import StreamedImages
from gan.files.atomic import whole_file
from gan.images import to_uint8
from gan.process.memory import size_in_words
from gan.process.place import Place
from gan.process.watch import doing
from gan.quality.scores import Features

FORMAT = "gan-features/1"
NO_CACHE = "none"
"""The path that asks for no cache."""


def default_cache() -> Path:
    """Return the directory of the cache where the user names none."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gan-bench"


@dataclass(frozen=True)
class FeatureCache:
    """A directory of features.

    Attributes:
        directory: The directory; None keeps nothing.
        say: Prints a line.
    """

    directory: Path | None
    say: Callable[[str], object]

    def path_of(self, key: str) -> Path | None:
        """Return the file of a key; None without a directory."""
        return None if self.directory is None else self.directory / f"features_{key}.safetensors"

    def read(self, key: str) -> Features | None:
        """Return kept features; None if there are none, or if their file is damaged."""
        path = self.path_of(key)
        if path is None or not path.is_file():
            return None
        try:
            kept = load(path.read_bytes())
            features = Features(kept["features"].double(), kept["probabilities"].double())
        except (OSError, SafetensorError, KeyError) as error:
            reason = " ".join(str(error).split())[:120]
            self.say(f"note: {path}: damaged ({reason}); the features are computed again")
            return None
        self.say(f"features of {len(features.features):,} real images from {path}")
        return features

    def keep(self, key: str, features: Features) -> None:
        """Write features for the next evaluation; where that fails, say so and go on."""
        path = self.path_of(key)
        if path is None:
            return
        tensors = {"features": features.features.float(), "probabilities": features.probabilities.float()}
        content = save(tensors, {"format": FORMAT})  # Inception computes in float32, so nothing is lost
        try:
            with whole_file(path) as file:
                file.write(content)
        except OSError as error:
            self.say(f"note: {path}: features of real images not kept ({error.strerror or error})")
            return
        self.say(
            f"features of {len(features.features):,} real images kept in {path}, {size_in_words(len(content))}"
        )


def key_of(contents: str, conditions: dict[str, Any]) -> str:
    """Return the name of features.

    Args:
        contents: Digest of the images.
        conditions: All else that the features depend on, JSON-ready.
    """
    text = json.dumps([FORMAT, contents, conditions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def contents_of(dataset: ImageSource, rows: Tensor, batch_size: int, place: Place) -> str:
    """Return a digest of chosen images of a dataset; empty on other ranks than 0.

    Of stored images the files are digested as they are, which is faster than decoding them. Their shape is a
    condition of its own.
    """
    digest = hashlib.sha256()
    batches = rows.split(batch_size)
    streamed = dataset if isinstance(dataset, StreamedImages) else None
    pixels = iter(()) if streamed or not place.is_main else dataset.stream(batches)
    for number, batch in enumerate(batches, 1):
        doing("the digest of real batch", number)
        if not place.is_main:
            continue
        if streamed is None:
            digest.update(to_uint8(next(pixels)).cpu().numpy().tobytes())
            continue
        for index in batch.tolist():
            digest.update(hashlib.sha256(streamed.encoded(index)).digest())
    return digest.hexdigest() if place.is_main else ""


def cached_features(
    cache: FeatureCache, key: str, compute: Callable[[], Features], place: Place, num_features: int
) -> Features:
    """Return features from the cache, or compute and keep them; all ranks compute together.

    Args:
        cache: Of rank 0.
        key: What `key_of` returned on rank 0.
        compute: Computes the features on all ranks.
        place: Of this process.
        num_features: Width of the features.

    Returns:
        The features. If they were kept, other ranks than 0 get none of them.
    """
    kept = cache.read(key) if place.is_main else None
    doing("asking for kept features")
    is_kept = [kept is not None]
    broadcast_object_list(is_kept)
    if kept is not None:
        return kept
    if is_kept[0]:
        return Features(torch.empty(0, num_features, dtype=torch.float64), torch.empty(0, 0, dtype=torch.float64))
    features = compute()
    if place.is_main:
        cache.keep(key, features)
    return features
