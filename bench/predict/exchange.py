"""Sums between processes, timed. Each is `python -m bench.predict.exchange FOLDER`; the environment places it."""

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from bench.harness.messages import encode
from bench.harness.processes import end_with
from bench.predict.fit import Sample

SAMPLES_NAME = "samples.json"
SIZES_BYTES = tuple(2**power for power in (10, 14, 18, 20, 22, 24))
REPETITIONS = 20
REPETITIONS_OF_LARGE = 8
LARGE_BYTES = 2**21


@dataclass(frozen=True)
class Samples:
    """What the processes measured, a sample for each size."""

    samples: tuple[Sample, ...]


def measured(num_bytes: int) -> Sample:
    """Return the median time of a sum of so many bytes, from all processes' start to the end of the slowest."""
    numbers = torch.zeros(num_bytes // 4)
    distributed.all_reduce(numbers)
    times = []
    for _ in range(REPETITIONS if num_bytes < LARGE_BYTES else REPETITIONS_OF_LARGE):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(numbers)
        times.append(time.perf_counter() - began)
    slowest = torch.tensor(times, dtype=torch.float64)
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    return Sample(distributed.get_world_size(), num_bytes, statistics.median(slowest.tolist()))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        end_with(int(sys.argv[2]))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    samples = Samples(tuple(map(measured, SIZES_BYTES)))
    if distributed.get_rank() == 0:
        (folder / SAMPLES_NAME).write_bytes(encode(samples))
    distributed.barrier()
    distributed.destroy_process_group()
