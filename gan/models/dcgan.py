"""Networks of strided convolutions (Radford et al. 2015, arXiv:1511.06434)."""

from dataclasses import dataclass

from torch import nn

from gan.images import ImageShape
from gan.models.halving import halve


@dataclass(frozen=True)
class DCGAN:
    """Strided convolutions; channels double whenever the image is halved (Radford et al. 2015, figure 1).

    28×28 images are halved to 7×7, 32×32 and 64×64 images to 4×4.

    Attributes:
        channels: Channels of the layer next to the image.
        batchnorm: BatchNorm2d in G after every layer but the last, in D after every layer but first and last.
    """

    channels: int = 64
    batchnorm: bool = True

    @property
    def min_generator_tensors(self) -> int:
        """The weights of the first and the last layer."""
        return 2

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator of transposed convolutions with ReLU.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "dcgan")
        widths = [self.channels << level for level in reversed(range(num_halvings))]
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        layers += [nn.ConvTranspose2d(latent_dim, widths[0], smallest, bias=not self.batchnorm)]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            layers += [nn.BatchNorm2d(before)] if self.batchnorm else []
            last = after is None
            bias = last or not self.batchnorm
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after or image_shape[0], 4, 2, 1, bias=bias)]
        return nn.Sequential(*layers, nn.Tanh())

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator of strided convolutions with LeakyReLU 0.2.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "dcgan")
        layers: list[nn.Module] = []
        before = image_shape[0]
        for level in range(num_halvings):
            after = self.channels << level
            normalised = self.batchnorm and level > 0
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=not normalised)]
            layers += [nn.BatchNorm2d(after)] if normalised else []
            layers += [nn.LeakyReLU(0.2)]
            before = after
        return nn.Sequential(*layers, nn.Conv2d(before, 1, smallest), nn.Flatten(0))
