"""Filters of frequency bands, noise and cutout: the remaining transformations of adaptive augmentation."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gan.methods.draws import Draws, many_normal
from gan.methods.geometry import Table, constant, reflected

SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
"""The orthonormal low-pass filter of the wavelet with two vanishing moments (Daubechies 1992)."""
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""The share of each band in the power of natural images, whose spectrum falls as 1 / f."""
BAND_OCTAVES = 1.0
"""Standard deviation of the binary logarithm of a band's gain."""
NOISE = 0.1
"""Standard deviation of the half-normal strength of noise."""
CUT = 0.5
"""Of each side: the size of the rectangle of cutout."""


def filter_bank() -> Table:
    """Return four filters that add up to the identity, one for each band: up to π/8, π/4, π/2 and π.

    They have 43 taps each. Every low-pass filter L(z) = H(z) H(1/z) / 2 of SYM2 has the high-pass filter 1 - L(z)
    beside it, which is that of the mirrored wavelet. The next octave below takes both at z².
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = -low
    high[len(low) // 2] += 1
    bank = np.ones((1, 1))
    for _ in range(3):
        spread = np.zeros((len(bank), 2 * bank.shape[1] - 1))
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in spread])
        highest = np.zeros(bank.shape[1])
        middle = len(highest) // 2
        highest[middle - len(high) // 2 : middle + len(high) // 2 + 1] = high
        bank = np.vstack([bank, highest])
    return tuple(map(tuple, bank.tolist()))


FILTER_BANK = filter_bank()


def filtered(images: Tensor, draws: Draws) -> Tensor:
    """Draw a gain for each of four bands of frequencies, and return images (B, C, H, W) that are filtered so.

    "Image-space filtering" of Karras et al. 2020, arXiv:2006.06676, appendix B. A gain of one band is followed by
    a normalisation that keeps the power of natural images. It takes 8 uniform numbers.
    """
    gains = [torch.where(draws.applied(), torch.exp2(BAND_OCTAVES * draws.normal()), 1.0) for _ in POWER]
    power = torch.ones_like(gains[0])
    for gain, share in zip(gains, POWER, strict=True):
        power = power * (1 + share * (gain.square() - 1))
    of_bands = torch.stack(gains, 1) / power.sqrt().unsqueeze(1)
    bank = constant(FILTER_BANK, images.dtype, images.device)
    taps = (of_bands.unsqueeze(2) * bank).sum(1)  # not a matrix product, which tf32 would round
    changed = _convolved(_convolved(images, taps).mT, taps).mT
    return torch.where(draws.any_applied.view(-1, 1, 1, 1), changed, images)


def _convolved(images: Tensor, taps: Tensor) -> Tensor:
    """Convolve the columns of each image (C, H, W) with its row of `taps` (B, n), which is symmetric."""
    batch, channels, _, width = images.shape
    reach = taps.shape[1] // 2
    index = torch.arange(-reach, width + reach, device=images.device)
    extended = images.index_select(3, reflected(index, width))
    of_channels = taps.repeat_interleave(channels, 0).view(batch * channels, 1, 1, -1)
    return conv2d(extended.flatten(0, 1).unsqueeze(0), of_channels, groups=batch * channels).view(images.shape)


def noisy(images: Tensor, draws: Draws) -> Tensor:
    """Draw noise of each pixel and channel, and add it to images (B, C, H, W).

    "Additive noise" of Karras et al. 2020, arXiv:2006.06676, appendix B. It takes 4 uniform numbers, two of which
    are the seed of an image's noise.
    """
    strength = torch.where(draws.applied(), NOISE * draws.normal().abs(), 0.0).view(-1, 1, 1, 1)
    seeds = torch.stack([draws.uniform(0, 1), draws.uniform(0, 1)], 1)
    noise = many_normal(seeds, math.prod(images.shape[1:])).view(images.shape)
    return torch.where(draws.any_applied.view(-1, 1, 1, 1), images + strength * noise, images)


def cut_out(images: Tensor, draws: Draws) -> Tensor:
    """Draw a rectangle of half of each side, centred anywhere in the image, and set it to 0.

    "Cutout" of Karras et al. 2020, arXiv:2006.06676, appendix B. It takes 3 uniform numbers.
    """
    cut = draws.applied().view(-1, 1, 1, 1)
    for dim in (3, 2):
        size = images.shape[dim]
        along = [1, 1, 1, 1]
        along[dim] = size
        place = ((torch.arange(size, dtype=images.dtype, device=images.device) + 0.5) / size).view(along)
        cut = cut & ((place - draws.uniform(0, 1).view(-1, 1, 1, 1)).abs() < CUT / 2)
    return images.masked_fill(cut, 0.0)
