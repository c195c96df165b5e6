"""The plain tutorial loop, as people write it: what the training core is compared with.

A DataLoader with per-item transforms, BCELoss on a sigmoid, D trainable in G's turn, `.item()` at each step, fp32,
eager, Adam with its defaults.
"""

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gan.images import Sampling
from gan.losses import NonSaturating
from gan.networks import INITIALIZERS
from gan.recipes import Recipe


def plain_step(
    recipe: Recipe,
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Tensor,
    latents: Tensor,
) -> list[float]:
    """Take one step of a recipe as its tutorial would, and return loss_d, loss_g, p_real and p_fake.

    Args:
        recipe: One of the non-saturating rows.
        generator: Latents (B, latent_dim) to images (B, C, H, W).
        discriminator: Images to *probabilities* (B,).
        optimizer_g: Of the generator.
        optimizer_d: Of the discriminator.
        real: Images in [-1, 1], shape (B, C, H, W).
        latents: Shape (recipe.latents_per_step, B, latent_dim).
    """
    objective = recipe.loss
    assert isinstance(objective, NonSaturating)
    bce = nn.BCELoss()
    valid = torch.ones(len(real), dtype=real.dtype, device=real.device)
    smooth = torch.full((len(real),), objective.real_label, dtype=real.dtype, device=real.device)
    invalid = torch.zeros(len(real), dtype=real.dtype, device=real.device)

    def update_generator(z: Tensor) -> tuple[Tensor, float]:
        optimizer_g.zero_grad()
        fake = generator(z)
        loss = bce(discriminator(fake), valid)
        loss.backward()
        optimizer_g.step()
        return fake, loss.item()

    def update_discriminator(fake: Tensor) -> tuple[float, float, float]:
        optimizer_d.zero_grad()
        p_real, p_fake = discriminator(real), discriminator(fake.detach())
        loss = objective.scale * (bce(p_real, smooth) + bce(p_fake, invalid))
        loss.backward()
        optimizer_d.step()
        return loss.item(), p_real.mean().item(), p_fake.mean().item()

    if recipe.generator_first:
        fake, loss_g = update_generator(latents[0])
        loss_d, p_real, p_fake = update_discriminator(fake)
    else:
        loss_d, p_real, p_fake = update_discriminator(generator(latents[0]))
        _, loss_g = update_generator(latents[1])
    return [loss_d, loss_g, p_real, p_fake]


class _Pictures(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, C, H, W), each made a PIL image and transformed, as torchvision's MNIST and CIFAR10 do."""

    def __init__(self, images: Tensor) -> None:
        channels = images.shape[1]
        self.images = images[:, 0].cpu() if channels == 1 else images.permute(0, 2, 3, 1).contiguous().cpu()
        normalize = transforms.Normalize([0.5] * channels, [0.5] * channels)
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), 0


def plain_loop(recipe: Recipe, images: Tensor, batch_size: int, device: torch.device) -> Iterator[list[float]]:
    """Train on uint8 images (N, C, H, W) forever, yielding after each step what a tutorial would print."""
    _, channels, height, width = images.shape
    shape = (channels, height, width)
    generator = recipe.generator.generator(recipe.latent_dim, shape)
    discriminator = nn.Sequential(recipe.discriminator.discriminator(shape), nn.Sigmoid())
    for network in (generator, discriminator):
        INITIALIZERS[recipe.initialization](network)
        network.to(device)
    settings = recipe.optimizer
    optimizer_g, optimizer_d = (
        torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, settings.eps)
        for network in (generator, discriminator)
    )
    loader = DataLoader(
        _Pictures(images),
        batch_size=batch_size,
        shuffle=True,
        drop_last=recipe.sampling is not Sampling.SHUFFLE,
    )
    while True:
        for batch, _ in loader:
            real = batch.to(device)
            latents = torch.randn(recipe.latents_per_step, len(real), recipe.latent_dim, device=device)
            yield plain_step(recipe, generator, discriminator, optimizer_g, optimizer_d, real, latents)
