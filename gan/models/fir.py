"""Resampling of images by a FIR filter, which lets through little of what a grid of pixels cannot hold.

Zhang 2019, arXiv:1904.11486; the filter [1, 3, 3, 1] in both directions as in the code of arXiv:1912.04958.
Outside of an image are zeros, so that the pixels at its border become darker.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

TAPS = (1.0, 3.0, 3.0, 1.0)


class FIR(nn.Module):
    """The filter with a sum of 1; what is done with it are the methods of the layers below."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(TAPS)
        # saved with the network, whose other tensors are loaded into a network without contents
        self.register_buffer("taps", torch.outer(taps, taps) / sum(TAPS) ** 2)

    def _of(self, x: Tensor) -> Tensor:
        """Return the filter for each channel of x (B, C, H, W), shape (C, 1, 4, 4)."""
        return self.taps.to(x.dtype).expand(x.shape[1], 1, *self.taps.shape)


class Upsample(FIR):
    """Zeros between the pixels, and the filter times 4: twice the height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        return conv_transpose2d(x, 4 * self._of(x), stride=2, padding=1, groups=x.shape[1])


class Downsample(FIR):
    """The filter at every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return conv2d(x, self._of(x), stride=2, padding=1, groups=x.shape[1])


class Blur(FIR):
    """The filter at every pixel, times a factor; `padding` zeros around the image make it larger or smaller."""

    def __init__(self, padding: int, factor: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H + 2 padding - 3, W + 2 padding - 3)."""
        return conv2d(x, self.factor * self._of(x), padding=self.padding, groups=x.shape[1])
