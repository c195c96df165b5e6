"""T2."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.results.checks import Check
from bench.stability.differences import LEAST_LOSS, gradients_of, moves, relative_error, weights_of
from bench.stability.steps import doubled, plain_copies, step_inputs, still
from bench.subjects.plain import products_in_fp32
from gan.methods.augmentations import augment
from gan.methods.penalties import Penalty
from gan.models.networks import apply
from gan.recipes import Adam
from gan.run import Run
from gan.training.health import PLAYERS
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.state import Player, TrainState
from gan.training.step import StepInputs

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
GRADIENT_TIMES = 8.0
LOSS_TIMES = 16.0
COSINE_LIMIT = 0.01
FULL_PRECISION_LIMIT = 1e-4
PENALTY_LIMIT = 1e-3
OPTIMIZER_LIMIT = 1e-5
STEP_LIMIT = 1e-2
MOST_HALVINGS = 20


def precision_errors(run: Run, state: TrainState, precision: str) -> list[Check]:
    """T2: one update of each network from the state's weights against float64; the weights do move.

    Where a check fails another batch decides: a gradient jumps where an activation is 0, and rounding takes one
    across now and then. What is wrong is so on both.
    """
    first = _precision_errors(run, state, precision, step_inputs(run, 1))
    if all(check.passed for check in first):
        return first
    second = _precision_errors(run, state, precision, step_inputs(run, 2))
    return [a if a.passed else b for a, b in zip(first, second, strict=True)]


def _precision_errors(run: Run, state: TrainState, precision: str, inputs: StepInputs) -> list[Check]:
    networks = {name: player.network for name, player in state.players.items()}
    exact, single = (
        _Update(run, plain_copies(run, state, dtype), dtype) for dtype in (torch.float64, torch.float32)
    )
    checks: list[Check] = []
    with still(*networks.values(), *exact.networks.values(), *single.networks.values()):
        fake = exact.fakes(inputs).float()
        for name in reversed(PLAYERS):  # D's update would change what G is trained against
            with products_in_fp32(cudnn_tf32=False):
                expected, usual = exact.update(name, inputs, fake), single.update(name, inputs, fake)
            checks += _loss_from_logits(run, state, name, inputs, fake)
            if run.recipe.penalty and name == "discriminator":
                checks.append(_penalty_gradients(run, state, run.recipe.penalty, exact, inputs, fake))
            found = _own_update(run, state.players[name], name, inputs, fake)
            checks += _errors(name, found, usual, expected, UNIT_ROUNDOFF[precision] / UNIT_ROUNDOFF["fp32"])
            checks += _optimizer_errors(run, state.players[name], name, found)
    return checks


@dataclass(frozen=True)
class _Found:
    """An update's loss and gradients, and what the optimizer started from."""

    loss: float
    gradients: list[Tensor | None]
    weights: list[Tensor]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class _Update:
    """The objectives in one eager process without autocast, in some dtype."""

    run: Run
    networks: dict[str, nn.Module]
    dtype: torch.dtype

    def fakes(self, inputs: StepInputs) -> Tensor:
        with torch.no_grad():
            return apply(
                self.networks["generator"], inputs.latents[0].to(self.dtype), _first_labels(inputs, self.run)
            )

    def update(self, name: str, inputs: StepInputs, fake: Tensor) -> _Found:
        recipe, (generator, discriminator) = (
            self.run.recipe,
            (self.networks["generator"], self.networks["discriminator"]),
        )
        objective: nn.Module
        if name == "generator":
            objective = GeneratorObjective(generator, discriminator, recipe.loss, recipe.augmentation)
        else:
            objective = DiscriminatorObjective(discriminator, recipe.loss, recipe.penalty, recipe.augmentation)
        loss = _loss(
            objective,
            name,
            doubled(inputs) if self.dtype == torch.float64 else inputs,
            fake.to(self.dtype),
            self.run,
        )
        gradients = torch.autograd.grad(loss, list(self.networks[name].parameters()))
        return _Found(loss.item(), list(gradients), [], {})


