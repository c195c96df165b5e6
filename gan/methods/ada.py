"""Augmentation that does not leak into what is generated, and adapts (Karras et al. 2020, arXiv:2006.06676)."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from gan.methods.colors import recolored
from gan.methods.corruptions import cut_out, filtered, noisy
from gan.methods.draws import Draws
from gan.methods.geometry import continuous, copied, resampled, whole_pixels

Group = Literal["blit", "geom", "color", "filter", "noise", "cutout"]
UNIFORMS_OF: dict[Group, int] = {"blit": 7, "geom": 11, "color": 10, "filter": 8, "noise": 4, "cutout": 3}
"""Uniform numbers that a group takes of each image, in the order in which groups are applied."""
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AugmentationPipeline:
    """The transformations of StyleGAN2-ADA, each applied to an image with the same probability.

    A pure function of images, uniform numbers and the probability; no image depends on another one. At
    probability 0 it returns the images, bit for bit. It can be differentiated twice with respect to the images,
    so that R1 may go through it.

    Karras et al. 2020, arXiv:2006.06676, appendix B, in the paper's order. Geometric transformations
    are combined into one map, and an image is resampled once at most. Two things differ from the authors' code. An
    image of which only whole pixels move is copied, as the paper says, and not resampled. Beyond its edges an
    image goes on mirrored without end, where the authors' turns black after one width or height.

    >>> images = torch.rand(2, 3, 8, 8) * 2 - 1
    >>> pipeline = AugmentationPipeline()
    >>> uniform = torch.rand(2, pipeline.num_uniforms)
    >>> torch.equal(pipeline(images, uniform, 0.0), images)
    True

    Attributes:
        groups: Pixel blitting ("blit": x-flip, quarter turns, whole-pixel shift), general geometric
            transformations ("geom": scale, rotation, anisotropic scale, fractional shift), "color" (brightness,
            contrast, luma flip, hue, saturation), "filter" (gains of four frequency bands), "noise" and "cutout".
            The paper chooses the first three (section 2.3).
        color_share: The probability of the colour transformations, as a multiple of that of the others.
    """

    groups: tuple[Group, ...] = ("blit", "geom", "color")
    color_share: float = 1.0

    def __post_init__(self) -> None:
        allowed = ", ".join(get_args(Group))
        assert set(self.groups) <= set(get_args(Group)), f"groups {self.groups}: must be some of {allowed}"
        once = f"groups {self.groups}: name at least one, and none of them twice"
        assert 0 < len(self.groups) == len(set(self.groups)), once
        assert 0 <= self.color_share <= 1, f"color_share {self.color_share}: must be from 0 to 1"

    @property
    def num_uniforms(self) -> int:
        """Uniform numbers that an image takes."""
        return sum(UNIFORMS_OF[group] for group in self.groups)

    def __call__(self, images: Tensor, uniform: Tensor, probability: Tensor | float) -> Tensor:
        """Return augmented images of the same shape and type.

        Args:
            images: In [-1, 1], shape (B, C, H, W).
            uniform: On [0, 1), shape (B, num_uniforms).
            probability: Of each transformation, a scalar from 0 to 1; as a tensor it may change without a new
                compilation or CUDA graph.

        Raises:
            UsageError: Group "color" is in `groups`, and the images have neither 1 nor 3 channels.
        """
        if not len(images):  # a process may hold none
            return images
        with torch.autocast(images.device.type, enabled=False):
            exact = images.float() if images.dtype in HALF else images
            draws = self._draws(uniform.to(exact.dtype), _as_scalar(probability, exact))
            return self._applied(exact, draws).to(images.dtype)

    def _draws(self, uniform: Tensor, probability: Tensor) -> dict[Group, Draws]:
        """Return the random numbers of each group that there is."""
        groups = [group for group in UNIFORMS_OF if group in self.groups]
        parts = uniform.split([UNIFORMS_OF[group] for group in groups], dim=1)
        shares = {"color": self.color_share}
        return {
            group: Draws(part, probability * shares.get(group, 1.0))
            for group, part in zip(groups, parts, strict=True)
        }

    def _applied(self, images: Tensor, draws: dict[Group, Draws]) -> Tensor:
        images = self._moved(images, draws)
        if "color" in draws:
            images = recolored(images, draws["color"])
        if "filter" in draws:
            images = filtered(images, draws["filter"])
        if "noise" in draws:
            images = noisy(images, draws["noise"])
        if "cutout" in draws:
            images = cut_out(images, draws["cutout"])
        return images

    @staticmethod
    def _moved(images: Tensor, draws: dict[Group, Draws]) -> Tensor:
        """Copy the pixels of images that move as a whole, and resample others, both of the same images."""
        height, width = images.shape[2:]
        moved = images
        inverse = None
        if "blit" in draws:
            inverse = whole_pixels(draws["blit"], height, width)
            moved = copied(images, inverse)
        if "geom" in draws:
            last = continuous(draws["geom"], height, width)
            inverse = last if inverse is None else inverse.of(last)
            is_resampled = draws["geom"].any_applied.view(-1, 1, 1, 1)
            moved = torch.where(is_resampled, resampled(images, inverse), moved)
        return moved


def _as_scalar(probability: Tensor | float, like: Tensor) -> Tensor:
    """Return a probability as a scalar from 0 to 1, of the type of `like` and on its device."""
    if not isinstance(probability, Tensor):
        probability = torch.full((), probability, dtype=like.dtype, device=like.device)
    return probability.to(like.dtype).clamp(0, 1)
