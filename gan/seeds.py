"""Random seeds as a function of (seed, purpose, position), so that no state of a generator needs saving."""

import zlib

import numpy as np
import torch


def derive_seeds(count: int, seed: int, purpose: str, *position: int) -> list[int]:
    """Return `count` seeds of 63 bits for one purpose at one position, independent of all others.

    Seeds like `seed + epoch` repeat: epoch 1 of seed 0 would be epoch 0 of seed 1. `SeedSequence` hashes all of
    its numbers together instead. A purpose enters by its CRC-32: `hash` would differ between Python processes.
    Seeds are halved to 63 bits, because torch takes signed integers.

    >>> derive_seeds(2, 0, "latents", 3)[0] == derive_seed(0, "latents", 3)
    True

    Args:
        count: Number of seeds; a larger one only adds seeds at the end.
        seed: The seed of the run, not negative.
        purpose: A name such as ``"order"`` or ``"latents"``.
        position: Non-negative integers, for example an epoch and a rank.
    """
    sequence = np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), *position))
    seeds: list[int] = (sequence.generate_state(count, np.uint64) >> np.uint64(1)).tolist()
    return seeds


def derive_seed(seed: int, purpose: str, *position: int) -> int:
    """Return the first seed of `derive_seeds`.

    >>> derive_seed(0, "order", 1)
    6030183226608184633
    >>> derive_seed(0, "order", 1) == derive_seed(1, "order", 0)
    False
    """
    return derive_seeds(1, seed, purpose, *position)[0]


def seed_default_generator(device: torch.device, seed: int) -> None:
    """Seed the generator from which initialisation and dropout on `device` draw, and no other.

    `torch.manual_seed` would be slow inside a loop: it seeds every kind of device, and for a CUDA that was never
    initialised it queues a call with a stack trace.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        getattr(torch, device.type).manual_seed(seed)
