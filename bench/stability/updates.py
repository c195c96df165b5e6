"""The first update of each network in a step, by plain eager PyTorch and by the player of a state."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.stability.differences import gradients_of, weights_of
from gan.methods.schedules import at
from gan.models.networks import apply
from gan.recipes import Recipe
from gan.training.batch import Batch, StepInputs
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.player import Player
from gan.training.state import TrainState
from gan.training.terms import Terms

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
        batch: Of D's first update. G takes the same.
        fake: Generated images that D sees, (B, C, H, W).
    """

    batch: Batch
    fake: Tensor

    @classmethod
    def of(cls, recipe: Recipe, inputs: StepInputs, fake: Tensor) -> "FirstInputs":
        """Take the first update's part of a step."""
        return cls(inputs.batch(recipe.discriminator_steps, 0), fake)

    def to_float64(self) -> "FirstInputs":
        """Return the same in float64."""
        in_float64: dict[str, Any] = {
            name: value.double()
            for name, value in vars(self.batch).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return FirstInputs(replace(self.batch, **in_float64), self.fake.double())

    def loss(self, objective: Any, name: str) -> Tensor:
        """Return the loss of a network's first update."""
        output = objective(self.batch) if name == "generator" else objective(self.batch, self.fake)
        loss: Tensor = output.loss
        return loss


@dataclass(frozen=True)
class EagerNetworks:
    """Copies of a state's networks as plain PyTorch, in one eager process without autocast, in some dtype."""

    state: TrainState
    networks: dict[str, nn.Module]
    dtype: torch.dtype

    @property
    def recipe(self) -> Recipe:
        """Of the state."""
        return self.state.recipe

    def generate(self, inputs: StepInputs) -> Tensor:
        """Return the generated images of the first update, (B, C, H, W)."""
        with torch.no_grad():
            batch = inputs.batch(self.recipe.discriminator_steps, 0)
            return apply(self.networks["generator"], batch.latents.to(self.dtype), batch.labels)

    def update(self, name: str, first: FirstInputs) -> Update:
        """Return the loss and gradients of a network's first update, which is not applied."""
        objective = eager_objective(self.recipe, name, self.networks, state=self.state)
        loss = (first.to_float64() if self.dtype == torch.float64 else first).loss(objective, name)
        gradients = torch.autograd.grad(loss, list(self.networks[name].parameters()))
        return Update(loss.item(), list(gradients))


def eager_objective(
    recipe: Recipe,
    name: str,
    networks: dict[str, nn.Module],
    *,
    penalized: bool = True,
    state: TrainState | None = None,
) -> nn.Module:
    """Return a network's objective, neither compiled nor wrapped.

    Args:
        recipe: A row.
        name: Of the network.
        networks: Both.
        penalized: With everything that is added to the loss.
        state: Whose losses it has as they are now; None for those before the first step.
    """
    discriminator = networks["discriminator"]
    weight = next(discriminator.parameters())
    terms = Terms.of(recipe, weight.dtype, weight.device)
    if state is not None:
        _follow(terms, state)
    if not penalized:
        terms = replace(
            terms, auxiliary=None, penalty=None, lecam=None, latent_consistency=None, generator_terms=()
        )
    if name == "generator":
        return GeneratorObjective(networks["generator"], discriminator, terms)
    objective = DiscriminatorObjective(discriminator, terms)
    if state is not None and recipe.penalty:
        objective.penalty_weight.fill_(at(recipe.penalty.weight, state.progress.images_seen))
    return objective


def _follow(terms: Terms, state: TrainState) -> None:
    """Give terms what a state has adapted, and schedules at the images that it has seen."""
    recipe = state.recipe
    seen = state.progress.images_seen
    if terms.top_k is not None:
        terms.top_k.fill_(at(recipe.generator_top_k, seen))
    if terms.probability is not None:
        terms.probability.fill_(recipe.probability(seen))
        if state.adaptation is not None:
            terms.probability.copy_(state.adaptation.probability)
    if terms.anchors is not None and state.anchors is not None:
        terms.anchors.copy_(state.anchors)


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
