"""Two processes train a network in part, in shared memory and with DDP; each writes what its D has come to."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from gan.loop import take_step
from gan.options import TrainOptions
from gan.session.inputs import epoch_inputs
from gan.session.run import prepare
from gan.surface import NOWHERE

PARTIAL = str(Path(__file__).resolve().parent.parent / "partial_recipe.py")
STEPS = 6


def trained(*, shares: bool) -> dict[str, list[int]]:
    """Return bits of D's weights after some steps, and of two of its layers before and after."""
    options = TrainOptions(
        recipe=PARTIAL,
        dataset="digits",
        batch_size=8,
        output=NOWHERE,
        num_threads=1,
        shared_memory=shares,
    )
    run, state = prepare(options)
    assert isinstance(state.discriminator.objective, DistributedDataParallel) != shares
    growing = state.discriminator.network[2]
    before = {f"{name} before": bits(getattr(growing, name).weight) for name in ("late", "unused")}
    for inputs, num_images in epoch_inputs(run, state, STEPS):
        take_step(state, inputs, num_images)
    whole = torch.cat([weight.flatten() for weight in state.discriminator.network.parameters()])
    after = {name: bits(getattr(growing, name).weight) for name in ("late", "unused")}
    return {**before, **after, "whole": bits(whole)}


def bits(weight: Tensor) -> list[int]:
    """Return what tells the bits of weights apart."""
    numbers = weight.detach().contiguous().flatten().view(torch.int32).long()
    return [int(numbers.sum()), int((numbers * torch.arange(1, len(numbers) + 1)).sum())]


if __name__ == "__main__":
    values = [trained(shares=shares) for shares in (True, False)]
    path = Path(sys.argv[1]) / f"{distributed.get_rank()}.json"
    path.write_text(json.dumps(values))
    distributed.destroy_process_group()
