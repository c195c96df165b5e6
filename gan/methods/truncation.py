"""Truncated latents: variety traded for quality when a generator is sampled."""

import math

import torch
from torch import Tensor


def truncated_normal(num_rows: int, width: int, threshold: float, source: torch.Generator) -> Tensor:
    """Draw standard normal numbers of which none is farther from 0 than a threshold, shape (num_rows, width).

    The truncation trick of Brock et al. 2019, arXiv:1809.11096, section 3.1, draws a number anew until it is
    within the threshold. The inverse of the distribution function gives the same distribution of one uniform
    number: ``√2 erf⁻¹(u erf(threshold / √2))``, with u uniform on (-1, 1).

    >>> source = torch.Generator().manual_seed(0)
    >>> truncated_normal(1000, 3, 0.5, source).abs().max() <= 0.5
    tensor(True)

    Args:
        num_rows: Of the result.
        width: Columns of the result.
        threshold: Greater than 0; infinity truncates nothing.
        source: Of the random numbers.
    """
    uniform = torch.rand(num_rows, width, generator=source, dtype=torch.float64) * 2 - 1
    normal = math.sqrt(2) * torch.erfinv(uniform * math.erf(threshold / math.sqrt(2)))
    return normal.clamp(-threshold, threshold).float()


def normal_latents(num_rows: int, width: int, threshold: float | None, source: torch.Generator) -> Tensor:
    """Draw latents, shape (num_rows, width): standard normal, with a threshold those of `truncated_normal`."""
    if threshold is None:
        return torch.randn(num_rows, width, generator=source)
    return truncated_normal(num_rows, width, threshold, source)
