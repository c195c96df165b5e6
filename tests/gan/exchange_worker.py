"""Each form in which two processes exchange gradients: what T1 and T2 say, and runs with a kill and without."""

import json
import mmap
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bench.stability.exchange import exchange_errors
from bench.stability.semantics import semantics
from gan.errors import UsageError
from gan.models.batch_statistics import shared_sums_of
from gan.options import TrainOptions
from gan.process import shared_memory
from gan.process.shared_memory import _neighbours
from gan.session.begin import _say_what_begins
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.exchange import begin_alike
from gan.training.state import TrainState
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
    if state.recipe.batchnorm:
        assert (shared_sums_of(state.generator.network) is not None) == (hook == SHARED)
    assert getattr(wrapped, "bucket_bytes_cap", None) in (bucket_size * 2**20, None)
    run = whole_batches(run)
    if hook != SHARED:
        run = replace(run, options=replace(options, comm_hook=hook))
    return {check.name: [check.value, check.limit] for check in (*semantics(run), *exchange_errors(run))}


COMPACT = TrainOptions(recipe="mlp-compact", dataset="digits", output=NOWHERE, num_threads=1)


def falls_back() -> bool:
    """Say whether DDP exchanges gradients if one process meets a stranger instead of rank 0."""
    connect = shared_memory._connect
    stranger = patch("gan.process.shared_memory._connect", lambda address, token: connect(address, bytes(16)))
    _neighbours.cache_clear()
    with stranger if distributed.get_rank() == 1 else nullcontext():
        _, state = prepare(COMPACT)
    _neighbours.cache_clear()
    return uses_ddp(state)


def uses_ddp(state: TrainState) -> bool:
    return not state.execution.shared_memory and isinstance(state.generator.objective, DistributedDataParallel)


def said_without_memory(recipe: str, mapped: int) -> str:
    """Return what a run says that DDP exchanges gradients of, because one process gets too little memory.

    It gets it `mapped` times: gradients come first, then the statistics of BatchNorm.
    """
    printed = StringIO()
    really_map = mmap.mmap
    left = [None] * mapped

    def map_or_fail(descriptor: int, num_bytes: int) -> mmap.mmap:
        if not left:
            raise OSError
        left.pop()
        return really_map(descriptor, num_bytes)

    lacking = patch("mmap.mmap", map_or_fail)
    with lacking if distributed.get_rank() == 1 else nullcontext():
        run, state = prepare(replace(COMPACT, recipe=recipe))
    assert uses_ddp(state)
    assert not [one for one in (state.generator, state.discriminator) if shared_sums_of(one.network)]
    with redirect_stdout(printed):
        _say_what_begins(run, state)
    return printed.getvalue()


def are_alike(*, shares: bool) -> bool:
    """Say whether processes whose own weights would differ begin with the same ones, averages included."""

    def initialized(network: nn.Module, _: object) -> None:
        for parameter in network.parameters():
            parameter.data.fill_(distributed.get_rank() + 1)

    with patch("gan.training.networks.initialize", initialized):
        _, state = prepare(replace(COMPACT, shared_memory=shares, ema_half_life=1000))
    assert state.execution.shared_memory == shares
    weights = [*state.generator.network.parameters(), *state.discriminator.network.parameters()]
    return all(weight.eq(1).all() for weight in (*weights, *state.average.parameters()))


def refuses_other_networks() -> str:
    """Return the error of processes with networks of different sizes."""
    with pytest.raises(UsageError) as error:
        begin_alike({"discriminator": nn.Linear(2, 3 + distributed.get_rank())})
    assert error.value.everywhere
    return str(error.value)


if __name__ == "__main__":
    narrow_convolutions()
    folder = Path(sys.argv[1])
    values: dict[str, Any] = {f"{recipe} {hook}": judged(recipe, hook) for recipe, hook in JUDGED}
    for hook in ("bf16", "fp16"):
        train_both("mlp-compact", folder / hook, world_size=2, comm_hook=hook, bucket_size=1)
    for name in (SHARED, "ddp"):
        train_both("mlp-batchnorm", folder / name, world_size=2, shared_memory=name == SHARED, bucket_size=1)
    values["falls back"] = falls_back()
    values["said without memory"] = [
        said_without_memory("mlp-compact", 0),
        said_without_memory("mlp-batchnorm", 1),
    ]
    values["alike"] = [are_alike(shares=shares) for shares in (True, False)]
    values["refuses"] = refuses_other_networks()
    if int(distributed.get_rank()) == 0:
        (folder / "checks.json").write_text(json.dumps(values))
    distributed.destroy_process_group()
