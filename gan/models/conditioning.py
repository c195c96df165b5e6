"""Networks that are given the class of an image."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

CLASS_WIDTH = 32
"""Numbers of the learned vector that stands for a class in G."""


def one_hot(indices: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Return a one in the place of each index (B,), and zeros elsewhere, shape (B, size).

    PyTorch's function of this name reads the largest index on the host, and so waits for the device.
    """
    return (indices.unsqueeze(1) == torch.arange(size, device=indices.device)).to(dtype)


class ConditionalGenerator(nn.Module):
    """A generator that gets a learned vector of the class after its latents.

    Mirza and Osindero 2014, arXiv:1411.1784, section 3.2.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.embedding = nn.Embedding(num_classes, CLASS_WIDTH)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Map latents (B, latent_dim) and classes (B,) to images (B, C, H, W)."""
        images: Tensor = self.network(torch.cat([latents, self.embedding(labels).to(latents.dtype)], 1))
        return images


class ProjectionDiscriminator(nn.Module):
    """A discriminator that adds the product of its features with a learned vector of the class.

    ``head(φ(x)) + <v_y, φ(x)>``, where φ is summed over pixels in the product (Miyato and Koyama 2018,
    arXiv:1802.05637, equation 4).
    """

    def __init__(self, network: nn.Sequential, num_classes: int) -> None:
        super().__init__()
        # Every discriminator ends with the layer that makes the logit, and a Flatten.
        layers = OrderedDict(list(network._modules.items())[:-2])
        self.features = nn.Sequential(layers)  # a slice would call the constructor of a user's class
        self.head = network[-2]
        assert isinstance(self.head, nn.Linear | nn.Conv2d)
        self.embedding = nn.Embedding(num_classes, self.head.weight.shape[1])
        nn.init.normal_(self.embedding.weight, 0.0, 0.02)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Map images (B, C, H, W) and classes (B,) to logits (B,)."""
        features = self.features(images)
        logits: Tensor = self.head(features).flatten()
        pooled = features.view(*features.shape[:2], -1).sum(2)
        product: Tensor = self.embedding(labels).to(pooled.dtype) * pooled
        return logits + product.sum(1)
