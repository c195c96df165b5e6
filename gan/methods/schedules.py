"""Settings that change while a GAN trains. Images seen is their clock."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """A number that goes from `begin` to `end` along half a cosine, and then stays at `end`.

    ``end + (begin - end) (1 + cos(π images_seen / images)) / 2`` (Loshchilov and Hutter 2017, arXiv:1608.03983,
    equation 5, without restarts).

    Attributes:
        begin: The value at the first image.
        end: The value after `images`.
        images: Real images, over all processes, after which the value is `end`.
    """

    begin: float
    end: float
    images: int


Scheduled = float | Cosine
"""A constant, or a schedule."""


def at(value: Scheduled, images_seen: int) -> float:
    """Return the value of a setting after `images_seen` real images.

    >>> [round(at(Cosine(2.0, 1.0, images=100), images_seen), 3) for images_seen in (0, 50, 100, 200)]
    [2.0, 1.5, 1.0, 1.0]
    >>> at(0.5, 100)
    0.5
    """
    if not isinstance(value, Cosine):
        return value
    progress = min(images_seen / value.images, 1.0)
    return value.end + (value.begin - value.end) * (1 + math.cos(math.pi * progress)) / 2
