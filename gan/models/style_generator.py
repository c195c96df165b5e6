"""G of StyleGAN2: a mapping network makes styles, which modulate the convolutions of a synthesis network.

Karras et al. 2020, arXiv:1912.04958, section 2 and figure 7 (b, skip connections); classes as in arXiv:2006.06676.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan.models.batch_statistics import GlobalStatistics, sum_over_processes
from gan.models.equalized import EqualizedLinear, activate, limit
from gan.models.fir import Blur, Upsample
from gan.models.modulation import ModulatedConv2d
from gan.models.networks import full_precision

EPSILON = 1e-8
AVERAGE_DECAY = 0.995
"""What the average style keeps of itself in a pass in training."""


def normalised(x: Tensor) -> Tensor:
    """Return rows (B, N) whose mean square is 1."""
    return x * (x.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class Mapping(nn.Module):
    """Latents, a class or both to a style: normalised, then linear layers with LeakyReLU, never in half precision.

    Attributes:
        embedding: Class (one of `num_classes`) to a vector, if there are classes.
    """

    def __init__(self, latent_dim: int, num_classes: int, width: int, num_layers: int, rate: float) -> None:
        """Draw weights.

        Args:
            latent_dim: Width of the latents; 0 if there are none.
            num_classes: 0 if there are none.
            width: Of the style, of the hidden layers and of the vector of a class.
            num_layers: Linear layers.
            rate: Their learning rate as a multiple of the optimizer's.
        """
        super().__init__()
        self.num_classes = num_classes
        self.embedding = EqualizedLinear(num_classes, width) if num_classes else None
        inputs = latent_dim + (width if num_classes else 0)
        widths = [inputs, *[width] * num_layers]
        self.layers = nn.ModuleList(
            [EqualizedLinear(before, after, rate=rate) for before, after in itertools.pairwise(widths)]
        )

    def forward(self, latents: Tensor | None, labels: Tensor | None) -> Tensor:
        """Map latents (B, latent_dim) and classes (B,) to styles (B, width)."""
        given = labels if latents is None else latents
        assert given is not None
        with torch.autocast(given.device.type, enabled=False):
            inputs = [] if latents is None else [normalised(full_precision(latents))]
            if self.embedding is not None:
                assert labels is not None
                # not nn.functional.one_hot, which reads the largest label
                one_hot = labels.unsqueeze(1) == torch.arange(self.num_classes, device=labels.device)
                inputs.append(normalised(self.embedding(one_hot.to(self.embedding.weight.dtype))))
            x = torch.cat(inputs, 1)
            for layer in self.layers:
                x = activate(layer(x))
            return x


class NoiseInput(nn.Module):
    """Adds noise, the same for all channels, times a learned strength that begins at 0.

    In training it is drawn for each image. In evaluation it is constant, so that a latent has one image.
    """

    constant: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("constant", torch.randn(size))

    def draw(self, x: Tensor) -> Tensor:
        """Return standard normal noise for images (B, C, H, W), shape (B, 1, H, W)."""
        return torch.randn(len(x), 1, *x.shape[2:], dtype=self.strength.dtype, device=x.device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        noise = self.draw(x) if self.training else self.constant
        return x + (self.strength * noise).to(x.dtype)


class StyledLayer(nn.Module):
    """Modulated 3×3 convolution, noise, bias, LeakyReLU; with `doubles` the filter between the first two."""

    def __init__(
        self,
        before: int,
        after: int,
        size: tuple[int, int],
        style_width: int,
        *,
        doubles: bool,
        fused: bool,
        clamp: float,
    ) -> None:
        super().__init__()
        self.convolution = ModulatedConv2d(before, after, 3, style_width, doubles=doubles, fused=fused)
        self.blur = Blur(padding=1, factor=4.0) if doubles else nn.Identity()
        self.noise = NoiseInput(size)
        self.bias = nn.Parameter(torch.zeros(after))
        self.clamp = clamp

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (B, before, H, W) and styles (B, style_width) to (B, after, H, W), or twice the height and width."""
        x = self.noise(self.blur(self.convolution(x, style)))
        return activate(x + self.bias.to(x.dtype)[:, None, None], clamp=self.clamp)


