"""Settings that change while a GAN trains. Images seen is their clock."""

import math
from dataclasses import dataclass, field


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


@dataclass(frozen=True)
class Linear:
    """A number that goes from `begin` to `end` along a straight line, and then stays at `end`.

    ``begin + (end - begin) images_seen / images``.

    Attributes:
        begin: The value at the first image.
        end: The value after `images`.
        images: Real images, over all processes, after which the value is `end`.
        curve: Tells a record of this schedule from one of a Cosine, whose fields are the same.
    """

    begin: float
    end: float
    images: int
    curve: str = field(default="linear", init=False, repr=False)


Scheduled = float | Cosine | Linear
"""A constant, or a schedule."""


def changes(value: Scheduled) -> bool:
    """Say whether a setting changes with images seen."""
    return isinstance(value, Cosine | Linear)


def at(value: Scheduled, images_seen: int) -> float:
    """Return the value of a setting after `images_seen` real images.

    >>> [round(at(Cosine(2.0, 1.0, images=100), images_seen), 3) for images_seen in (0, 50, 100, 200)]
    [2.0, 1.5, 1.0, 1.0]
    >>> [at(Linear(2.0, 1.0, images=100), images_seen) for images_seen in (0, 25, 100, 200)]
    [2.0, 1.75, 1.0, 1.0]
    >>> at(0.5, 100)
    0.5
    """
    if not isinstance(value, Cosine | Linear):
        return value
    progress = min(images_seen / value.images, 1.0)
    if isinstance(value, Linear):
        return value.begin + (value.end - value.begin) * progress
    return value.end + (value.begin - value.end) * (1 + math.cos(math.pi * progress)) / 2
