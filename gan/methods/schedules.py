"""Numbers that change while a GAN trains, with images seen for a clock."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """From `begin` to `end` along half a cosine, and `end` from then on.

    ``end + (begin - end) (1 + cos(π seen / images)) / 2`` (Loshchilov and Hutter 2017, arXiv:1608.03983, equation
    5, without restarts).

    Attributes:
        begin: The value at the first image.
        end: The value after `images`.
        images: Real images until then, over all processes.
    """

    begin: float
    end: float
    images: int


Scheduled = float | Cosine


def at(value: Scheduled, images_seen: int) -> float:
    """Return what a number is after so many images."""
    if not isinstance(value, Cosine):
        return value
    part = min(images_seen / value.images, 1.0)
    return value.end + (value.begin - value.end) * (1 + math.cos(math.pi * part)) / 2
