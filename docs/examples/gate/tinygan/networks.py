"""The two networks."""

import math

from torch import Tensor, nn

LATENT_DIM = 64
WIDTH = 512


class Generator(nn.Module):
    """Makes images of latents of shape (B, LATENT_DIM)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.Sequential(
            nn.Linear(LATENT_DIM, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, math.prod(shape)),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Return images of shape (B, *shape)."""
        return self.layers(latents).view(-1, *self.shape)


class Discriminator(nn.Module):
    """Scores images: above 0 it takes them for real."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return scores of shape (B, 1)."""
        return self.layers(images)
