"""T2, what must be in fp32 whatever precision the networks have: losses, penalties, optimizers.

The limits are fixed. They lie above what fp32 gets and below what half precision gets.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bench.results.checks import Check
from bench.stability.differences import moves, relative_error, relative_loss_error, weights_of
from bench.stability.updates import EagerNetworks, FirstInputs, Update, eager_objective
from gan.methods.augmentations import augment
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import Penalty
from gan.methods.schedules import at
from gan.methods.top_k import top_k_weights
from gan.models.networks import apply
from gan.recipes import Recipe
from gan.session.run import Run
from gan.training.player import Player
from gan.training.state import TrainState

LOGITS_LIMIT = 1e-4
PENALTY_LIMIT = 1e-3
TF32_TIMES = 100
"""As a multiple of PENALTY_LIMIT: under tf32 the penalty's matrix products have 10 bits, too."""
OPTIMIZER_LIMIT = 1e-5
STEP_LIMIT = 1e-2
FP32_ROUNDING = 2.0**-23
"""Of a weight, relative to it, at the most."""
FOLLOWED_SETTINGS = ("lr", "betas", "alpha")
"""Settings that a schedule may have changed since the first step."""


def loss_from_logits(run: Run, state: TrainState, name: str, first: FirstInputs) -> Check:
    """Compare a network's loss with the loss of the same logits in float64, in eager mode."""
    loss_of = run.recipe.loss
    networks = {player_name: player.network for player_name, player in state.players.items()}
    discriminator = networks["discriminator"]
    objective = eager_objective(run.recipe, name, networks, penalized=False)
    logits: list[Tensor] = []
    hook = discriminator.register_forward_hook(lambda _module, _inputs, output: logits.append(output.double()))
    try:
        with torch.no_grad(), _buffers_kept(state), run.accelerator.autocast():
            loss = first.loss(objective, name).item()
    finally:
        hook.remove()
    if name == "generator":
        losses = loss_of.generator(*logits)
        if run.recipe.takes_top_k:
            losses = losses * top_k_weights(logits[0], at(run.recipe.generator_top_k, 0))
    else:  # one forward pass of real and generated images together, or two
        losses = loss_of.discriminator(*(logits[0].tensor_split(2) if len(logits) == 1 else logits))
    return Check(
        "T2",
        f"{name}'s loss, from its logits",
        relative_loss_error(loss, losses.sum().item() * first.batch.share),
        LOGITS_LIMIT,
        "the loss is computed in half precision: lift the logits to fp32 first",
    )


@contextmanager
def _buffers_kept(state: TrainState) -> Iterator[None]:
    """Put the networks' buffers back afterwards."""
    buffers = [buffer for player in state.players.values() for buffer in player.network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.data.copy_(value)


def penalty_gradients(
    run: Run, state: TrainState, penalty: Penalty, exact: EagerNetworks, first: FirstInputs
) -> Check:
    """Compare the gradients of D's penalty with float64, at images as D sees them."""
    of_real, of_fake = first.batch.warp_pair
    real = augment(first.batch.real, run.recipe.augmentation, of_real)
    fake = augment(first.fake, run.recipe.augmentation, of_fake)
    mix = first.batch.mix

    def gradients(discriminator: nn.Module, dtype: torch.dtype, *, autocast: bool) -> tuple[Tensor, ...]:
        with run.accelerator.autocast() if autocast else nullcontext():
            values = penalty(
                lambda images: apply(discriminator, images, first.batch.labels),
                real.to(dtype),
                fake.to(dtype),
                None if mix is None else mix.to(dtype),
            )
        # outside of autocast, as in a step: inside, products of the backward pass would be in half precision
        return torch.autograd.grad(values.sum(), list(discriminator.parameters()), materialize_grads=True)

    with _buffers_kept(state):
        ours = gradients(state.discriminator.network, torch.float32, autocast=True)
    in_tf32 = torch.get_float32_matmul_precision() != "highest"
    return Check(
        "T2",
        "penalty's gradients",
        relative_error(ours, gradients(exact.networks["discriminator"], torch.float64, autocast=False)),
        PENALTY_LIMIT * (TF32_TIMES if in_tf32 else 1),
        "the penalty is computed in half precision",
    )


def optimizer_errors(recipe: Recipe, player: Player, name: str, update: Update) -> list[Check]:
    """Compare an optimizer's averages and step with the same step in float64.

    Args:
        recipe: Whose settings the optimizers should have.
        player: After the update.
        name: Of the network.
        update: The gradients, and what the optimizer started from.
    """
    before = [value.double() for value in update.weights_before]
    exact, weights = _exact_step(recipe.optimizers[name], player, update)
    after = player.optimizer.state_dict()["state"]
    averages = [
        (after.get(index, {}).get(key, torch.zeros_like(value)), value)
        for index, values in exact.state_dict()["state"].items()
        for key, value in values.items()
        if key != "step"
    ]
    our_moves = moves([value.double() for value in weights_of(player.network)], before)
    exact_moves = moves(weights, before)
    return [
        Check(
            "T2",
            f"{name}'s optimizer",
            relative_error([ours for ours, _ in averages], [value for _, value in averages]),
            OPTIMIZER_LIMIT,
            "the optimizer's averages are kept in half precision, or were lost",
        ),
        Check(
            "T2",
            f"{name}'s step",
            relative_error(_without_rounding(our_moves, exact_moves, before), exact_moves),
            STEP_LIMIT,
            "the weights do not move as the optimizer's settings say: another learning rate, or frozen",
        ),
    ]


def _without_rounding(ours: Sequence[Tensor], exact: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Return our moves, each nearer to the exact one by as much as a weight in fp32 is rounded.

    Those of StyleGAN2's mapping are about 100, and move by a few roundings in a step.
    """
    differences = [
        (a - b, FP32_ROUNDING * weight.abs()) for a, b, weight in zip(ours, exact, weights, strict=True)
    ]
    return [
        b + difference.sign() * (difference.abs() - rounding).clamp(min=0)
        for b, (difference, rounding) in zip(exact, differences, strict=True)
    ]


def _exact_step(
    settings: Adam | RMSprop, player: Player, update: Update
) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    """Repeat an optimizer's step in float64; return the optimizer and the weights after it."""
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.RMSprop
    weights = [value.double().requires_grad_() for value in update.weights_before]
    optimizer: torch.optim.Optimizer = kind(weights, **settings.after(0))
    averages = copy.deepcopy(update.optimizer_before["state"])
    optimizer.load_state_dict({"state": averages, "param_groups": optimizer.state_dict()["param_groups"]})
    followed = player.optimizer.param_groups[0]
    for group in optimizer.param_groups:
        group |= {key: _number(followed[key]) for key in FOLLOWED_SETTINGS if key in group}
    for parameter, gradient in zip(weights, update.gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.double()
    optimizer.step()
    return optimizer, [value.detach() for value in weights]


def _number(setting: Any) -> Any:
    """Return an optimizer's setting as a number, or a tuple of some; for CUDA graphs it may have tensors."""
    if isinstance(setting, tuple):
        return tuple(map(_number, setting))
    return setting.item() if isinstance(setting, Tensor) else setting
