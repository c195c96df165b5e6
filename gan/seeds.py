"""Randomness as a function of (seed, purpose, position), so that nothing random needs saving."""

import zlib

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """Return a 63-bit seed for one purpose at one position, independent of all others.

    Args:
        seed: The run's seed, not negative.
        purpose: A name such as ``"order"`` or ``"latents"``.
        position: Non-negative integers, for example an epoch, or a step and a rank.
    """
    entropy = (seed, zlib.crc32(purpose.encode()), *position)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def seed_default_generator(device: torch.device, seed: int) -> None:
    """Seed the generator that initialisation and dropout on `device` draw from, and no other.

    `torch.manual_seed` is no choice inside a loop: it seeds every kind of device, and queues a call, with a
    stack trace, for a CUDA that was never initialised.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        getattr(torch, device.type).manual_seed(seed)
