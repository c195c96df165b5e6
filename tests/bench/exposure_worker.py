"""Steps of two processes whose cause of delay is known, and clocks that differ by a known time."""

import json
import sys
import time
from collections.abc import Callable, Sequence
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
from bench.workloads.exchanged import BATCHNORM
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
NUM_ROUNDS = 20
"""At most, of NUM_STEPS: other programs hold some of them up."""


def total(of_rank: dict[str, Any], kind: str, *, buckets: bool = False) -> float:
    """The seconds of a step that are of a kind, of all messages or of buckets alone."""
    parts = {name: value for name, value in of_rank["parts"].items() if name.endswith(kind)}
    return sum(value for name, value in parts.items() if not (buckets and BATCHNORM in name)) / NUM_STEPS


def require_covered(*of_ranks: dict[str, Any]) -> None:
    """Parts add up to the window."""
    for of_rank in of_ranks:
        assert min(of_rank["parts"].values()) >= 0, of_rank
        assert abs(sum(of_rank["parts"].values()) / of_rank["seconds"] - 1) <= 0.02, of_rank


def require_waited_for(*of_ranks: dict[str, Any]) -> None:
    """Rank 1 sleeps before both backward passes: rank 0 waits for it, and the link is as quick as before."""
    waiting, compute = ([total(of_rank, kind) for of_rank in of_ranks] for kind in (" waiting", "compute"))
    exposed = [total(of_rank, " exposed", buckets=True) for of_rank in of_ranks]
    seen = f"waiting {waiting}, compute {compute}, exposed {exposed}"
    assert 0.9 * 2 * LATE_SECONDS < waiting[0] < 2 * 2 * LATE_SECONDS, seen
    assert waiting[1] < waiting[0] / 4, seen
    assert compute[1] > compute[0] + 0.7 * 2 * LATE_SECONDS, seen
    assert max(exposed) < LATE_SECONDS, seen


def require_exposed(*of_ranks: dict[str, Any]) -> None:
    """The link takes long for each bucket, and nobody is waited for."""
    for of_rank in of_ranks:
        assert total(of_rank, " exposed", buckets=True) > 0.9 * 2 * LATE_SECONDS, of_rank
        assert total(of_rank, " waiting", buckets=True) < LATE_SECONDS / 2, of_rank
        (bucket,) = [message for message in of_rank["messages"] if message["name"] == "discriminator 1"]
        assert 0.9 * LATE_SECONDS < bucket["seconds"] < 3 * LATE_SECONDS, bucket


REQUIRED = {
    "undisturbed": (require_covered,),
    "late": (require_covered, require_waited_for),
    "late in shared memory": (require_covered, require_waited_for),
    "slow": (require_covered, require_exposed),
}


def is_well(name: str, of_ranks: Sequence[dict[str, Any]]) -> bool:
    try:
        for require in REQUIRED[name]:
            require(*of_ranks)
    except AssertionError:
        return False
    return True


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


if __name__ == "__main__":
    recipe = "mlp-batchnorm"
    options = TrainOptions(
        recipe=recipe, dataset="synthetic", batch_size=8, output=NOWHERE, num_threads=1, shared_memory=False
    )
    run, state = prepare(options)
    sharing, sharing_state = prepare(replace(options, shared_memory=True))
    rank = distributed.get_rank()
    case = Case(workload="scaling", recipe=recipe, batch_size=8, num_processes=2)
    said: dict[str, Any] = {"shared": clock_is_shared()}

    def measure(name: str, run: Run, state: TrainState) -> None:
        """Measure until all is as it should be in both ranks; what is said is of the last round."""
        setup = CoreSetup(case, whole_batches(run), state, Path(sys.argv[1]), {}, Effort(1, 1))
        arm = explained_arm(setup)
        for _ in range(3):
            next(arm.steps)
        of_ranks: list[Any] = [None, None]
        for _ in range(NUM_ROUNDS):
            arm.parts()
            distributed.barrier()
            seconds = time_window(arm.steps, NUM_STEPS, lambda: None)
            said[name] = {"seconds": seconds, "parts": dict(arm.parts()), **setup.facts}
            distributed.all_gather_object(of_ranks, said[name])
            if is_well(name, of_ranks):
                break

    measure("undisturbed", run, state)
    with patch.object(Player, "backward", late(rank)):
        measure("late", run, state)
        measure("late in shared memory", sharing, sharing_state)
    with patch.object(exchanged, "allreduce_hook", slow_link):
        measure("slow", run, state)
    comparisons = [
        aligned(torch.device("cpu"), lambda: time.perf_counter() + AHEAD_SECONDS * rank) for _ in range(5)
    ]
    said["clock"] = vars(min(comparisons, key=lambda one: one.error_seconds))
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(said))
    distributed.destroy_process_group()
