"""Colour transformations of images along the luma axis and around it."""

import math

import torch
from torch import Tensor

from gan.errors import UsageError
from gan.methods.draws import Draws

BRIGHTNESS = 0.2
"""Standard deviation of what is added to images in [-1, 1]."""
CONTRAST_OCTAVES = 0.5
SATURATION_OCTAVES = 1.0
"""Standard deviations of the binary logarithms of contrast and saturation."""


def recolored(images: Tensor, draws: Draws) -> Tensor:
    """Draw brightness, contrast, luma flip, hue and saturation, and return images (B, C, H, W) with these.

    "Color transformations" of Karras et al. 2020, arXiv:2006.06676, appendix B. Its 4×4 matrices all act alike on
    the grey axis v = (1, 1, 1) / sqrt(3), or alike on the plane at right angles to it, so they are written as a
    map of each pixel's mean and one of its difference from the mean. A grey image has no such difference: hue and
    saturation leave it as it is, and the other three act as on a grey image with three channels. It takes 10
    uniform numbers.

    Raises:
        UsageError: The images have neither 1 nor 3 channels.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise UsageError(
            f"augmentation: group color takes images with 1 or 3 channels, not {channels}; leave it out of groups"
        )
    brightness = _per_image(torch.where(draws.applied(), BRIGHTNESS * draws.normal(), 0.0))
    contrast = _per_image(torch.where(draws.applied(), torch.exp2(CONTRAST_OCTAVES * draws.normal()), 1.0))
    sign = _per_image(torch.where(draws.applied(), 1 - 2 * draws.whole(2), 1.0))
    hue = _per_image(torch.where(draws.applied(), draws.uniform(-math.pi, math.pi), 0.0))
    saturation = _per_image(torch.where(draws.applied(), torch.exp2(SATURATION_OCTAVES * draws.normal()), 1.0))

    luma = images.mean(1, keepdim=True)
    changed = sign * contrast * (luma + brightness)
    if channels == 3:
        chroma = images - luma
        across = (chroma.roll(1, dims=1) - chroma.roll(-1, dims=1)) / math.sqrt(3)  # v × chroma
        changed = changed + contrast * saturation * (torch.cos(hue) * chroma + torch.sin(hue) * across)
    return torch.where(_per_image(draws.any_applied), changed, images)


def _per_image(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)
