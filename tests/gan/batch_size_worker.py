"""Search for a batch size in two processes, of which the second is out of memory before the first."""

import sys
from pathlib import Path

import torch

import gan.session.batch_size
from gan.options import TrainOptions
from gan.session.batch_size import with_batch_size
from gan.training.state import TrainState
from gan.training.step import StepInputs

LARGEST = (64, 32)
"""Images that fit, of each rank."""


def step(_: TrainState, inputs: StepInputs) -> torch.Tensor:
    if len(inputs.real) > LARGEST[torch.distributed.get_rank()]:
        raise torch.OutOfMemoryError("an injected one")
    return torch.zeros(4)


if __name__ == "__main__":
    gan.session.batch_size.train_step = step
    gan.session.batch_size.LEAST_SECONDS = 0.0
    options = TrainOptions(recipe="mlp-compact", dataset="digits", batch_size=8, find_batch_size=True)
    found = with_batch_size(options).batch_size
    Path(sys.argv[1], f"rank{torch.distributed.get_rank()}").write_text(str(found))
    torch.distributed.destroy_process_group()
