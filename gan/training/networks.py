"""A recipe's two networks, as a run begins with them."""

import torch
from torch import nn

from gan.images import ImageShape
from gan.models.architectures import build_discriminator, build_generator
from gan.models.batch_statistics import synchronize_batchnorm
from gan.models.cpu_layers import use_cpu_layers
from gan.models.initialization import initialize
from gan.recipes import Recipe
from gan.seeds import derive_seed, seed_default_generator
from gan.training.execution import Execution
from gan.training.recompute import recompute_in_backward


def build_networks(
    recipe: Recipe,
    image_shape: ImageShape,
    num_classes: int,
    seed: int,
    *,
    device: torch.device,
    dtype: torch.dtype,
    execution: Execution,
    world_size: int,
) -> dict[str, nn.Module]:
    """Build and initialise G and D, by name; the same seed gives the same weights on every device.

    Args:
        recipe: Its row.
        image_shape: Channels, height, width.
        num_classes: Of a conditional recipe; 0 otherwise.
        seed: Of the run.
        device: Where they go.
        dtype: Of their weights.
        execution: Says how weights lie in memory, and whether activations are computed again; without "auto".
        world_size: Number of ranks, over which BatchNorm has its statistics.
    """
    seed_default_generator(torch.device("cpu"), derive_seed(seed, "initialization"))
    networks = {
        "generator": build_generator(recipe.generator, recipe.latent_dim, image_shape, num_classes),
        "discriminator": build_discriminator(recipe.discriminator, image_shape, num_classes),
    }
    for network in networks.values():
        initialize(network, recipe.initialization)
        execution.place(network, device, dtype)
        if device.type == "cpu":
            use_cpu_layers(network)
    if world_size > 1:
        networks = {name: synchronize_batchnorm(network, device) for name, network in networks.items()}
    if execution.recompute:
        for network in networks.values():
            recompute_in_backward(network)
    return networks
