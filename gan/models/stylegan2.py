"""StyleGAN2's networks (Karras et al. 2020, arXiv:1912.04958, and with adaptive augmentation arXiv:2006.06676)."""

from dataclasses import dataclass

from torch import nn

from gan.images import ImageShape
from gan.models.halving import halve
from gan.models.initialization import WeightsOf
from gan.models.style_discriminator import StyleDiscriminator
from gan.models.style_generator import Mapping, StyleGenerator, Synthesis


@dataclass(frozen=True)
class StyleGAN2:
    """Style-based G with skip connections, and a residual D; both resample with the filter [1, 3, 3, 1].

    Channels double whenever the image is halved, up to `max_channels`. The authors' networks for 1024×1024 images
    (configuration F) begin with 32 channels, those for 256×256 images with 64 (arXiv:2006.06676), and those for
    CIFAR-10 have 512 at all sizes, 2 mapping layers in G, no mixing, and a D that is not residual.

    Attributes:
        channels: Channels at the size of the image.
        max_channels: The most channels at any size.
        style_width: Width of the styles, and of the hidden layers that make them.
        mapping_layers: Layers from latents to styles in G, and from the class to its vector in D.
        mapping_rate: Their learning rate as a multiple of the optimizer's.
        mixing: Probability that an image of G in training is made of two latents.
        residual: Whether D's blocks have shortcuts.
        group_size: Images whose deviation D sees.
        fused: Whether G modulates weights and takes a convolution for each image; see `modulated_convolution`.
        clamp: Limit of activations, for fp16; 0 is none.
    """

    channels: int
    max_channels: int = 512
    style_width: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    mixing: float = 0.9
    residual: bool = True
    group_size: int = 4
    fused: bool = False
    clamp: float = 256.0

    def __post_init__(self) -> None:
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"mixing {self.mixing}: must be from 0 to 1")
        if not self.mapping_rate > 0:
            raise ValueError(f"mapping_rate {self.mapping_rate}: must be above 0")

    @property
    def batchnorm(self) -> bool:
        """False: neither network has BatchNorm layers."""
        return False

    @property
    def own_weights(self) -> WeightsOf:
        """Each pass scales the weights, which are drawn from normal(0, 1) for that."""
        return "scaled"

    @property
    def min_generator_tensors(self) -> int:
        """Weight and bias of each mapping layer."""
        return 2 * self.mapping_layers

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        return self.conditional_generator(latent_dim, image_shape, 0)

    def conditional_generator(self, latent_dim: int, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build G for so many classes: a vector of the class stands beside the latents of the mapping network.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        widths, smallest = self._sizes(image_shape)
        mapping = Mapping(latent_dim, num_classes, self.style_width, self.mapping_layers, self.mapping_rate)
        synthesis = Synthesis(
            widths[::-1], smallest, image_shape[0], self.style_width, fused=self.fused, clamp=self.clamp
        )
        return StyleGenerator(mapping, synthesis, self.style_width, self.mixing)

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        return self.conditional_discriminator(image_shape, 0)

    def conditional_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:
        """Build D for so many classes: with a mapping network of the class, and the product with its output.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        widths, smallest = self._sizes(image_shape)
        mapping = None
        if num_classes:
            mapping = Mapping(0, num_classes, widths[-1], self.mapping_layers, self.mapping_rate)
        return StyleDiscriminator(
            image_shape[0],
            widths,
            smallest,
            mapping,
            group_size=self.group_size,
            residual=self.residual,
            clamp=self.clamp,
        )

    def _sizes(self, image_shape: ImageShape) -> tuple[list[int], tuple[int, int]]:
        """Return the channels at each size, the image's own size first, and the smallest height and width."""
        num_halvings, smallest = halve(image_shape, "stylegan2")
        return [min(self.channels << level, self.max_channels) for level in range(num_halvings + 1)], smallest
