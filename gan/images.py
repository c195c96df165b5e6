"""What an image is to the networks: its shape, and its values in [-1, 1]."""

import torch
from torch import Tensor

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


def to_unit_range(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images to [-1, 1]."""
    if dtype == torch.float32:
        return images.div(127.5).sub_(1)  # converts and divides in one pass
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images in [-1, 1] to uint8, rounding to nearest: the inverse of `to_unit_range`."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
