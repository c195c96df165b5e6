"""T1, semantics: is it the same algorithm? One step in float64 against the plain loop in one process.

In float64 another order of summation changes a gradient by some 1e-13 of its norm, another algorithm by about 1.
So a limit between the two tells them apart, whatever compiler and however many processes took the step.
"""

from functools import partial

import torch
from torch import Tensor, nn

from bench.results.checks import Check
from bench.stability.differences import (
    gradients_of,
    largest,
    moves,
    relative_error,
    relative_loss_error,
    weights_of,
)
from bench.stability.steps import built_state, part_of, plain_copies, step_inputs, still, to_float64
from bench.subjects.plain_step import plain_optimizers, plain_step
from gan.recipes import Recipe
from gan.session.run import Run
from gan.training.batch import StepInputs
from gan.training.health import PLAYERS
from gan.training.metrics import METRICS
from gan.training.step import train_step

FLOAT64_LIMIT = 1e-9
"""Of losses and gradients."""
UPDATE_LIMIT = 1e-4
"""Of updates. Adam's first step divides by gradients near 0, which magnifies their rounding."""


def semantics(run: Run) -> list[Check]:
    """Take a step in float64 under the configuration's compiler and processes; compare it with the plain loop's.

    Args:
        run: Over labelled images in memory.
    """
    state = built_state(run, 1, torch.float64)
    networks = {name: player.network for name, player in state.players.items()}
    plain = plain_copies(run, state, torch.float64)
    before = {name: weights_of(network) for name, network in plain.items()}
    inputs = to_float64(step_inputs(run))
    consumed: dict[str, list[Tensor | None]] = {}
    for name, player in state.players.items():
        # fp16 has its gradients unscaled by then
        player.optimizer.register_step_post_hook(partial(_note_gradients, consumed, name, networks[name]))
    with still(*plain.values(), *networks.values()):
        expected, applied = _plain_step(run.recipe, plain, inputs)
        metrics = train_step(state, part_of(inputs, run))[: len(METRICS)].clone()
    metrics = run.accelerator.reduce(metrics, "mean")
    checks = [
        Check(
            "T1",
            "losses",
            largest(relative_loss_error(a, b) for a, b in zip(metrics.tolist(), expected, strict=True)),
            FLOAT64_LIMIT,
            "the losses are not the recipe's: labels swapped, a sign, a factor, or a mean over the wrong batch",
        )
    ]
    for name in PLAYERS:
        our_moves = moves(weights_of(networks[name]), before[name])
        plain_moves = moves(weights_of(plain[name]), before[name])
        checks += _network_checks(
            name,
            relative_error(consumed[name], applied[name]),
            relative_error(our_moves, plain_moves),
        )
    return checks


def _network_checks(name: str, gradient_error: float, update_error: float) -> list[Check]:
    return [
        Check(
            "T1",
            f"{name}'s gradients",
            gradient_error,
            FLOAT64_LIMIT,
            "gradients are not those of one eager process: not averaged over processes, averaged wrongly, "
            "batch statistics of a part of the batch, or a compiler that changed the computation",
        ),
        Check(
            "T1",
            f"{name}'s update",
            update_error,
            UPDATE_LIMIT,
            "the optimizer does not do what the recipe says, or the network is frozen",
        ),
    ]


def _plain_step(
    recipe: Recipe, plain: dict[str, nn.Module], inputs: StepInputs
) -> tuple[list[float], dict[str, list[Tensor | None]]]:
    """Take the plain loop's step; return its losses, and for each network the gradients that were applied."""
    updates = recipe.discriminator_steps
    of_generator, of_discriminator = plain_optimizers(recipe, plain["generator"], plain["discriminator"])
    optimizers = {"generator": of_generator, "discriminator": of_discriminator}
    applied: dict[str, list[Tensor | None]] = {}
    for name, optimizer in optimizers.items():
        # noted when the optimizer steps: afterwards G's turn adds to D's gradients
        optimizer.register_step_pre_hook(partial(_note_gradients, applied, name, plain[name]))
    losses = plain_step(
        recipe,
        plain["generator"],
        plain["discriminator"],
        optimizers["generator"],
        optimizers["discriminator"],
        inputs.real.tensor_split(updates),
        inputs.latents,
        inputs.mix,
        (None,) if inputs.labels is None else inputs.labels.tensor_split(updates),
        inputs.num_micro_batches,
        inputs.warps,
        inputs.directions,
    )
    return losses, applied


def _note_gradients(
    applied: dict[str, list[Tensor | None]], name: str, network: nn.Module, *_hook_arguments: object
) -> None:
    applied[name] = gradients_of(network)
