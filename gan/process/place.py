"""Where a process stands in the world: which rank of how many, and on which device."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """One of the processes that train together, in the words of torch.distributed.

    Attributes:
        rank: From 0 to `world_size` - 1. Rank 0 is the main process, which writes the files and speaks.
        world_size: Number of processes, on all hosts.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def part_of(self, whole: Tensor, dim: int = 0, micro_batches: int = 1) -> Tensor:
        """Return this rank's part of each micro-batch that all ranks share; sizes of parts differ by at most 1."""
        if self.world_size == 1:
            return whole
        parts = [
            part.tensor_split(self.world_size, dim)[self.rank] for part in whole.tensor_split(micro_batches, dim)
        ]
        return parts[0] if micro_batches == 1 else torch.cat(parts, dim)


class Alone:
    """An Accelerator as it would be in a single process: the same device, precision and compiler, no DDP."""

    num_processes = 1
    process_index = 0

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        """Return what the Accelerator has."""
        return getattr(self._accelerator, name)

    def prepare_model(self, model: torch.nn.Module, **_: Any) -> Any:
        """Wrap a module for the precision alone."""
        return self._accelerator.prepare_model(model, evaluation_mode=True)


def place_of(accelerator: Accelerator) -> Place:
    """Return the place that Accelerate has given to this process."""
    return Place(accelerator.process_index, accelerator.num_processes, accelerator.device)


def launched_as_main() -> bool:
    """Say whether the launcher, or nobody, started this as the main process; for use without an Accelerator."""
    return os.environ.get("RANK", "0") == "0"


def launched_here() -> int:
    """Return how many processes the launcher has started on this host; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
