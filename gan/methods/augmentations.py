"""Differentiable augmentation of what D sees (Zhao et al. 2020, arXiv:2006.10738).

Pure functions of images and uniform numbers, so that two processes can be compared with one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

UNIFORMS = 7
"""Numbers an image takes: brightness, saturation, contrast, two of translation, two of cutout."""


def _colour(images: Tensor, uniform: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation × [0, 2), contrast × [0.5, 1.5)."""
    brightness, saturation, contrast = (uniform[:, index].view(-1, 1, 1, 1) for index in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, 2 * saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast + 0.5)


def _below(uniform: Tensor, count: int) -> Tensor:
    """Map [0, 1) to whole numbers from 0 to count - 1, shape (B, 1)."""
    return (uniform * count).long().clamp(max=count - 1).unsqueeze(1)


def _translation(images: Tensor, uniform: Tensor) -> Tensor:
    """Shift by up to an eighth of each side, zeros coming in."""
    for dim, own in ((2, uniform[:, 3]), (3, uniform[:, 4])):
        size = images.shape[dim]
        most = (size + 4) // 8
        source = torch.arange(size, device=images.device) + _below(own, 2 * most + 1) - most
        inside = (source >= 0) & (source < size)
        along = [-1, 1, 1, 1]
        along[dim] = size
        index = source.clamp(0, size - 1).view(along).expand_as(images)
        images = images.gather(dim, index) * inside.view(along)
    return images


def _cutout(images: Tensor, uniform: Tensor) -> Tensor:
    """Set a rectangle of half the height and width to 0; a part of it may lie outside."""
    cut = torch.ones(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for dim, own in ((2, uniform[:, 5]), (3, uniform[:, 6])):
        size = images.shape[dim]
        half = (size + 1) // 2
        first = _below(own, size + 1 - half % 2) - half // 2
        place = torch.arange(size, device=images.device)
        along = [-1, 1, 1, 1]
        along[dim] = size
        cut = cut & ((place >= first) & (place < first + half)).view(along)
    return images.masked_fill(cut, 0.0)


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _colour,
    "translation": _translation,
    "cutout": _cutout,
}


def augment(images: Tensor, names: Sequence[str], uniform: Tensor | None) -> Tensor:
    """Return images (B, C, H, W) after the augmentations named, with a gradient to the images given.

    Args:
        images: In [-1, 1].
        names: Keys of AUGMENTATIONS, applied in this order; none leaves the images as they are.
        uniform: On [0, 1), shape (B, UNIFORMS).
    """
    for name in names:
        assert uniform is not None
        images = AUGMENTATIONS[name](images, uniform)
    return images
