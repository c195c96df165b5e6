"""What the tests compare the step with, and doubles that make it comparable."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn

from bench.subjects.plain_step import plain_optimizers, plain_step
from gan.data.datasets import STORED_DATASETS
from gan.methods.augmentations import UNIFORMS
from gan.models.style_generator import NoiseInput, StyleGenerator
from gan.models.stylegan2 import StyleGAN2
from gan.recipe_files import label_of, recipe_named
from gan.recipes import RECIPES, Recipe
from gan.recipes_small import small
from gan.seeds import derive_seed
from gan.training.batch import Batch, StepInputs
from gan.training.health import PLAYERS
from gan.training.metrics import METRICS
from gan.training.state import TrainState, build_state
from gan.training.step import train_step

IMAGE_SHAPE = (1, 28, 28)
NUM_CLASSES = 3


def narrow_convolutions() -> None:
    """Give every row's convolutions few channels, so that tests of all rows take no longer than they must."""
    RECIPES.update({name: small(name) for name in RECIPES})


def dataset_of(name: str) -> dict[str, Any]:
    """Return the options with which a row can train here: a row for images of the user's takes synthetic ones."""
    if RECIPES[name].dataset not in STORED_DATASETS:
        return {}
    return {"dataset": "synthetic", "image_shape": IMAGE_SHAPE}


def draws_in_training(row: Recipe) -> bool:
    """Say whether a network of a row draws in each pass: dropout, or what a style-based G adds and mixes."""
    networks = (row.generator, row.discriminator)
    return isinstance(row.generator, StyleGAN2) or any(getattr(network, "dropout", 0) for network in networks)


def with_large_epsilon(row: Recipe) -> Recipe:
    """Return the row with an optimizer that answers a gradient near 0 with a small update.

    Adam divides by the gradient's size, so that with a row's own epsilon the rounding of such gradients grows from
    step to step, into differences of some 1e-3 after 100 updates.
    """
    of_discriminator = row.discriminator_optimizer and replace(row.discriminator_optimizer, eps=1e-3)
    return replace(row, optimizer=replace(row.optimizer, eps=1e-3), discriminator_optimizer=of_discriminator)


