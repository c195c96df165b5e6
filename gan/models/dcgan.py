"""Networks of strided convolutions (Radford et al. 2015)."""

from dataclasses import dataclass

from torch import nn

from gan.images import ImageShape
from gan.models.halving import num_halvings


@dataclass(frozen=True)
class DCGAN:
    """Strided convolutions, the channels doubled at every halving of the image (Radford et al. 2015, figure 1).

    28×28 images are halved to 7×7, 32×32 and 64×64 images to 4×4.

    Attributes:
        channels: Of the layer next to the image.
        batchnorm: BatchNorm2d in G after every layer but the last, in D after every layer but first and last.
    """

    channels: int = 64
    batchnorm: bool = True

    @property
    def least_tensors(self) -> int:
        """A generator has at least so many tensors."""
        return 2

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build a generator of transposed convolutions with ReLU."""
        colours, height, width = image_shape
        halvings = num_halvings(image_shape, 4, "dcgan")
        size = height >> halvings, width >> halvings
        widths = [self.channels << level for level in reversed(range(halvings))]
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        layers += [nn.ConvTranspose2d(latent_dim, widths[0], size, bias=not self.batchnorm)]
        for before, after in zip(widths, [*widths[1:], None], strict=True):
            layers += [nn.BatchNorm2d(before)] if self.batchnorm else []
            last = after is None
            bias = last or not self.batchnorm
            layers += [nn.ReLU(), nn.ConvTranspose2d(before, after or colours, 4, 2, 1, bias=bias)]
        return nn.Sequential(*layers, nn.Tanh())

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build a discriminator of strided convolutions with LeakyReLU 0.2."""
        before, height, width = image_shape
        halvings = num_halvings(image_shape, 4, "dcgan")
        layers: list[nn.Module] = []
        for level in range(halvings):
            after = self.channels << level
            normalised = self.batchnorm and level > 0
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=not normalised)]
            layers += [nn.BatchNorm2d(after)] if normalised else []
            layers += [nn.LeakyReLU(0.2)]
            before = after
        layers += [nn.Conv2d(before, 1, (height >> halvings, width >> halvings))]
        return nn.Sequential(*layers, nn.Flatten(0))
