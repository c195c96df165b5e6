"""D of StyleGAN2: residual blocks with FIR filters (Karras et al. 2020, arXiv:1912.04958, figure 7 c)."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from gan.models.equalized import EqualizedConv2d, EqualizedLinear, activate
from gan.models.fir import Blur, Downsample
from gan.models.minibatch_deviation import MinibatchDeviation
from gan.models.networks import full_precision
from gan.models.style_generator import Mapping


class StyleBlock(nn.Module):
    """Two 3×3 convolutions with LeakyReLU, the second with the filter and stride 2; a shortcut if residual."""

    def __init__(self, before: int, after: int, *, residual: bool, clamp: float) -> None:
        super().__init__()
        self.first = EqualizedConv2d(before, before, 3, padding=1)
        self.blur = Blur(padding=2)
        self.second = EqualizedConv2d(before, after, 3, stride=2)
        self.clamp = clamp
        self.downsample = Downsample() if residual else None
        self.shortcut = EqualizedConv2d(before, after, 1, bias=False) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H / 2, W / 2)."""
        y = self.second(self.blur(activate(self.first(x), clamp=self.clamp)))
        if self.downsample is None or self.shortcut is None:
            return activate(y, clamp=self.clamp)
        # a sum of two has twice the variance
        gain = math.sqrt(0.5)
        shortcut: Tensor = self.shortcut(self.downsample(x))
        return activate(y, gain, self.clamp) + gain * shortcut


class StyleDiscriminator(nn.Module):
    """D: 1×1 convolution, a block for each halving, the deviation of a group, convolution, two linear layers.

    With classes the last layer has as many outputs as a mapping network of the class, and the logit is their
    product over the root of their number (arXiv:2006.06676; Miyato and Koyama 2018, arXiv:1802.05637).
    """

    def __init__(
        self,
        image_channels: int,
        widths: Sequence[int],
        smallest: tuple[int, int],
        mapping: Mapping | None,
        *,
        group_size: int,
        residual: bool,
        clamp: float,
    ) -> None:
        """Draw weights.

        Args:
            image_channels: Of the images.
            widths: Channels at each size, the largest first.
            smallest: Height and width after the last block.
            mapping: Classes to vectors (B, widths[-1]); None without classes.
            group_size: See `MinibatchDeviation`.
            residual: Whether blocks have shortcuts.
            clamp: See `activate`.
        """
        super().__init__()
        last = widths[-1]
        self.from_image = EqualizedConv2d(image_channels, widths[0], 1)
        self.blocks = nn.Sequential(
            *[
                StyleBlock(before, after, residual=residual, clamp=clamp)
                for before, after in itertools.pairwise(widths)
            ]
        )
        self.deviation = MinibatchDeviation(group_size)
        self.convolution = EqualizedConv2d(last + 1, last, 3, padding=1)
        self.linear = EqualizedLinear(last * math.prod(smallest), last)
        self.output = EqualizedLinear(last, 1 if mapping is None else last)
        self.mapping = mapping
        self.clamp = clamp

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W), and classes (B,) if conditional, to logits (B,)."""
        x = self.blocks(activate(self.from_image(images), clamp=self.clamp))
        x = activate(self.convolution(self.deviation(x)), clamp=self.clamp)
        outputs: Tensor = self.output(activate(self.linear(x.flatten(1))))
        if self.mapping is None:
            return outputs.flatten()
        vectors = self.mapping(None, labels)
        logits: Tensor = (full_precision(outputs) * vectors).sum(1) / math.sqrt(vectors.shape[1])
        return logits
