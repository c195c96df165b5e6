"""Convolutional networks of which D reads the codes that G was given (Chen et al. 2016, arXiv:1606.03657)."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.images import ImageShape
from gan.methods.auxiliary import codes
from gan.models.batchnormed import BatchNormed
from gan.models.conditioning import one_hot
from gan.models.halving import halve
from gan.models.heads import HeadedDiscriminator

NEGATIVE_SLOPE = 0.1


@dataclass(frozen=True)
class InfoGAN(BatchNormed):
    """The networks for MNIST (arXiv:1606.03657, table 1 of appendix C.1).

    Of G's latents, some become codes, as `gan.methods.auxiliary.codes` says. D's second head, which the paper
    calls Q, has the logits of each categorical code and the mean of each continuous one for outputs.

    Attributes:
        channels: Channels next to the image; they double with each halving.
        hidden_units: Of the linear layers.
        recognition_units: Of the second head's hidden layer.
        sizes: How many values each categorical code has.
        num_continuous: How many continuous codes there are.
    """

    channels: int = 64
    hidden_units: int = 1024
    recognition_units: int = 128
    sizes: tuple[int, ...] = (10,)
    num_continuous: int = 2

    def generator(self, latent_dim: int, image_shape: ImageShape) -> nn.Module:
        """Build G: codes, two linear layers, and a transposed 4×4 convolution for each doubling of the image.

        Raises:
            UsageError: Images of this shape cannot be halved, or there are fewer latents than the codes take.
        """
        num_codes = sum(self.sizes) + self.num_continuous
        if latent_dim < num_codes:
            raise UsageError(
                f"latent_dim {latent_dim}: infogan's codes take {num_codes}; use at least {num_codes}"
            )
        num_halvings, smallest = halve(image_shape, "infogan")
        widths = [self.channels << level for level in reversed(range(num_halvings))]
        num_smallest = widths[0] * math.prod(smallest)
        layers: list[nn.Module] = [
            _Codes(self.sizes, self.num_continuous),
            *_hidden(latent_dim, self.hidden_units, nn.ReLU()),
            *_hidden(self.hidden_units, num_smallest, nn.ReLU()),
            nn.Unflatten(1, (widths[0], *smallest)),
        ]
        for before, after in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], image_shape[0], 4, 2, 1), nn.Tanh())

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        """Build D: a 4×4 convolution for each halving, a linear layer, and the two heads.

        Raises:
            UsageError: Images of this shape cannot be halved.
        """
        num_halvings, smallest = halve(image_shape, "infogan")
        layers: list[nn.Module] = []
        before = image_shape[0]
        for level in range(num_halvings):
            after = self.channels << level
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=level == 0))
            layers += [nn.BatchNorm2d(after)] if level > 0 else []
            layers.append(nn.LeakyReLU(NEGATIVE_SLOPE))
            before = after
        hidden = _hidden(before * math.prod(smallest), self.hidden_units, nn.LeakyReLU(NEGATIVE_SLOPE))
        num_outputs = sum(self.sizes) + self.num_continuous
        second_head = nn.Sequential(
            *_hidden(self.hidden_units, self.recognition_units, nn.LeakyReLU(NEGATIVE_SLOPE)),
            nn.Linear(self.recognition_units, num_outputs),
        )
        features = nn.Sequential(*layers, nn.Flatten(), *hidden)
        return HeadedDiscriminator(features, nn.Linear(self.hidden_units, 1), second_head)


def _hidden(num_inputs: int, num_outputs: int, activation: nn.Module) -> list[nn.Module]:
    return [nn.Linear(num_inputs, num_outputs, bias=False), nn.BatchNorm1d(num_outputs), activation]


class _Codes(nn.Module):
    """Latents to what G begins with: a one for each categorical code, continuous codes, and noise."""

    def __init__(self, sizes: tuple[int, ...], num_continuous: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_continuous = num_continuous

    def forward(self, latents: Tensor) -> Tensor:
        """Map (B, latent_dim) to the same shape."""
        made = codes(latents, self.sizes, self.num_continuous)
        ones = [
            one_hot(category, size, latents.dtype)
            for category, size in zip(made.categories.unbind(1), self.sizes, strict=True)
        ]
        return torch.cat([*ones, made.continuous, made.noise], 1)
