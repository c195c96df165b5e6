"""Bytes that a recipe's networks take in training, counted without making them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.images import ImageShape
from gan.methods.optimizers import Adam, RMSprop
from gan.models.architectures import build_discriminator, build_generator
from gan.models.networks import num_parameters
from gan.process.memory import require_memory
from gan.recipes import Recipe
from gan.training.optimizers import build_optimizer

FLOAT_BYTES = 4
LARGE_IMAGE = 2**17
"""Numbers in an image from which on it is asked whether the networks fit; to count them takes up to a second."""


@dataclass(frozen=True)
class Footprint:
    """What lives on the device from step to step, over both networks and in one process.

    Activations are not in it: they live within a step, and grow with the batch. Nor are copies in half precision.

    Attributes:
        generator_parameters: Numbers in G's parameters.
        discriminator_parameters: Numbers in D's parameters.
        weight_bytes: Parameters and buffers.
        gradient_bytes: A gradient of each parameter.
        optimizer_bytes: What the optimizers keep after their first update.
        average_bytes: The moving average of G; 0 for a recipe without one.
        controller_bytes: What adapts augmentation, and averages that the penalty of G and LeCam compare with.
    """

    generator_parameters: int
    discriminator_parameters: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    controller_bytes: int

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint at the end of an epoch, but for its header."""
        return self.weight_bytes + self.optimizer_bytes + self.average_bytes + self.controller_bytes


def require_memory_of_networks(
    recipe: Recipe, image_shape: ImageShape, num_classes: int, device: torch.device
) -> None:
    """Raise UsageError where weights, gradients and the two averages that an optimizer keeps do not fit.

    Of networks that cannot be built, `rehearse` says what is wrong.
    """
    if math.prod(image_shape) < LARGE_IMAGE:
        return
    try:
        networks = networks_without_contents(recipe, image_shape, num_classes)
    except UsageError:
        raise
    except Exception:  # whatever a user's values or classes raise
        return
    count = sum(map(num_parameters, networks.values()))
    shape = "×".join(map(str, image_shape))
    networks_of = f"--image-shape: networks of {count:,} parameters for images of {shape}"
    require_memory(networks_of, 16 * count, device, "--image-shape")


def footprint(recipe: Recipe, image_shape: ImageShape, num_classes: int) -> Footprint:
    """Count the bytes of a recipe's networks for images of a shape.

    The networks are built and updated once without contents.

    Raises:
        UsageError: The architecture has no networks for images of this shape.
    """
    networks = networks_without_contents(recipe, image_shape, num_classes)
    parameters = [parameter for network in networks.values() for parameter in network.parameters()]
    return Footprint(
        generator_parameters=num_parameters(networks["generator"]),
        discriminator_parameters=num_parameters(networks["discriminator"]),
        weight_bytes=sum(map(_state_bytes, networks.values())),
        gradient_bytes=sum(parameter.nbytes for parameter in parameters),
        optimizer_bytes=sum(
            _optimizer_bytes(recipe.optimizers[name], network) for name, network in networks.items()
        ),
        average_bytes=_state_bytes(networks["generator"]) if recipe.ema_half_life else 0,
        controller_bytes=FLOAT_BYTES * _num_controlled(recipe),
    )


def networks_without_contents(recipe: Recipe, image_shape: ImageShape, num_classes: int) -> dict[str, nn.Module]:
    """Build G and D on the meta device, whose tensors have shapes and no contents."""
    with torch.device("meta"):
        return {
            "generator": build_generator(recipe.generator, recipe.latent_dim, image_shape, num_classes),
            "discriminator": build_discriminator(recipe.discriminator, image_shape, num_classes),
        }


def _num_controlled(recipe: Recipe) -> int:
    """Return the numbers that a checkpoint holds beside networks, optimizers and the average of G."""
    of_adaptation = 3 if recipe.adaptive else 0  # the probability, the sum of signs, and r_t
    return of_adaptation + (1 if recipe.lazy_generator_penalty else 0) + (2 if recipe.lecam else 0)


def _state_bytes(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def _optimizer_bytes(settings: Adam | RMSprop, network: nn.Module) -> int:
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)
    optimizer = build_optimizer(settings, network, torch.device("meta"))
    optimizer.step()
    kept = (value for values in optimizer.state.values() for value in values.values())
    return sum(value.nbytes for value in kept if isinstance(value, Tensor))
