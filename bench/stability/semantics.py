"""T1."""

import torch
from torch import Tensor

from bench.results.checks import Check
from bench.stability.differences import LEAST_LOSS, gradients_of, largest, moves, relative_error, weights_of
from bench.stability.steps import built_state, doubled, part_of, plain_copies, step_inputs, still
from bench.subjects.plain import plain_optimizers, plain_step
from gan.run import Run
from gan.training.health import PLAYERS
from gan.training.step import train_step

FLOAT64_LIMIT = 1e-9
UPDATE_LIMIT = 1e-4


def semantics(run: Run) -> list[Check]:
    """T1: one step in float64, under the configuration's compiler and processes, against the plain loop in one."""
    accelerator, recipe = run.accelerator, run.recipe
    state = built_state(run, 1, torch.float64)
    plain = plain_copies(run, state, torch.float64)
    before = {name: weights_of(network) for name, network in plain.items()}
    inputs = doubled(step_inputs(run))
    updates = recipe.discriminator_steps
    labels = (None,) if inputs.labels is None else inputs.labels.tensor_split(updates)
    optimizers = dict(zip(plain, plain_optimizers(recipe, *plain.values()), strict=True))
    applied: dict[str, list[Tensor | None]] = {}  # later, D's would have G's turn added to them
    for name, optimizer in optimizers.items():
        optimizer.register_step_pre_hook(
            lambda *_, name=name: applied.__setitem__(name, gradients_of(plain[name]))
        )
    networks = {name: player.network for name, player in state.players.items()}
    with still(*plain.values(), *networks.values()):
        expected = plain_step(
            recipe,
            plain["generator"],
            plain["discriminator"],
            optimizers["generator"],
            optimizers["discriminator"],
            inputs.real.tensor_split(updates),
            inputs.latents,
            inputs.mix,
            labels,
        )
        metrics = train_step(state, part_of(inputs, run)).clone()
    metrics = accelerator.reduce(metrics, "mean")
    checks = [
        Check(
            "T1",
            "losses",
            largest(abs(a - b) / max(abs(b), LEAST_LOSS) for a, b in zip(metrics.tolist(), expected, strict=True)),
            FLOAT64_LIMIT,
            "the losses are not the recipe's: labels swapped, a sign, a factor, or a mean over the wrong batch",
        )
    ]
    for name in PLAYERS:
        ours, theirs = networks[name], plain[name]
        checks += [
            Check(
                "T1",
                f"{name}'s gradients",
                relative_error(gradients_of(ours), applied[name]),
                FLOAT64_LIMIT,
                "gradients are not those of one eager process: not averaged over processes, averaged wrongly, "
                "batch statistics of a part of the batch, or a compiler that changed the computation",
            ),
            Check(
                "T1",
                f"{name}'s update",
                relative_error(moves(weights_of(ours), before[name]), moves(weights_of(theirs), before[name])),
                UPDATE_LIMIT,
                "the optimizer does not do what the recipe says, or the network is frozen",
            ),
        ]
    return checks
