"""One clock for all processes that measure together, also where they are on several machines."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.harness.host import boot_id

if TYPE_CHECKING:
    import torch

PINGS = 8


@dataclass(frozen=True)
class Alignment:
    """How this process's clock differs from that of rank 0.

    Attributes:
        offset_seconds: To add to this process's clock.
        error_seconds: By which the offset may be wrong, at the most.
    """

    offset_seconds: float = 0.0
    error_seconds: float = 0.0


def clock_is_shared() -> bool:
    """Say whether all processes run on one machine, whose monotonic clock they share. All have to call it."""
    from torch import distributed

    machine = boot_id() or platform.node()
    machines: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(machines, machine)
    return len(set(machines)) == 1


def aligned(device: "torch.device", timer: Callable[[], float] = time.perf_counter) -> Alignment:
    """Compare this process's clock with that of rank 0. All processes have to call it.

    Rank 0 asks for the time and takes it for that of the middle between question and answer. Of several answers
    the quickest counts: it cannot be wrong by more than half of the time that it took (Cristian 1989,
    "Probabilistic clock synchronization").

    Args:
        device: Where numbers have to be for the processes to exchange them.
        timer: This process's clock, in seconds.
    """
    import torch
    from torch import distributed

    numbers = torch.zeros(2, dtype=torch.float64, device=device)
    if distributed.get_rank():
        for _ in range(PINGS):
            distributed.recv(numbers, 0)
            numbers[0].item()  # NCCL only enqueues: on a GPU the question is there once it can be read
            numbers[0] = timer()
            distributed.send(numbers, 0)
        distributed.recv(numbers, 0)
        return Alignment(*numbers.tolist())
    for other in range(1, distributed.get_world_size()):
        answers = [_asked(other, numbers, timer) for _ in range(PINGS)]
        best = min(answers, key=lambda answer: answer.error_seconds)
        distributed.send(numbers.new_tensor([best.offset_seconds, best.error_seconds]), other)
    return Alignment()


def _asked(other: int, numbers: "torch.Tensor", timer: Callable[[], float]) -> Alignment:
    from torch import distributed

    began = timer()
    distributed.send(numbers, other)
    distributed.recv(numbers, other)
    there = numbers[0].item()
    half = (timer() - began) / 2
    return Alignment(began + half - there, half)