def _first_labels(inputs: StepInputs, run: Run) -> Tensor | None:
    return None if inputs.labels is None else inputs.labels.tensor_split(run.recipe.discriminator_steps)[0]


def _loss(objective: Any, name: str, inputs: StepInputs, fake: Tensor, run: Run) -> Tensor:
    """Return the loss of a network's first update."""
    real = inputs.real.tensor_split(run.recipe.discriminator_steps)[0]
    labels = _first_labels(inputs, run)
    warps = None if inputs.warps is None else inputs.warps[0]
    loss: Tensor
    if name == "generator":
        loss = objective(inputs.latents[0], inputs.share, labels, real, warps).loss
    else:
        loss = objective(
            real, fake, inputs.share, None if inputs.mix is None else inputs.mix[0], labels, warps
        ).loss
    return loss


def _own_update(run: Run, player: Player, name: str, inputs: StepInputs, fake: Tensor) -> _Found:
    """Update a network of the state, and return the gradients and what came before."""
    weights, before = weights_of(player.network), copy.deepcopy(player.optimizer.state_dict())
    scale = player.scaler.get_scale() if player.scaler.is_enabled() else 1.0
    for _ in range(MOST_HALVINGS):
        loss = _loss(player.objective, name, inputs, fake, run)
        player.optimizer.zero_grad()
        (scale * loss).backward()
        gradients = [None if value is None else value / scale for value in gradients_of(player.network)]
        if not player.scaler.is_enabled() or all(value is None or value.isfinite().all() for value in gradients):
            break
        scale /= 2  # as the scaler does after a step that it skips
    for parameter, gradient in zip(player.network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    player.optimizer.step()
    return _Found(loss.item(), gradients, weights, before)


def _errors(name: str, found: _Found, usual: _Found, expected: _Found, coarser: float) -> list[Check]:
    """Compare with float64, in multiples of what fp32 gets; `coarser` is the ratio of unit roundoffs."""

    def of_loss(update: _Found) -> float:
        return abs(update.loss - expected.loss) / max(abs(expected.loss), LEAST_LOSS)

    def flat(update: _Found) -> Tensor:
        parts = zip(update.gradients, expected.gradients, strict=True)
        return torch.cat(
            [(torch.zeros_like(b) if a is None else a.double()).flatten() for a, b in parts if b is not None]
        )

    exact = flat(expected)
    own, theirs = (float((flat(update) - exact).norm() / exact.norm()) for update in (found, usual))
    smallest = UNIT_ROUNDOFF["fp32"]
    cosine = float(nn.functional.cosine_similarity(flat(found), exact, dim=0))
    return [
        Check(
            "T2",
            f"{name}'s loss",
            of_loss(found),
            LOSS_TIMES * coarser * max(of_loss(usual), smallest),
            "the loss is less exact than its precision explains: computed in half precision, or on unstable terms",
            of_loss(usual),
        ),
        Check(
            "T2",
            f"{name}'s gradients",
            own,
            GRADIENT_TIMES * coarser * max(theirs, smallest),
            "gradients are less exact than their precision explains: a sum or a norm in half precision",
            theirs,
        ),
        Check(
            "T2",
            f"{name}'s direction (1 - cosine)",
            1 - cosine,
            COSINE_LIMIT,
            "the update points elsewhere than in float64: this precision is too coarse for the recipe",
        ),
    ]


def _loss_from_logits(run: Run, state: TrainState, name: str, inputs: StepInputs, fake: Tensor) -> list[Check]:
    """Check that the loss of given logits is in fp32 whatever the networks' precision, in eager mode."""
    recipe, discriminator = run.recipe, state.discriminator.network
    if name == "generator":
        objective: nn.Module = GeneratorObjective(
            state.generator.network, discriminator, recipe.loss, recipe.augmentation
        )
    else:
        objective = DiscriminatorObjective(discriminator, recipe.loss, None, recipe.augmentation)
    logits: list[Tensor] = []
    hook = discriminator.register_forward_hook(lambda _module, _inputs, output: logits.append(output.double()))
    try:
        with torch.no_grad(), _unchanged(state), run.accelerator.autocast():
            found = _loss(objective, name, inputs, fake, run).item()
    finally:
        hook.remove()
    if name == "generator":
        losses = recipe.loss.generator(*logits)
    else:
        losses = recipe.loss.discriminator(*(logits[0].tensor_split(2) if len(logits) == 1 else logits))
    expected = losses.sum().item() * inputs.share
    return [
        Check(
            "T2",
            f"{name}'s loss, from its logits",
            abs(found - expected) / max(abs(expected), LEAST_LOSS),
            FULL_PRECISION_LIMIT,
            "the loss is computed in half precision: lift the logits to fp32 first",
        )
    ]


@contextmanager
def _unchanged(state: TrainState) -> Iterator[None]:
    """Put the networks' buffers back afterwards."""
    buffers = [buffer for player in state.players.values() for buffer in player.network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.data.copy_(value)


def _penalty_gradients(
    run: Run, state: TrainState, penalty: Penalty, exact: _Update, inputs: StepInputs, fake: Tensor
) -> Check:
    """Check that the penalty is computed in fp32 whatever the networks' precision."""
    recipe, network = run.recipe, state.discriminator.network
    real = inputs.real.tensor_split(recipe.discriminator_steps)[0]
    labels, mix = _first_labels(inputs, run), None if inputs.mix is None else inputs.mix[0]
    warps = (None, None) if inputs.warps is None else inputs.warps[0]
    real, fake = (
        augment(images, recipe.augmentation, warp) for images, warp in zip((real, fake), warps, strict=True)
    )

    def gradients(discriminator: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
        values = penalty(
            lambda images: apply(discriminator, images, labels),
            real.to(dtype),
            fake.to(dtype),
            None if mix is None else mix.to(dtype),
        )
        return torch.autograd.grad(values.sum(), list(discriminator.parameters()), materialize_grads=True)

    with _unchanged(state), run.accelerator.autocast():
        own = gradients(network, torch.float32)
    in_tf32 = torch.get_float32_matmul_precision() != "highest"
    return Check(
        "T2",
        "penalty's gradients",
        relative_error(own, gradients(exact.networks["discriminator"], torch.float64)),
        PENALTY_LIMIT * (100 if in_tf32 else 1),
        "the penalty is computed in half precision",
    )


def _optimizer_errors(run: Run, player: Player, name: str, found: _Found) -> list[Check]:
    """Repeat an optimizer's step in float64 from the same state, gradients and settings of the recipe."""
    settings = run.recipe.optimizer
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.RMSprop
    weights = [value.double().requires_grad_() for value in found.weights]
    optimizer: torch.optim.Optimizer = kind(weights, **settings.after(0))
    arguments = optimizer.state_dict()["param_groups"]
    before = found.optimizer["state"]
    optimizer.load_state_dict({"state": copy.deepcopy(before), "param_groups": arguments})
    for group in optimizer.param_groups:
        group |= {key: player.optimizer.param_groups[0][key] for key in ("lr", "betas", "alpha") if key in group}
    for parameter, gradient in zip(weights, found.gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.double()
    optimizer.step()
    after = player.optimizer.state_dict()["state"]
    averages = [
        (after.get(index, {}).get(key, torch.zeros_like(value)), value)
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if key != "step"
    ]
    expected = moves([value.detach() for value in weights], [value.double() for value in found.weights])
    own = moves(
        [value.double() for value in weights_of(player.network)], [value.double() for value in found.weights]
    )
    return [
        Check(
            "T2",
            f"{name}'s optimizer",
            relative_error(*(list(each) for each in zip(*averages, strict=True))),
            OPTIMIZER_LIMIT,
            "the optimizer's averages are kept in half precision, or were lost",
        ),
        Check(
            "T2",
            f"{name}'s step",
            relative_error(own, expected),
            STEP_LIMIT,
            "the weights do not move as the optimizer's settings say: another learning rate, or frozen",
        ),
    ]
