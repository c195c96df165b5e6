"""Each form in which two processes exchange gradients: what T1 and T2 say, and a run with a kill and without."""

import json
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from bench.stability.exchange import exchange_errors
from bench.stability.semantics import semantics
from gan.options import TrainOptions
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.execution import HOOKS
from tests.gan.reference import narrow_convolutions
from tests.gan.resume_worker import train_both


def judged(recipe: str, hook: str) -> dict[str, list[float]]:
    """Return the value and the limit of each check."""
    options = TrainOptions(recipe=recipe, dataset="digits", batch_size=8, output=NOWHERE, num_threads=1)
    run, state = prepare(TrainOptions(**{**vars(options), "comm_hook": hook, "bucket_size": 2}))
    wrapped = state.discriminator.objective
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.bucket_bytes_cap == 2 * 2**20
    run = whole_batches(run)
    return {check.name: [check.value, check.limit] for check in (*semantics(run), *exchange_errors(run))}


if __name__ == "__main__":
    narrow_convolutions()
    folder = Path(sys.argv[1])
    values = {f"{recipe} {hook}": judged(recipe, hook) for recipe in ("mlp-batchnorm", "dcgan") for hook in HOOKS}
    for hook in ("bf16", "fp16"):
        train_both("mlp-compact", folder / hook, world_size=2, comm_hook=hook, bucket_size=1)
    if int(torch.distributed.get_rank()) == 0:
        (folder / "checks.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()
