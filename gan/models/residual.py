"""The residual blocks of the networks with spectral norm (arXiv:1802.05957, figure 8; arXiv:1805.08318)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.parametrizations import spectral_norm

from gan.models.conditional_norm import Norm
from gan.models.resampling import ResamplingBlock, convolve_and_halve

Normalise = Callable[[nn.Module], nn.Module]
"""What is done with every layer that has weights."""


def left_as_it_is(layer: nn.Module) -> nn.Module:
    """Return a layer without spectral norm."""
    return layer


class DownBlock(ResamplingBlock):
    """Residual block of D: twice ReLU and a 3×3 convolution; a mean over 2×2 pixels if it halves.

    The first block of a network sees the image itself, and leaves out its first ReLU.

    Args:
        before: Channels of its input.
        after: Channels of its output.
        halves: Whether height and width are halved.
        first: Whether it is the first block.
        hidden: Channels between the convolutions; by default `after` in the first block, `before` in others.
        normalise: Spectral norm, or nothing.
    """

    def __init__(
        self,
        before: int,
        after: int,
        *,
        halves: bool,
        first: bool = False,
        hidden: int | None = None,
        normalise: Normalise = spectral_norm,
    ) -> None:
        super().__init__()
        hidden = hidden or (after if first else before)
        self.convolutions = nn.ModuleList(
            [
                normalise(nn.Conv2d(before, hidden, 3, padding=1)),
                normalise(nn.Conv2d(hidden, after, 3, padding=1)),
            ]
        )
        changes_shape = halves or before != after
        self.shortcut = normalise(nn.Conv2d(before, after, 1)) if changes_shape else nn.Identity()
        self.halves = halves
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W), or half the height and width."""
        h = self.convolutions[0](x if self.first else torch.relu(x))
        if self.halves and self.is_merged(self.convolutions[1], len(x), x.shape[2] // 2, x.shape[3] // 2):
            h = convolve_and_halve(torch.relu(h), self.convolutions[1])
            return h + self.shortcut(avg_pool2d(x, 2))  # type: ignore[no-any-return]
        h = self.convolutions[1](torch.relu(h))
        total: Tensor = h + self.shortcut(x)
        return avg_pool2d(total, 2) if self.halves else total


class ConditionalUpBlock(ResamplingBlock):
    """Residual block of a conditional G that doubles the image, under spectral norm.

    Twice conditional BatchNorm, ReLU and a 3×3 convolution, with nearest upsampling before the first convolution.

    Args:
        before: Channels of its input.
        after: Channels of its output.
        norm: Makes a conditional BatchNorm of so many channels.
    """

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm(before), norm(after)])
        self.convolutions = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(before, after, 3, padding=1)),
                spectral_norm(nn.Conv2d(after, after, 3, padding=1)),
            ]
        )
        self.shortcut = spectral_norm(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map (B, C, H, W) and what it is conditioned on to (B, C', 2H, 2W)."""
        h = torch.relu(self.norms[0](x, condition))
        h = self.double_and_convolve(h, self.convolutions[0])
        h = self.convolutions[1](torch.relu(self.norms[1](h, condition)))
        return h + interpolate(self.shortcut(x), scale_factor=2)  # type: ignore[no-any-return]


class SumOverPixels(nn.Module):
    """The last features of D: the sum over pixels, so that a network takes images of any size."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return x.sum((2, 3))


class MeanOverPixels(nn.Module):
    """The last features of D: the mean over pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return x.mean((2, 3))