class ToImage(nn.Module):
    """Modulated 1×1 convolution without demodulation, and a bias."""

    def __init__(self, before: int, channels: int, style_width: int, *, fused: bool, clamp: float) -> None:
        super().__init__()
        self.convolution = ModulatedConv2d(before, channels, 1, style_width, demodulate=False, fused=fused)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.clamp = clamp

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (B, before, H, W) and styles (B, style_width) to (B, channels, H, W), not in half precision."""
        x = self.convolution(x, style)
        return full_precision(limit(x + self.bias.to(x.dtype)[:, None, None], self.clamp))


class Synthesis(nn.Module):
    """Styles to images: a learned constant, and at each size one layer (the smallest) or two, and an image.

    The images of all sizes are upsampled and added up. The styles of a size's image are those of the next layer.
    """

    def __init__(
        self,
        widths: Sequence[int],
        smallest: tuple[int, int],
        image_channels: int,
        style_width: int,
        *,
        fused: bool,
        clamp: float,
    ) -> None:
        """Draw weights.

        Args:
            widths: Channels at each size, the smallest first.
            smallest: Height and width of the constant.
            image_channels: Of the images.
            style_width: Of a style.
            fused: See `modulated_convolution`.
            clamp: See `activate`.
        """
        super().__init__()
        self.constant = nn.Parameter(torch.randn(widths[0], *smallest))
        self.layers = nn.ModuleList()
        self.to_images = nn.ModuleList()
        for level, width in enumerate(widths):
            size = (smallest[0] << level, smallest[1] << level)
            before = widths[max(level - 1, 0)]
            for doubles in (True, False) if level else (False,):
                inputs = before if doubles else width
                settings = {"doubles": doubles, "fused": fused}
                self.layers.append(StyledLayer(inputs, width, size, style_width, clamp=clamp, **settings))
            self.to_images.append(ToImage(width, image_channels, style_width, fused=fused, clamp=clamp))
        self.upsample = Upsample()

    @property
    def num_styles(self) -> int:
        """Styles of an image: one for each layer, and one for the last image."""
        return len(self.layers) + 1

    def forward(self, styles: Tensor) -> Tensor:
        """Map styles (B, num_styles, style_width) to images (B, C, H, W)."""
        x = self.constant.expand(len(styles), *self.constant.shape)
        x = self.layers[0](x, styles[:, 0])
        images: Tensor = self.to_images[0](x, styles[:, 1])
        for level in range(1, len(self.to_images)):
            first = 2 * level - 1
            x = self.layers[first](x, styles[:, first])
            x = self.layers[first + 1](x, styles[:, first + 1])
            with torch.autocast(x.device.type, enabled=False):
                images = self.upsample(images)
            images = images + self.to_images[level](x, styles[:, first + 2])
        return images


class StyleGenerator(GlobalStatistics):
    """G: mapping and synthesis. No function bounds its images.

    In training an image is made of two latents with a probability (style mixing, Karras et al. 2019,
    arXiv:1812.04948, section 3.1): from a random layer on, it takes the style of the second one. The authors' code
    draws once for all images of a GPU. Here it is drawn for each image.

    Attributes:
        mixing: The probability.
        average: Moving average of the styles of the global batch, shape (style_width,).
        truncation: In evaluation styles are moved towards `average`, so that this part of their distance is left
            (arXiv:1812.04948, appendix B); 1 leaves them as they are.
    """

    average: Tensor
    track_running_stats = True

    def __init__(self, mapping: Mapping, synthesis: Synthesis, style_width: int, mixing: float) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis
        self.mixing = mixing
        self.truncation = 1.0
        self.register_buffer("average", torch.zeros(style_width))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), and classes (B,) if conditional, to images (B, C, H, W)."""
        images: Tensor = self.synthesis(self.styles(latents, labels))
        return images

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map them to styles (B, num_styles, style_width), mixed in training and truncated in evaluation."""
        num_styles = self.synthesis.num_styles
        if not self.training or not self.mixing:
            styles: Tensor = self.mapping(latents, labels)
            if self.training:
                self._track(styles)
            elif self.truncation != 1:
                styles = torch.lerp(self.average, styles, self.truncation)
            return styles.unsqueeze(1).expand(-1, num_styles, -1)
        others, first_of_other = self.draw(latents)
        twice = None if labels is None else torch.cat([labels, labels])
        styles, other_styles = self.mapping(torch.cat([latents, others]), twice).tensor_split(2)
        self._track(styles)
        layers = torch.arange(num_styles, device=latents.device)
        is_other = layers >= first_of_other.unsqueeze(1)
        return torch.where(is_other.unsqueeze(2), other_styles.unsqueeze(1), styles.unsqueeze(1))

    def draw(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Draw for each image the second latents (B, latent_dim), and the first layer (B,) that takes their style.

        That is a layer from the second one on, each of the same probability; `num_styles` is none.
        """
        num_styles = self.synthesis.num_styles
        others = torch.randn_like(latents)
        layers = torch.randint(1, num_styles, (len(latents),), device=latents.device)
        mixes = torch.rand(len(latents), device=latents.device) < self.mixing
        return others, torch.where(mixes, layers, num_styles)

    @torch.no_grad()
    def _track(self, styles: Tensor) -> None:
        """Move the average towards the mean style of the global batch."""
        if not self.track_running_stats:
            return
        sums = torch.cat([styles.sum(0), styles.new_full((1,), len(styles))])
        if self.across_processes:
            sums = sum_over_processes(sums, "average style")
        self.average.lerp_(sums[:-1] / sums[-1], 1 - AVERAGE_DECAY)
