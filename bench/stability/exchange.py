"""T2, exchange: are gradients exact enough after processes have exchanged them by `--comm-hook`?

Both are gradients of the same weights and inputs in fp32, so that the form of the exchange is all that differs.
Rounding each process's gradients, and their sum, changes the whole gradient by less than two unit roundoffs for
each process. An approximation changes it by more: that is what this check is to show.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bench.results.checks import Check
from bench.stability.differences import gradients_of
from bench.stability.steps import built_state, part_of, step_inputs, still
from bench.stability.updates import FirstInputs
from gan.models.networks import apply
from gan.session.run import Run
from gan.training.execution import CommHook
from gan.training.health import PLAYERS

NUM_EXCHANGES = 4
"""Of the same gradients: powersgd approximates from the third on."""
ROUNDOFFS: dict[CommHook, float] = {"bf16": 2**-8, "fp16": 2**-11, "powersgd": 2**-8}
"""Unit roundoffs. powersgd, which has none, is held against bf16's."""


def exchange_errors(run: Run) -> list[Check]:
    """Compare both networks' gradients after an exchange with those that are exchanged as they are.

    Args:
        run: Over labelled images in memory.
    """
    hook = run.options.execution.comm_hook
    if hook == "no" or run.place.world_size == 1:
        return []
    exact = _gradients(replace(run, options=replace(run.options, comm_hook="no")))
    ours = _gradients(run)
    limit = 2 * run.place.world_size * ROUNDOFFS[hook]
    return [
        Check(
            "T2",
            f"{name}'s exchange",
            float((ours[name] - exact[name]).norm() / exact[name].norm()),
            limit,
            "the gradients that processes exchange are approximated, or too small or too large for the hook",
        )
        for name in PLAYERS
    ]


def _gradients(run: Run) -> dict[str, Tensor]:
    """Return all gradients of each network as one vector in float64, after NUM_EXCHANGES exchanges."""
    state = built_state(run, 1, torch.float32)
    inputs = part_of(step_inputs(run), run)
    gradients = {}
    with still(*(player.network for player in state.players.values())):
        with torch.no_grad():
            batch = inputs.batch(run.recipe.discriminator_steps, 0)
            fake = apply(state.generator.network, batch.latents, batch.labels)
        first = FirstInputs.of(run.recipe, inputs, fake)
        for name, player in state.players.items():
            for _ in range(NUM_EXCHANGES):
                player.optimizer.zero_grad()
                first.loss(player.objective, name).backward()
                player.average_gradients()
            of_parameters = [value for value in gradients_of(player.network) if value is not None]
            gradients[name] = torch.cat([value.double().flatten() for value in of_parameters])
    return gradients
