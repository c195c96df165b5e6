"""T2, precision: is it exact enough? One update of each network against float64, from the same weights and inputs.

How large an error may be depends on the recipe: some sums cancel, some do not. So the measure is the error that
fp32 makes in one eager process, and a coarser precision may make it larger by the ratio of the unit roundoffs.
"""

import math

import torch
from torch import Tensor, nn

from bench.results.checks import Check
from bench.stability.differences import relative_difference, relative_loss_error
from bench.stability.exchange import exchange_errors
from bench.stability.full_precision import loss_from_logits, optimizer_errors, penalty_gradients
from bench.stability.steps import plain_copies, step_inputs, still
from bench.stability.updates import EagerNetworks, FirstInputs, Update, update_player
from bench.subjects.plain import products_in_fp32
from gan.session.run import Run
from gan.training.batch import StepInputs
from gan.training.health import PLAYERS
from gan.training.state import TrainState

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
GRADIENT_TIMES = 8.0
LOSS_TIMES = 16.0
"""As multiples of the error that the unit roundoff explains. A loss is one number, whose error in fp32 is
sometimes small by chance. So losses get more room."""
COSINE_LIMIT = 0.01


def precision_errors(run: Run, state: TrainState, precision: str) -> list[Check]:
    """Compare the first update of each network with float64, and apply it.

    In several processes, only what they exchange is compared, by `exchange_errors`.

    If a check fails, another batch decides. The gradient of a network with ReLUs jumps where an activation is 0,
    and rounding sometimes takes an activation across 0. A fault shows on both batches.

    Args:
        run: Over labelled images in memory.
        state: Of the run, whose weights are the starting point. They move.
        precision: Of the configuration.
    """
    if run.place.world_size > 1:  # the rest is what one process computes
        return exchange_errors(run)
    first = _errors_on(run, state, precision, step_inputs(run, 1))
    if all(check.passed for check in first):
        return first
    second = _errors_on(run, state, precision, step_inputs(run, 2))
    return [a if a.passed else b for a, b in zip(first, second, strict=True)]


def _errors_on(run: Run, state: TrainState, precision: str, inputs: StepInputs) -> list[Check]:
    recipe = run.recipe
    networks = [player.network for player in state.players.values()]
    exact = EagerNetworks(state, plain_copies(run, state, torch.float64), torch.float64)
    single = EagerNetworks(state, plain_copies(run, state, torch.float32), torch.float32)
    coarser = UNIT_ROUNDOFF[precision] / UNIT_ROUNDOFF["fp32"]
    checks: list[Check] = []
    with still(*networks, *exact.networks.values(), *single.networks.values()):
        first = FirstInputs.of(recipe, inputs, exact.generate(inputs).float())
        for name in reversed(PLAYERS):  # D's update would change what G is trained against
            player = state.players[name]
            with products_in_fp32(cudnn_tf32=False):
                expected = exact.update(name, first)
                usual = single.update(name, first)
            checks.append(loss_from_logits(run, state, name, first))
            if recipe.penalty and name == "discriminator":
                checks.append(penalty_gradients(run, state, recipe.penalty, exact, first))
            update = update_player(player, name, first)
            checks += _update_errors(name, update, usual, expected, coarser)
            checks += optimizer_errors(recipe, player, name, update)
    return checks


def _update_errors(name: str, update: Update, usual: Update, exact: Update, coarser: float) -> list[Check]:
    """Compare an update with float64.

    Args:
        name: Of the network.
        update: The configuration's.
        usual: The same in fp32, in one eager process.
        exact: The same in float64.
        coarser: The precision's unit roundoff as a multiple of fp32's.
    """
    exact_gradient = _flat(exact, exact)
    gradient = _flat(update, exact)
    gradient_error = relative_difference(gradient, exact_gradient)
    usual_gradient_error = relative_difference(_flat(usual, exact), exact_gradient)
    usual_loss_error = relative_loss_error(usual.loss, exact.loss)
    cosine = float(nn.functional.cosine_similarity(gradient, exact_gradient, dim=0))
    if not exact_gradient.count_nonzero():  # it has no direction, as where a hinge is satisfied
        cosine = 1.0
    return [
        Check(
            "T2",
            f"{name}'s loss",
            relative_loss_error(update.loss, exact.loss),
            LOSS_TIMES * coarser * usual_or_least(usual_loss_error),
            "the loss is less exact than its precision explains: computed in half precision, or on unstable terms",
            usual_loss_error,
        ),
        Check(
            "T2",
            f"{name}'s gradients",
            gradient_error,
            GRADIENT_TIMES * coarser * usual_or_least(usual_gradient_error),
            "gradients are less exact than their precision explains: a sum or a norm in half precision",
            usual_gradient_error,
        ),
        Check(
            "T2",
            f"{name}'s direction (1 - cosine)",
            1 - cosine,
            COSINE_LIMIT,
            "the update points elsewhere than in float64: this precision is too coarse for the recipe",
        ),
    ]


def _flat(update: Update, exact: Update) -> Tensor:
    """Return the gradients in float64 as one vector, of the parameters that have one in the exact update."""
    pairs = zip(update.gradients, exact.gradients, strict=True)
    return torch.cat(
        [(torch.zeros_like(b) if a is None else a.double()).flatten() for a, b in pairs if b is not None]
    )


def usual_or_least(error: float) -> float:
    """Return an error of fp32, but one rounding at least: where fp32 happens to be exact, no less can be asked.

    Where weights are not finite, neither is fp32's error; all other errors are over that limit, too.
    """
    least = UNIT_ROUNDOFF["fp32"]
    return max(error, least) if math.isfinite(error) else least
