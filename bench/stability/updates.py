"""The first update of each network in a step, by plain eager PyTorch and by the player of a state."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.stability.differences import gradients_of, weights_of
from bench.stability.steps import to_float64
from gan.methods.schedules import at
from gan.models.networks import apply
from gan.recipes import Recipe
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.player import Player
from gan.training.step import StepInputs

MOST_HALVINGS = 20
"""Of a loss scale that overflows."""


@dataclass(frozen=True)
class Update:
    """What an update computed, and what its optimizer started from.

    Attributes:
        loss: Of the network.
        gradients: Of its parameters.
        weights_before: Its parameters before; empty if none were moved.
        optimizer_before: The optimizer's `state_dict` before.
    """

    loss: float
    gradients: list[Tensor | None]
    weights_before: list[Tensor] = field(default_factory=list)
    optimizer_before: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FirstInputs:
    """What the first update of each network takes of a step's inputs.

    Attributes:
        inputs: Of the whole step.
        real: Images (B, C, H, W) of D's first update.
        fake: Generated images that it sees, (B, C, H, W).
        labels: Classes (B,) of both.
    """

    inputs: StepInputs
    real: Tensor
    fake: Tensor
    labels: Tensor | None

    @classmethod
    def of(cls, recipe: Recipe, inputs: StepInputs, fake: Tensor) -> "FirstInputs":
        """Take the first update's part of a step."""
        real = inputs.real.tensor_split(recipe.discriminator_steps)[0]
        return cls(inputs, real, fake, first_labels(recipe, inputs))

    def to_float64(self) -> "FirstInputs":
        """Return the same in float64."""
        return FirstInputs(to_float64(self.inputs), self.real.double(), self.fake.double(), self.labels)

    @property
    def mix(self) -> Tensor | None:
        """Numbers on [0, 1) for a gradient penalty, (B,)."""
        return None if self.inputs.mix is None else self.inputs.mix[0]

    @property
    def warps(self) -> Tensor | None:
        """Numbers on [0, 1) for the augmentation of real and generated images, (2, B, warp_dim)."""
        return None if self.inputs.warps is None else self.inputs.warps[0]

    def loss(self, objective: Any, name: str) -> Tensor:
        """Return the loss of a network's first update."""
        share = self.inputs.share
        latents = self.inputs.latents[0]
        loss: Tensor
        if name == "generator":
            loss = objective(latents, share, self.labels, self.real, self.warps).loss
        else:
            loss = objective(self.real, self.fake, share, self.mix, self.labels, self.warps, latents).loss
        return loss


def first_labels(recipe: Recipe, inputs: StepInputs) -> Tensor | None:
    """Return the classes (B,) of the first update, None for a recipe without."""
    return None if inputs.labels is None else inputs.labels.tensor_split(recipe.discriminator_steps)[0]


@dataclass(frozen=True)
class EagerNetworks:
    """Copies of both networks as plain PyTorch, in one eager process without autocast, in some dtype."""

    recipe: Recipe
    networks: dict[str, nn.Module]
    dtype: torch.dtype
    anchors: Tensor | None = None

    def generate(self, inputs: StepInputs) -> Tensor:
        """Return the generated images of the first update, (B, C, H, W)."""
        with torch.no_grad():
            latents = inputs.latents[0].to(self.dtype)
            return apply(self.networks["generator"], latents, first_labels(self.recipe, inputs))

    def update(self, name: str, first: FirstInputs) -> Update:
        """Return the loss and gradients of a network's first update, which is not applied."""
        objective = eager_objective(self.recipe, name, self.networks, anchors=self.anchors)
        loss = (first.to_float64() if self.dtype == torch.float64 else first).loss(objective, name)
        gradients = torch.autograd.grad(loss, list(self.networks[name].parameters()))
        return Update(loss.item(), list(gradients))


def eager_objective(
    recipe: Recipe,
    name: str,
    networks: dict[str, nn.Module],
    *,
    penalized: bool = True,
    anchors: Tensor | None = None,
) -> nn.Module:
    """Return a network's objective, neither compiled nor wrapped.

    Args:
        recipe: A row.
        name: Of the network.
        networks: Both.
        penalized: With everything that is added to the loss.
        anchors: LeCam's, shape (2,), of a recipe that has it.
    """
    discriminator = networks["discriminator"]
    weight = next(discriminator.parameters())
    probability = torch.tensor(recipe.probability(0), dtype=weight.dtype, device=weight.device)
    auxiliary = recipe.auxiliary if penalized else None
    shared_settings = (recipe.augmentation, auxiliary, probability)
    if name == "generator":
        top_k = torch.tensor(at(recipe.generator_top_k, 0), dtype=weight.dtype, device=weight.device)
        return GeneratorObjective(
            *(networks["generator"], discriminator, recipe.loss, *shared_settings),
            top_k=top_k if recipe.takes_top_k else None,
        )
    penalty = recipe.penalty if penalized else None
    return DiscriminatorObjective(
        *(discriminator, recipe.loss, penalty, *shared_settings),
        lecam=recipe.lecam if penalized else None,
        anchors=None if anchors is None else anchors.to(weight.dtype),
    )


def update_player(player: Player, name: str, first: FirstInputs) -> Update:
    """Take the first update of a network of the state, as the configuration takes it."""
    weights = weights_of(player.network)
    optimizer = copy.deepcopy(player.optimizer.state_dict())
    scaled = player.scaler.is_enabled()
    scale = player.scaler.get_scale() if scaled else 1.0
    for _ in range(MOST_HALVINGS):
        loss = first.loss(player.objective, name)
        player.optimizer.zero_grad()
        (scale * loss).backward()
        player.average_gradients()
        gradients = [None if value is None else value / scale for value in gradients_of(player.network)]
        if not scaled or all(value is None or value.isfinite().all() for value in gradients):
            break
        scale /= 2  # as the scaler does after a step that it skips
    for parameter, gradient in zip(player.network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    player.optimizer.step()
    return Update(loss.item(), gradients, weights, optimizer)
