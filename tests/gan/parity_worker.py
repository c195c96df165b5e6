"""A step of each of CASES.json on this process's rows of its batch; the main process saves gradients: OUTPUT."""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from gan.data.order import shard
from gan.recipe_files import recipe_named
from gan.recipes import RECIPES
from gan.training.execution import Execution
from gan.training.player import Player
from gan.training.step import train_step
from tests.gan.reference import (
    AUGMENTED,
    COMBINED,
    LAZY,
    NEAR,
    OF_CLASSES,
    OPTIONAL,
    OWN_RECIPE,
    SHARED,
    STYLE,
    fix_dropout,
    float64_state,
    gradients,
    inputs,
    leave_out_draws,
    narrow_convolutions,
)

OTHERS = (OWN_RECIPE, *SHARED, STYLE, *OF_CLASSES, *LAZY, OPTIONAL, AUGMENTED, NEAR, COMBINED)
"""Recipes of files."""
BATCHES = ((12, 1), (11, 1), (1, 1), (12, 3), (11, 2))
"""Images of a global batch, and its micro-batches."""
SHARED_MEMORY = "shared-memory"
DDP = "ddp"


def one_step(
    name: str, num_images: int, num_micro_batches: int, exchange: str, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the gradients, and the buffers and metrics, of one step on a global batch of `num_images`.

    What a network draws is left out in micro-batches: what is fixed knows the rows of a whole batch.
    """
    world_size = accelerator.num_processes
    state = float64_state(name, accelerator, execution=Execution(shared_memory=exchange == SHARED_MEMORY))
    rows = shard(torch.arange(num_images), accelerator.process_index, world_size, 1, num_micro_batches)
    reductions = [count_reductions(player) for player in state.players.values()]
    for network in (state.generator.network, state.discriminator.network):
        if num_micro_batches == 1:
            fix_dropout(network, rows)
        else:
            leave_out_draws(network)
    taken = inputs(name, num_images).rows(rows).of(state, world_size / num_images)
    metrics = train_step(state, taken._replace(num_micro_batches=num_micro_batches))
    if world_size > 1:
        updates = [state.recipe.num_updates(name, 1) for name in state.players]
        assert [len(seen) for seen in reductions] == [*updates], "gradients are reduced once an update"
    buffers = {
        f"buffer.{name}.{key}": value
        for name, player in state.players.items()
        for key, value in player.network.named_buffers()
    }
    others = {**buffers, "metrics": accelerator.reduce(metrics.clone(), "mean")}
    if state.generator_penalty_mean is not None:
        others["mean"] = state.generator_penalty_mean.clone()
    if state.adaptation is not None:
        others["signs"] = accelerator.reduce(state.adaptation.signs.clone(), "mean")
    return gradients(state), others


def count_reductions(player: Player) -> list[int]:
    """Return a list that gets an entry whenever the gradients of a network begin to be averaged."""
    seen: list[int] = []
    objective = player.objective
    if player.shared_gradients is not None:
        average = player.shared_gradients.average

        def count() -> None:
            seen.append(0)
            average()

        player.shared_gradients.average = count
    if isinstance(objective, DistributedDataParallel):
        assert player.shared_gradients is None

        def reduce(_: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
            if bucket.is_last():
                seen.append(bucket.index())
            return allreduce_hook(torch.distributed.group.WORLD, bucket)

        objective.register_comm_hook(None, reduce)
    return seen


def cases() -> list[tuple[str, int, int, str]]:
    """Return (recipe, global batch, micro-batches, exchange); a batch of one has no batch statistics."""
    of_files = {name: recipe_named(name) for name in OTHERS}
    return [
        (name, num_images, num_micro_batches, exchange)
        for name, recipe in {**RECIPES, **of_files}.items()
        for num_images, num_micro_batches in BATCHES
        for exchange in (SHARED_MEMORY, DDP)
        if num_images > 1 or not recipe.batchnorm
    ]


if __name__ == "__main__":
    narrow_convolutions()
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    assert accelerator.num_processes == 2
    chosen, output = map(Path, sys.argv[1:])
    results = {tuple(case): one_step(*case, accelerator) for case in json.loads(chosen.read_bytes())}
    if accelerator.is_main_process:
        torch.save(results, output)
    torch.distributed.destroy_process_group()
