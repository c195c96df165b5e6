"""Randomness as a function of (seed, purpose, position), so that nothing random needs saving."""

import zlib

import numpy as np
import torch


def derive_seeds(count: int, seed: int, purpose: str, *position: int) -> list[int]:
    """Return the first `count` 63-bit seeds for one purpose at one position, independent of all others.

    Args:
        count: How many; a larger count only adds seeds.
        seed: The run's seed, not negative.
        purpose: A name such as ``"order"`` or ``"latents"``.
        position: Non-negative integers, for example an epoch and a rank.
    """
    sequence = np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), *position))
    seeds: list[int] = (sequence.generate_state(count, np.uint64) >> np.uint64(1)).tolist()
    return seeds


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """Return the first of `derive_seeds`."""
    return derive_seeds(1, seed, purpose, *position)[0]


def seed_default_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that initialisation and dropout on `device` draw from, and no other.

    `torch.manual_seed` is no choice inside a loop: it seeds every kind of device, and queues a call, with a
    stack trace, for a CUDA that was never initialised.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        getattr(torch, device.type).manual_seed(seed)