class FixedDropout(nn.Module):
    """Dropout whose mask depends on the layer and on the row's place in the global batch, not on who draws it.

    `rows` are the places of this process's images; a pass over real and fake images has each of them twice.
    """

    def __init__(self, p: float, seed: int, rows: Tensor) -> None:
        super().__init__()
        self.p, self.seed, self.rows = p, seed, rows

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        mask = torch.rand(512, *x.shape[1:], generator=generator, dtype=x.dtype) >= self.p
        rows = self.rows.repeat(len(x) // max(len(self.rows), 1))
        return x * mask[rows].to(x.device) / (1 - self.p)


def fix_dropout(network: nn.Module, rows: Tensor) -> None:
    """Replace each dropout layer by a fixed one, and fix what a style-based G draws."""
    for part in list(network.modules()):
        if isinstance(part, nn.Sequential):
            for index, layer in enumerate(part):
                if isinstance(layer, nn.Dropout):
                    part[index] = FixedDropout(layer.p, index, rows)
    for index, layer in enumerate(network.modules()):
        if isinstance(layer, NoiseInput):
            layer.draw = partial(_fixed_noise, index, rows)
        elif isinstance(layer, StyleGenerator):
            layer.draw = partial(_fixed_styles, layer.synthesis.num_styles, rows)


def _fixed_noise(seed: int, rows: Tensor, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(512, 1, *x.shape[2:], generator=generator, dtype=x.dtype)
    return noise[rows].to(x.device)


def _fixed_styles(num_styles: int, rows: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_styles)
    others = torch.randn(512, latents.shape[1], generator=generator, dtype=latents.dtype)[rows]
    return others.to(latents.device), (1 + rows % num_styles).to(latents.device)


def leave_out_draws(network: nn.Module) -> None:
    """Let a network draw nothing in training: neither dropout, nor noise, nor second latents."""
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, NoiseInput):
            layer.draw = lambda x: torch.zeros_like(x[:, :1])
        elif isinstance(layer, StyleGenerator):
            layer.mixing = 0.0


OWN_RECIPE = str(Path(__file__).resolve().parent.parent / "own_recipe.py")
"""A recipe of a file, with networks, loss, penalty and augmentation of its own."""
SHARED_RECIPES = Path(__file__).resolve().parent.parent / "shared_recipes.py"
SHARED = [f"{SHARED_RECIPES}:{name}" for name in ("several", "relativistic", "clipped", "spectral", "dropout")]
"""Recipes that share fakes, and are no rows of RECIPES."""
STYLE = str(Path(__file__).resolve().parent.parent / "style_recipe.py")
"""A recipe whose G draws within, and whose D looks at groups of images."""
CLASS_RECIPES = Path(__file__).resolve().parent.parent / "class_recipes.py"
OF_CLASSES = [f"{CLASS_RECIPES}:{name}" for name in ("biggan", "sagan", "acgan", "infogan", "wide_r3gan")]
"""Recipes with networks of their own conditioning, or a second head."""
LAZY_RECIPES = Path(__file__).resolve().parent.parent / "lazy_recipes.py"
LAZY = [f"{LAZY_RECIPES}:{name}" for name in ("styled", "several", "adaptive")]
"""Recipes with penalties in updates of their own: of both networks, among several updates of D, with G first."""
SCHEDULED = f"{LAZY_RECIPES}:scheduled"
"""A recipe of which everything changes from step to step that can."""
OPTIONAL_RECIPES = Path(__file__).resolve().parent.parent / "optional_recipes.py"
OPTIONAL = f"{OPTIONAL_RECIPES}:optional"
"""A recipe with the options that no row has."""
AUGMENTED = f"{OPTIONAL_RECIPES}:augmented"
"""A recipe whose penalty has gradients that go through augmentation."""
NEAR = f"{OPTIONAL_RECIPES}:near"
"""A recipe that compares images of near latents."""
COMBINED = f"{OPTIONAL_RECIPES}:combined"
"""A recipe with whatever goes together, as far as no process or micro-batch chooses images."""
CHOSEN = f"{OPTIONAL_RECIPES}:chosen"
"""The same with top-k."""
OF_FILES = (OWN_RECIPE, *SHARED, STYLE, *OF_CLASSES, *LAZY, OPTIONAL, AUGMENTED, NEAR, COMBINED, CHOSEN)
ROWS = [*RECIPES, *(pytest.param(name, id=label_of(name)) for name in OF_FILES)]
"""Parameters of a test of every recipe."""


def small_state(name: str, accelerator: Accelerator, **settings: Any) -> TrainState:
    row = recipe_named(name)
    num_classes = NUM_CLASSES if row.conditional else 0
    return build_state(row, IMAGE_SHAPE, accelerator, num_classes=num_classes, **settings)


def float64_state(name: str, accelerator: Accelerator, **settings: Any) -> TrainState:
    return small_state(name, accelerator, seed=3, steps_per_epoch=10, dtype=torch.float64, **settings)


class Inputs(NamedTuple):
    """What a step takes: real images (updates of D, B, C, H, W), latents, what a penalty mixes, classes,
    what augmentation takes (2 * updates + 2, B, uniform numbers of an image).
    """

    real: Tensor
    latents: Tensor
    mix: Tensor
    labels: Tensor
    warps: Tensor

    def rows(self, rows: Tensor) -> "Inputs":
        """One process's part."""
        return Inputs(*(tensor[:, rows] for tensor in self))

    def to(self, *where: object) -> "Inputs":
        moved = [tensor.to(*where) for tensor in (*self[:3], self.warps)]
        device = next((place for place in where if not isinstance(place, torch.dtype)), self.labels.device)
        return Inputs(*moved[:3], self.labels.to(device), moved[3])

    def train(self, state: TrainState, share: float) -> Tensor:
        return train_step(state, self.of(state, share))

    def of(self, state: TrainState, share: float) -> StepInputs:
        """What `train_step` takes."""
        labels = self.labels.flatten() if state.num_classes else None
        warps = self.update_warps if state.recipe.augmentation else None
        directions = self.directions if state.recipe.generator_penalty else None
        real = self.real.flatten(0, 1)
        return StepInputs(real, self.latents, share, self.mix, labels, warps, directions=directions)

    def first_batch(self, state: TrainState, share: float) -> Batch:
        """What the first update of D takes of it."""
        return self.of(state, share).batch(state.recipe.discriminator_steps, 0)

    @property
    def directions(self) -> Tensor:
        """`StepInputs.directions`; any numbers will do."""
        return 1.5 * self.real[-1]

    @property
    def update_warps(self) -> Tensor:
        """`StepInputs.warps`."""
        return self.warps.unflatten(0, (-1, 2))


def inputs(name: str, num_images: int, step: int = 0) -> Inputs:
    """What a step takes in float64, the same at every call."""
    recipe = recipe_named(name)
    updates = recipe.discriminator_steps
    generator = torch.Generator().manual_seed(derive_seed(7, "inputs", step, num_images))
    settings = {"generator": generator, "dtype": torch.float64}
    real = torch.rand(updates, num_images, *IMAGE_SHAPE, **settings) * 2 - 1
    latents = torch.randn(recipe.latents_per_step, num_images, recipe.latent_dim, **settings)
    mix = torch.rand(updates, num_images, **settings)
    labels = torch.randint(NUM_CLASSES, (updates, num_images), generator=generator)
    num_uniforms = recipe.warp_dim or UNIFORMS
    return Inputs(real, latents, mix, labels, torch.rand(2 * updates + 2, num_images, num_uniforms, **settings))


def gradients(state: TrainState) -> dict[str, Tensor]:
    """The gradients of the last update, by network and parameter."""
    return {
        f"{player}.{name}": parameter.grad.detach().clone()
        for player in PLAYERS
        for name, parameter in getattr(state, player).network.named_parameters()
    }


def step_gradients(name: str, backend: str, *, cpu: bool) -> dict[str, Tensor]:
    """The gradients of a step's last update in float64, and Adam's moments, which have those of every update.

    Nothing is drawn. The networks are compiled by `backend`, unless that is "no".
    """
    torch._dynamo.reset()
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=cpu, dynamo_plugin=TorchDynamoPlugin(backend=backend))
    state = float64_state(name, accelerator)
    for player in state.players.values():
        leave_out_draws(player.network)
    inputs(name, 6).to(accelerator.device).train(state, 1 / 6)
    moments = {key: value for key, value in state.tensors().items() if ".optimizer." in key and value.ndim}
    return gradients(state) | moments


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


