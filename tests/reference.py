"""What the tests compare the step with, and doubles that make it comparable."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.recipes import RECIPES
from gan.seeds import derive_seed
from gan.state import PLAYERS, TrainState, build_state

IMAGE_SHAPE = (1, 28, 28)


class FixedDropout(nn.Module):
    """Dropout whose mask depends on the layer and on the row's place in the global batch, not on who draws it.

    `rows` are the places of this process's images; a pass over real and fake images has each of them twice.
    """

    def __init__(self, p: float, seed: int, rows: Tensor) -> None:
        super().__init__()
        self.p, self.seed, self.rows = p, seed, rows

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        mask = torch.rand(512, x.shape[1], generator=generator, dtype=x.dtype) >= self.p
        rows = self.rows.repeat(len(x) // max(len(self.rows), 1))
        return x * mask[rows].to(x.device) / (1 - self.p)


def fix_dropout(network: nn.Module, rows: Tensor) -> None:
    """Replace each dropout layer of a sequential network by a fixed one."""
    for index, layer in enumerate(network):
        if isinstance(layer, nn.Dropout):
            network[index] = FixedDropout(layer.p, index, rows)


def float64_state(name: str, accelerator: Accelerator) -> TrainState:
    return build_state(RECIPES[name], IMAGE_SHAPE, accelerator, seed=3, steps_per_epoch=10, dtype=torch.float64)


def inputs(name: str, num_images: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Real images and latents in float64, the same at every call."""
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(derive_seed(7, "inputs", step, num_images))
    real = torch.rand(num_images, *IMAGE_SHAPE, generator=generator, dtype=torch.float64) * 2 - 1
    shape = (recipe.latents_per_step, num_images, recipe.latent_dim)
    return real, torch.randn(shape, generator=generator, dtype=torch.float64)


def gradients(state: TrainState) -> dict[str, Tensor]:
    """The gradients of the last update, by network and parameter."""
    return {
        f"{player}.{name}": parameter.grad.detach().clone()
        for player in PLAYERS
        for name, parameter in getattr(state, player).network.named_parameters()
    }


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float) -> None:
    """Compare by name: the norm of the difference relative to the norm.

    A bias before BatchNorm has a gradient of exactly 0 and rounding for a value, so that norms below 1e-5 of the
    largest count as that.
    """
    assert ours.keys() == theirs.keys()
    floor = 1e-5 * max(value.double().norm() for value in theirs.values())
    for name, value in theirs.items():
        error = (ours[name].double() - value.double()).norm() / value.double().norm().clamp(min=floor)
        assert error <= relative, f"{name}: relative error {error:.2e}"
