"""Processes played by threads of this one: what they add up waits until all of them have brought their part."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor

SECONDS_TO_WAIT = 120
T = TypeVar("T")


def play_ranks(monkeypatch: pytest.MonkeyPatch, world_size: int, act: Callable[[int], T]) -> list[T]:
    """Return what `act` returns on each rank."""
    here = threading.local()
    barrier = threading.Barrier(world_size, timeout=SECONDS_TO_WAIT)
    parts: dict[int, Tensor] = {}

    def add_up(table: Tensor, *_: object) -> Tensor:
        parts[here.rank] = table.detach().clone()
        barrier.wait()
        assert len({part.shape for part in parts.values()}) == 1, "all ranks add up the same"
        total = torch.stack([parts[rank] for rank in range(world_size)]).sum(0)
        barrier.wait()
        return total

    def gather(all_values: Tensor, values: Tensor) -> None:
        mine = torch.arange(world_size)[:, None] == here.rank
        all_values.copy_(add_up(torch.where(mine, values, 0)).flatten())

    def play(rank: int) -> T:
        here.rank = rank
        try:
            return act(rank)
        except BaseException:
            barrier.abort()
            raise

    monkeypatch.setattr("gan.models.batch_statistics._sum", add_up)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda table: table.copy_(add_up(table)))
    for name in ("all_gather_single", "all_gather_into_tensor"):
        monkeypatch.setattr(torch.distributed, name, gather, raising=False)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: here.rank)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(play, range(world_size)))
