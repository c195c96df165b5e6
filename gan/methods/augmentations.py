"""Differentiable augmentation of what D sees (Zhao et al. 2020, arXiv:2006.10738).

Pure functions of images and uniform numbers, so that two processes can be compared with one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from gan.methods.ada import AugmentationPipeline

UNIFORMS = 7
"""Random numbers per image: brightness, saturation, contrast, two for translation, two for cutout."""


def _colour(images: Tensor, uniform: Tensor) -> Tensor:
    """Change brightness by up to ± 0.5, saturation by × [0, 2) and contrast by × [0.5, 1.5)."""
    brightness, saturation, contrast = (uniform[:, index].view(-1, 1, 1, 1) for index in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, 2 * saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast + 0.5)


def _below(uniform: Tensor, count: int) -> Tensor:
    """Map numbers (B,) on [0, 1) to whole numbers (B, 1) from 0 to count - 1."""
    return (uniform * count).long().clamp(max=count - 1).unsqueeze(1)


def _translation(images: Tensor, uniform: Tensor) -> Tensor:
    """Shift by up to an eighth of each side; zeros come in from outside."""
    for dim, uniform_of_dim in ((2, uniform[:, 3]), (3, uniform[:, 4])):
        size = images.shape[dim]
        most = (size + 4) // 8
        source = torch.arange(size, device=images.device) + _below(uniform_of_dim, 2 * most + 1) - most
        inside = (source >= 0) & (source < size)
        along = [-1, 1, 1, 1]
        along[dim] = size
        index = source.clamp(0, size - 1).view(along).expand_as(images)
        images = images.gather(dim, index) * inside.view(along)
    return images


def _cutout(images: Tensor, uniform: Tensor) -> Tensor:
    """Set a rectangle of half the height and width to 0; a part of it may lie outside."""
    cut = torch.ones(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for dim, uniform_of_dim in ((2, uniform[:, 5]), (3, uniform[:, 6])):
        size = images.shape[dim]
        half = (size + 1) // 2
        first = _below(uniform_of_dim, size + 1 - half % 2) - half // 2
        position = torch.arange(size, device=images.device)
        along = [-1, 1, 1, 1]
        along[dim] = size
        cut = cut & ((position >= first) & (position < first + half)).view(along)
    return images.masked_fill(cut, 0.0)


class Augmentation(Protocol):
    """Images (B, C, H, W) and uniform numbers (B, UNIFORMS) on [0, 1) to augmented images of the same shape."""

    def __call__(self, images: Tensor, uniform: Tensor, /) -> Tensor:
        """Return augmented images, differentiable with respect to `images`; no image depends on another one."""


class ProbableAugmentation(Protocol):
    """An augmentation that takes numbers of its own, and the probability with which it changes an image."""

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers per image."""

    def __call__(self, images: Tensor, uniform: Tensor, probability: Tensor, /) -> Tensor:
        """Return augmented images, as an `Augmentation` does.

        Args:
            images: Shape (B, C, H, W).
            uniform: Random numbers on [0, 1), shape (B, num_uniforms).
            probability: A scalar, not below 0; what is above 1 counts as 1.
        """


AUGMENTATIONS: dict[str, Augmentation | ProbableAugmentation] = {
    "color": _colour,
    "translation": _translation,
    "cutout": _cutout,
    "ada": AugmentationPipeline(),
}


Augmentations = Sequence[str | Augmentation | ProbableAugmentation]
"""Keys of AUGMENTATIONS, or functions like them."""


def is_probable(item: str | Augmentation | ProbableAugmentation) -> bool:
    """Say whether an augmentation takes a probability, and numbers of its own."""
    return hasattr(_function(item), "num_uniforms")


def num_uniforms(augmentations: Augmentations) -> int:
    """Return how many uniform numbers an image takes: UNIFORMS for all without numbers of their own together.

    >>> num_uniforms(["color", "cutout"]), num_uniforms([])
    (7, 0)
    """
    of_one = [int(_function(item).num_uniforms) for item in augmentations if is_probable(item)]
    return _num_common(augmentations) + sum(of_one)


def _num_common(augmentations: Augmentations) -> int:
    return 0 if all(map(is_probable, augmentations)) else UNIFORMS


def _function(item: str | Augmentation | ProbableAugmentation) -> Any:
    return AUGMENTATIONS[item] if isinstance(item, str) else item


def augment(
    images: Tensor, augmentations: Augmentations, uniform: Tensor | None, probability: Tensor | None = None
) -> Tensor:
    """Return augmented images (B, C, H, W), differentiable with respect to `images`.

    >>> bright = augment(torch.zeros(1, 1, 2, 2), ["color"], torch.full((1, UNIFORMS), 0.75))
    >>> bright.flatten()
    tensor([0.2500, 0.2500, 0.2500, 0.2500])

    Args:
        images: Images in [-1, 1].
        augmentations: Applied in this order, keys of AUGMENTATIONS or functions like them; without any the images
            stay as they are.
        uniform: Random numbers on [0, 1), shape (B, num_uniforms(augmentations)); None only without augmentations.
        probability: For those that take one, a scalar; None for 1.
    """
    first = _num_common(augmentations)
    for item in augmentations:
        assert uniform is not None
        function = _function(item)
        if not is_probable(item):
            images = function(images, uniform[:, :UNIFORMS])
            continue
        if probability is None:
            probability = torch.ones((), dtype=images.dtype, device=images.device)
        last = first + function.num_uniforms
        images = function(images, uniform[:, first:last], probability)
        first = last
    return images
