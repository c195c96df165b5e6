"""Steps of two processes whose cause of delay is known, and clocks that differ by a known time."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from bench.harness.clocks import aligned, clock_is_shared
from bench.harness.windows import Effort, time_window
from bench.suite.cases import Case
from bench.workloads import exchanged
from bench.workloads.exposure import explained_arm
from bench.workloads.setup import CoreSetup
from gan.options import TrainOptions
from gan.session.run import Run, prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.player import Player
from gan.training.state import TrainState

LATE_SECONDS = 0.05
AHEAD_SECONDS = 5.0
NUM_STEPS = 5


def late(rank: int) -> Callable[[Player, torch.Tensor], None]:
    backward = Player.backward

    def sleeping(player: Player, loss: torch.Tensor) -> None:
        if rank == 1:
            time.sleep(LATE_SECONDS)
        backward(player, loss)

    return sleeping


def slow_link(state: Any, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    def delay(future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
        time.sleep(LATE_SECONDS)
        return future.value()

    return allreduce_hook(state, bucket).then(delay)


def explained(setup: CoreSetup) -> dict[str, Any]:
    arm = explained_arm(setup)
    for _ in range(3):
        next(arm.steps)
    arm.parts()
    distributed.barrier()
    seconds = time_window(arm.steps, NUM_STEPS, lambda: None)
    return {"seconds": seconds, "parts": dict(arm.parts()), **setup.facts}


if __name__ == "__main__":
    recipe = "mlp-batchnorm"
    options = TrainOptions(
        recipe=recipe, dataset="synthetic", batch_size=8, output=NOWHERE, num_threads=1, shared_memory=False
    )
    run, state = prepare(options)
    sharing, sharing_state = prepare(replace(options, shared_memory=True))
    rank = distributed.get_rank()
    case = Case(workload="scaling", recipe=recipe, batch_size=8, num_processes=2)
    said = {"shared": clock_is_shared()}

    def measure(name: str, run: Run, state: TrainState) -> None:
        setup = CoreSetup(case, whole_batches(run), state, Path(sys.argv[1]), {}, Effort(1, 1))
        said[name] = explained(setup)

    measure("undisturbed", run, state)
    with patch.object(Player, "backward", late(rank)):
        measure("late", run, state)
        measure("late in shared memory", sharing, sharing_state)
    with patch.object(exchanged, "allreduce_hook", slow_link):
        measure("slow", run, state)
    said["clock"] = vars(aligned(torch.device("cpu"), lambda: time.perf_counter() + AHEAD_SECONDS * rank))
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(said))
    distributed.destroy_process_group()
