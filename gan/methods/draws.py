"""Random numbers of one distribution from those of another: pure functions, the same on one process and on many.

Nothing here draws. Uniform numbers come in, a row for each image, so no image depends on another one.
"""

import math

import torch
from torch import Tensor

LEAST = 2.0**-25
"""Uniform numbers that normal ones are made of are kept this far from 0, where those would be infinite."""
BITS = 24
"""Of a uniform number in fp32."""
MASK = 2**32 - 1
MULTIPLIER = 0x45D9F3B
"""Mixes 32 bits within the 63 of an int64; products stay below 2 ** 59."""


class Draws:
    """The random numbers of a chain of transformations, taken from uniform ones column by column.

    Args:
        uniform: A row for each image, on [0, 1), shape (B, n).
        probability: Of each transformation, a scalar from 0 to 1.

    Attributes:
        any_applied: Whether a transformation so far is applied to an image, shape (B,).
    """

    def __init__(self, uniform: Tensor, probability: Tensor) -> None:
        self._columns = iter(uniform.unbind(1))
        self.probability = probability
        self.any_applied = torch.zeros(len(uniform), dtype=torch.bool, device=uniform.device)

    def applied(self, probability: Tensor | None = None) -> Tensor:
        """Return whether the next transformation is applied to each image, bools of shape (B,)."""
        applied = next(self._columns) < (self.probability if probability is None else probability)
        self.any_applied = self.any_applied | applied
        return applied

    def uniform(self, low: float, high: float) -> Tensor:
        """Return numbers (B,) on [low, high)."""
        return low + (high - low) * next(self._columns)

    def whole(self, count: int) -> Tensor:
        """Return whole numbers (B,) from 0 to count - 1, as floating-point ones."""
        return (next(self._columns) * count).floor().clamp(max=count - 1)

    def normal(self) -> Tensor:
        """Return standard normal numbers (B,), by the inverse of their distribution function."""
        uniform = next(self._columns).clamp(min=LEAST, max=1 - 2 * LEAST)
        return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def many_uniform(seeds: Tensor, count: int) -> Tensor:
    """Return `count` uniform numbers on (0, 1] for each row of `seeds`: a function of that row, shape (B, count).

    So an image takes few random numbers from outside, and has noise in every pixel. The hash of seeds and position
    looks random; it is no generator for cryptography or for long simulations.

    Args:
        seeds: Uniform on [0, 1), shape (B, n); the first BITS bits of each count.
        count: How many numbers.
    """
    keys = torch.zeros(len(seeds), 1, dtype=torch.int64, device=seeds.device)
    for column in (seeds * 2**BITS).long().unbind(1):
        keys = _mixed(keys + column.unsqueeze(1) + 1)
    hashed = _mixed(_mixed(torch.arange(1, count + 1, device=seeds.device) * MULTIPLIER + keys))
    uniform: Tensor = ((hashed >> (32 - BITS)).to(seeds.dtype) + 0.5) / 2**BITS
    return uniform


def _mixed(numbers: Tensor) -> Tensor:
    """Hash whole numbers of 32 bits, of which every bit changes about half of the result's."""
    numbers = numbers & MASK
    for _ in range(2):
        numbers = (((numbers >> 16) ^ numbers) * MULTIPLIER) & MASK
    return (numbers >> 16) ^ numbers


def many_normal(seeds: Tensor, count: int) -> Tensor:
    """Return standard normal numbers, as `many_uniform` returns uniform ones (Box and Muller 1958)."""
    radius, angle = many_uniform(seeds, 2 * count).tensor_split(2, dim=1)
    return torch.sqrt(-2 * torch.log(radius)) * torch.cos(2 * math.pi * angle)
