"""Each form in which two processes exchange gradients: what T1 and T2 say, and runs with a kill and without."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from bench.stability.exchange import exchange_errors
from bench.stability.semantics import semantics
from gan.options import TrainOptions
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from tests.gan.reference import narrow_convolutions
from tests.gan.resume_worker import train_both

JUDGED = (
    *(("mlp-batchnorm", hook) for hook in ("no", "bf16", "fp16")),
    *(("dcgan", hook) for hook in ("no", "bf16", "fp16")),
    ("mlp-compact", "powersgd"),
)
"""powersgd is refused on CPUs, but sums in one order there if one bucket has all gradients, without BatchNorm."""


def judged(recipe: str, hook: str) -> dict[str, list[float]]:
    """Return the value and the limit of each check."""
    bucket_size = 50 if hook == "powersgd" else 2
    options = TrainOptions(
        recipe=recipe, dataset="digits", batch_size=8, output=NOWHERE, num_threads=1, bucket_size=bucket_size
    )
    run, state = prepare(options)
    wrapped = state.discriminator.objective
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.bucket_bytes_cap == bucket_size * 2**20
    run = whole_batches(run)
    run = replace(run, options=replace(options, comm_hook=hook))
    return {check.name: [check.value, check.limit] for check in (*semantics(run), *exchange_errors(run))}


if __name__ == "__main__":
    narrow_convolutions()
    folder = Path(sys.argv[1])
    values = {f"{recipe} {hook}": judged(recipe, hook) for recipe, hook in JUDGED}
    for hook in ("bf16", "fp16"):
        train_both("mlp-compact", folder / hook, world_size=2, comm_hook=hook, bucket_size=1)
    if int(torch.distributed.get_rank()) == 0:
        (folder / "checks.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()
