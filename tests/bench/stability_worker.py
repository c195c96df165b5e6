"""Tier T1 in two processes, healthy and with each fault that only several processes can have."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.parallel import DistributedDataParallel

from bench.stability import semantics
from gan.options import TrainOptions
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.state import TrainState
from gan.training.step import train_step
from tests.gan.reference import OWN_RECIPE, SHARED

BY_DDP = "by DDP"


@contextmanager
def without_exchange(state: TrainState) -> Iterator[None]:
    with ExitStack() as stack:
        for player in state.players.values():
            stack.enter_context(player.apart())
        yield


@contextmanager
def undivided(state: TrainState) -> Iterator[None]:
    with ExitStack() as stack:
        for player in state.players.values():
            assert player.shared_gradients is not None
            stack.enter_context(patch.object(player.shared_gradients, "_share", 1))
        yield


def broken(fault: Any) -> Any:
    def step(state: TrainState, inputs: Any) -> torch.Tensor:
        with fault(state):
            return train_step(state, inputs)

    return patch.object(semantics, "train_step", step)


SUBJECTS: dict[str, tuple[str, Any]] = {
    "healthy": ("mlp-compact", ExitStack),
    f"healthy {BY_DDP}": ("mlp-compact", ExitStack),
    "healthy batch statistics": ("mlp-batchnorm", ExitStack),
    "healthy recipe of a file": (OWN_RECIPE, ExitStack),
    "healthy shared fakes": (SHARED[0], ExitStack),
    "without an exchange": ("mlp-compact", lambda: broken(without_exchange)),
    f"without an exchange {BY_DDP}": ("mlp-compact", lambda: broken(without_exchange)),
    "undivided": ("mlp-compact", lambda: broken(undivided)),
    "batch statistics of each rank": (
        "mlp-batchnorm",
        lambda: patch("gan.training.networks.synchronize_batchnorm", lambda network, device: network),
    ),
}


def failures(recipe: str, fault: Any, *, shared_memory: bool) -> list[str]:
    options = TrainOptions(recipe=recipe, dataset="digits", batch_size=8, output=NOWHERE, num_threads=1)
    run, state = prepare(replace(options, shared_memory=shared_memory))
    assert isinstance(state.generator.objective, DistributedDataParallel) != shared_memory
    with fault():
        checks = semantics.semantics(whole_batches(run))
    return sorted(f"{check.tier} {check.name}" for check in checks if not check.passed)


if __name__ == "__main__":
    failures_of = {
        name: failures(*subject, shared_memory=not name.endswith(BY_DDP)) for name, subject in SUBJECTS.items()
    }
    if int(torch.distributed.get_rank()) == 0:
        Path(sys.argv[1]).write_text(json.dumps(failures_of))
    torch.distributed.destroy_process_group()
