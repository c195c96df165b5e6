"""The features of many images, batch by batch, by all processes together."""

import time
from collections.abc import Callable

import torch
from accelerate.utils import gather_object
from torch import Tensor

from gan.process.place import Place
from gan.process.watch import doing
from gan.quality.scores import Features

SECONDS_BETWEEN_NEWS = 30.0
"""Of a long extraction of features."""


@torch.no_grad()
def features_of_batches(
    extract_features: Callable[[Tensor], Features],
    batch: Callable[[int], Tensor],
    num_batches: int,
    place: Place,
    activity: str,
    say: Callable[[str], object] = lambda _: None,
) -> Features:
    """Return the features of all batches of images, in their order; every process gets those of all.

    The result is the same for any number of processes: batches are dealt out to them whole.

    Args:
        extract_features: Features of uint8 images (B, C, H, W).
        batch: A batch of images by index. A process asks for its own ones only, in their order.
        num_batches: Over all processes.
        place: Says which batches this process takes.
        activity: What the watch over other ranks calls the work on a batch.
        say: Prints a line now and then, if there is much to do.
    """
    made: list[tuple[int, Tensor, Tensor]] = []  # batch, features, probabilities
    news_due = time.monotonic() + SECONDS_BETWEEN_NEWS
    for index in range(num_batches):
        doing(activity, index + 1)
        if time.monotonic() > news_due:
            say(f"{activity} {index + 1:,} of {num_batches:,}")
            news_due = time.monotonic() + SECONDS_BETWEEN_NEWS
        if index % place.world_size == place.rank:
            extracted = extract_features(batch(index))
            made.append((index, extracted.features, extracted.probabilities))
    doing("gathering the features")  # by itself: who still makes a batch is then behind
    batches = sorted(gather_object(made), key=lambda gathered: int(gathered[0]))
    _, features, probabilities = zip(*batches, strict=True)
    return Features(torch.cat(features), torch.cat(probabilities))
