"""Search for a batch size in two processes, of which the second is out of memory before the first."""

import sys
from pathlib import Path

import torch

import gan.session.batch_size
from gan.options import TrainOptions
from gan.session.batch_size import with_batch_size
from gan.training.batch import StepInputs
from gan.training.state import TrainState

LARGEST = (64, 32)
"""Images that fit, of each rank."""
GIB = 2**30


def step(_: TrainState, inputs: StepInputs) -> torch.Tensor:
    if len(inputs.real) > LARGEST[torch.distributed.get_rank()]:
        raise torch.OutOfMemoryError("an injected one")
    return torch.zeros(4)


def found() -> int | None:
    options = TrainOptions(recipe="mlp-compact", dataset="digits", batch_size=8, find_batch_size=True)
    return with_batch_size(options).batch_size


if __name__ == "__main__":
    search = gan.session.batch_size
    search.LEAST_SECONDS = 0.0
    search.run_step = step
    sizes = [found()]
    rank = torch.distributed.get_rank()
    peaks = iter([1 * GIB, 1.5 * GIB, 2 * GIB, 3 * GIB])
    search.peak_bytes = lambda _: next(peaks)
    search.free_on_device = lambda _: (100, 8)[rank] * GIB  # a rank stops before the other would
    LARGEST = (10**9, 10**9)
    sizes.append(found())
    Path(sys.argv[1], f"rank{rank}").write_text(str(sizes))
    torch.distributed.destroy_process_group()
