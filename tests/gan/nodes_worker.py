"""What is compared between 1, 2 and 3 nodes, for the recipes that are named: FOLDER NAME…, a process per node.

Of `steps=NAME` it is steps alone, without runs that are resumed. Every process trains in float64. Optimizers
answer gradients near 0 with small updates, or rounding would grow.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

import gan.loop
import gan.session.inputs
from gan.data.datasets import DATASETS
from gan.data.order import shard
from gan.images import to_unit_range
from gan.options import TrainOptions
from gan.process.interface import choose_interface
from gan.recipes import RECIPES
from gan.training.state import PER_RANK, build_state
from gan.training.step import train_step
from tests.gan.reference import fix_dropout, float64_state, inputs, narrow_convolutions, with_large_epsilon
from tests.gan.resume_worker import few_digits, train_both

NUM_STEPS = 3
WITH_INTERVALS = 5
"""Steps of a recipe with lazy penalties or adaptive augmentation: the fifth takes what the others have left."""
STEPS_ALONE = "steps="
NUM_IMAGES = 11
"""Images of a global batch; no number of nodes divides it."""
GLOBAL_BATCH = 60
BEGUN_STEPS = 6
STEPS = 11
"""Of a run that is begun, and of the whole one. An epoch has 4 or 5 of them."""


def losses_and_weights(name: str, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """Return the metrics of steps on global batches, and what all processes hold after them."""
    world_size = accelerator.num_processes
    state = float64_state(name, accelerator)
    rows = shard(torch.arange(NUM_IMAGES), accelerator.process_index, world_size)
    for player in state.players.values():
        fix_dropout(player.network, rows)
    metrics = []
    for step in range(WITH_INTERVALS if state.recipe.lazy or state.recipe.adaptive else NUM_STEPS):
        taken = inputs(name, NUM_IMAGES, step).rows(rows).of(state, world_size / NUM_IMAGES)
        of_rank = train_step(state, taken)
        state.record(of_rank, NUM_IMAGES)
        metrics.append(accelerator.reduce(of_rank.clone(), "mean"))
    tensors = {name: tensor.detach().clone() for name, tensor in state.tensors().items() if name not in PER_RANK}
    return {"metrics": torch.stack(metrics), **tensors}


def train_in_float64(name: str, output: Path, steps: int, world_size: int, *, resume: bool = False) -> None:
    """Train a run, or go on with one, on so many processes at the same global batch."""
    options = TrainOptions(
        recipe=name,
        dataset="digits",
        steps=steps,
        batch_size=GLOBAL_BATCH // RECIPES[name].discriminator_steps // world_size,
        num_threads=1,
        output=output,
        resume=resume,
    )
    draw = gan.session.inputs._draw
    with (
        patch.dict(DATASETS, digits=few_digits),
        patch("gan.session.run.build_state", partial(build_state, dtype=torch.float64)),
        patch("gan.data.in_memory.to_unit_range", partial(to_unit_range, dtype=torch.float64)),
        patch("gan.session.inputs._draw", lambda *arguments: draw(*arguments).double()),
        patch("gan.loop.draw_real"),
        patch("gan.session.epochs.draw_samples"),
        patch("gan.session.finish.draw_course"),
    ):
        gan.loop.train(options)


def main(folder: Path, names: list[str]) -> None:
    """Compute all on this process's node."""
    narrow_convolutions()
    choose_interface()
    torch.set_num_threads(1)
    world_size = int(os.environ["WORLD_SIZE"])
    is_main = os.environ["RANK"] == "0"
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    steps = {}
    for name in (name.removeprefix(STEPS_ALONE) for name in names):
        if name in RECIPES:
            RECIPES[name] = with_large_epsilon(RECIPES[name])
        steps[name] = losses_and_weights(name, accelerator)
        if STEPS_ALONE + name in names:
            continue
        train_both(name, folder / f"exact-{world_size}", world_size=world_size)
        if world_size == 2:
            train_in_float64(name, folder / "begun" / name, BEGUN_STEPS, world_size)
        else:
            resumed = folder / f"resumed-{world_size}" / name
            if is_main:
                shutil.copytree(folder / "begun" / name, resumed)
            accelerator.wait_for_everyone()
            train_in_float64(name, resumed, STEPS, world_size, resume=True)
    if is_main:
        torch.save(steps, folder / f"steps-{world_size}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
