"""Each form in which two processes exchange gradients: what T1 and T2 say, and runs with a kill and without."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from bench.stability.exchange import exchange_errors
from bench.stability.semantics import semantics
from gan.options import TrainOptions
from gan.process.shared_memory import _neighbours
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from tests.gan.reference import narrow_convolutions
from tests.gan.resume_worker import train_both

SHARED = "shared"
"""Stands for an exchange in shared memory, which takes no hook."""
JUDGED = (
    *(("mlp-batchnorm", hook) for hook in ("no", "bf16", "fp16", SHARED)),
    *(("dcgan", hook) for hook in ("no", "bf16", "fp16", SHARED)),
    ("mlp-compact", "powersgd"),
)
"""powersgd is refused on CPUs, but sums in one order there if one bucket has all gradients, without BatchNorm."""


def judged(recipe: str, hook: str) -> dict[str, list[float]]:
    """Return the value and the limit of each check."""
    bucket_size = 50 if hook == "powersgd" else 2
    options = TrainOptions(
        recipe=recipe,
        dataset="digits",
        batch_size=8,
        output=NOWHERE,
        num_threads=1,
        bucket_size=bucket_size,
        shared_memory=hook == SHARED,
    )
    run, state = prepare(options)
    wrapped = state.discriminator.objective
    assert state.execution.shared_memory == (hook == SHARED) != isinstance(wrapped, DistributedDataParallel)
    assert getattr(wrapped, "bucket_bytes_cap", None) in (bucket_size * 2**20, None)
    run = whole_batches(run)
    if hook != SHARED:
        run = replace(run, options=replace(options, comm_hook=hook))
    return {check.name: [check.value, check.limit] for check in (*semantics(run), *exchange_errors(run))}


def falls_back() -> bool:
    """Say whether DDP exchanges gradients if one process does not reach the others."""
    unreachable = patch("gan.process.shared_memory._connect", lambda address: None)
    _neighbours.cache_clear()
    with unreachable if distributed.get_rank() == 1 else nullcontext():
        _, state = prepare(TrainOptions(recipe="mlp-compact", dataset="digits", output=NOWHERE, num_threads=1))
    _neighbours.cache_clear()
    return not state.execution.shared_memory and isinstance(state.generator.objective, DistributedDataParallel)


if __name__ == "__main__":
    narrow_convolutions()
    folder = Path(sys.argv[1])
    values: dict[str, Any] = {f"{recipe} {hook}": judged(recipe, hook) for recipe, hook in JUDGED}
    for hook in ("bf16", "fp16"):
        train_both("mlp-compact", folder / hook, world_size=2, comm_hook=hook, bucket_size=1)
    for name in (SHARED, "ddp"):
        train_both("mlp-batchnorm", folder / name, world_size=2, shared_memory=name == SHARED, bucket_size=1)
    values["falls back"] = falls_back()
    if int(distributed.get_rank()) == 0:
        (folder / "checks.json").write_text(json.dumps(values))
    distributed.destroy_process_group()