def assert_steps_of_the_tutorial(name: str, state: TrainState, num_images: int, num_steps: int) -> None:
    """Take steps of a row in float64, beside those of the plain loop on contiguous copies of the networks."""
    players = (state.generator, state.discriminator)
    for player in players:
        fix_dropout(player.network, torch.arange(num_images))
    plain = [copy.deepcopy(player.network).to(memory_format=torch.contiguous_format) for player in players]
    optimizers = plain_optimizers(state.recipe, *plain)
    state.discriminator.objective.one_pass = False  # a pass is also an iteration of spectral norm
    mean = torch.zeros((), dtype=torch.float64)
    anchors = torch.zeros(2, dtype=torch.float64)
    for step in range(num_steps):
        state.progress.step = step
        taken = inputs(name, num_images, step)
        labels = taken.labels if state.recipe.conditional else (None,)
        of_penalty = {"directions": taken.directions, "mean": mean, "step": step, "anchors": anchors}
        expected = plain_step(
            state.recipe, *plain, *optimizers, *taken[:3], labels, warps=taken.update_warps, **of_penalty
        )
        metrics = taken.train(state, share=1 / num_images)[: len(METRICS)]
        assert metrics.tolist() == pytest.approx(expected, rel=1e-10)
    for player, network in zip(players, plain, strict=True):
        assert_close(player.network.state_dict(), network.state_dict(), relative=1e-6)
    if state.generator_penalty_mean is not None:
        torch.testing.assert_close(state.generator_penalty_mean, mean, rtol=1e-9, atol=0)
    if state.anchors is not None:
        torch.testing.assert_close(state.anchors, anchors, rtol=1e-9, atol=0)
