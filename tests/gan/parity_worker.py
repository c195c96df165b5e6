"""One step of every recipe on this process's rows of a global batch; the main process saves the gradients."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from gan.data.order import shard
from gan.recipes import RECIPES
from tests.gan.reference import fix_dropout, float64_state, gradients, inputs, narrow_convolutions

GLOBAL_BATCHES = (12, 11, 1)


def one_step(
    name: str, num_images: int, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the gradients, and the buffers and metrics, of one step on a global batch of `num_images`."""
    world_size = accelerator.num_processes
    state = float64_state(name, accelerator)
    rows = shard(torch.arange(num_images), accelerator.process_index, world_size)
    for network in (state.generator.network, state.discriminator.network):
        fix_dropout(network, rows)
    metrics = inputs(name, num_images).rows(rows).train(state, world_size / num_images)
    buffers = {
        f"buffer.{name}.{key}": value
        for name, player in state.players.items()
        for key, value in player.network.named_buffers()
    }
    others = {**buffers, "metrics": accelerator.reduce(metrics.clone(), "mean")}
    return gradients(state), others


def cases() -> list[tuple[str, int]]:
    """Return (recipe, global batch); a batch of one has no batch statistics."""
    return [
        (name, num_images)
        for name, recipe in RECIPES.items()
        for num_images in GLOBAL_BATCHES
        if num_images > 1 or not recipe.batchnorm
    ]


if __name__ == "__main__":
    narrow_convolutions()
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    assert accelerator.num_processes == 2
    results = {case: one_step(*case, accelerator) for case in cases()}
    if accelerator.is_main_process:
        torch.save(results, Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
