"""BatchNorm whose scale and shift depend on the class (de Vries et al. 2017, arXiv:1707.00683, section 3).

The layers hold a BatchNorm without scale and shift of its own, so that its statistics are those of the global
batch wherever the ones of BatchNorm are.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Norm = Callable[[int], nn.Module]
"""Channels to a layer that takes features (B, C, H, W) and what they are conditioned on."""


class UnconditionalBatchNorm(nn.Module):
    """BatchNorm where others are conditional: it takes the condition, and leaves it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, _condition: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        normalised: Tensor = self.norm(x)
        return normalised


class ClassBatchNorm(nn.Module):
    """BatchNorm with a learned scale and shift for each class; they begin at 1 and 0.

    ``scale[y] (x - mean) / std + shift[y]``, as in arXiv:1805.08318, section 5.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map (B, C, H, W) and classes (B,) to (B, C, H, W)."""
        return _scaled(self.norm(x), self.scale(labels), self.shift(labels))


class ConditionalBatchNorm(nn.Module):
    """BatchNorm whose scale and shift are linear functions, with spectral norm, of a vector.

    ``(1 + A c) (x - mean) / std + B c``, as in arXiv:1809.11096, appendix B and figure 15: `c` is the class vector
    that all layers share, and the layer's part of the latents.
    """

    def __init__(self, channels: int, condition_width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale = spectral_norm(nn.Linear(condition_width, channels, bias=False))
        self.shift = spectral_norm(nn.Linear(condition_width, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, C, H, W) and a condition (B, condition_width) to (B, C, H, W)."""
        return _scaled(self.norm(x), 1 + self.scale(condition), self.shift(condition))


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift[:, :, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))
