"""What an image is: its shape, and its values as uint8 on disk and in [-1, 1] for the networks."""

import torch
from torch import Tensor

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


def to_unit_range(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images of any shape to [-1, 1].

    >>> to_unit_range(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    if dtype == torch.float32:
        return images.div(127.5).sub_(1)  # converts and divides in one pass
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images in [-1, 1] to uint8, rounding to nearest: the inverse of `to_unit_range`.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
