"""Where a process stands in the world: which rank of how many, and on which device."""

import hashlib
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gan.errors import UsageError

PLACE_VARIABLES = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
"""Variables of launchers that Accelerate reads in every process. LOCAL_RANK is -1 where there is no launcher."""
DEVICE_VARIABLE = "ACCELERATE_TORCH_DEVICE"
WHOLE_NUMBER = re.compile(r" *-?[0-9]{1,9} *")


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

    def prepare_model(self, model: torch.nn.Module, **options: Any) -> Any:
        """Wrap a module for the precision alone."""
        return self._accelerator.prepare_model(model, **{**options, "evaluation_mode": True})


def place_of(accelerator: Accelerator) -> Place:
    """Return the place that Accelerate has given to this process."""
    return Place(accelerator.process_index, accelerator.num_processes, accelerator.device)


def require_environment() -> None:
    """Raise UsageError for what a shell or a launcher says of this process's place, and cannot be so."""
    with_launcher = ("RANK", "MASTER_PORT") if "LOCAL_RANK" in os.environ else ()
    for name in (*PLACE_VARIABLES, *with_launcher):
        value = os.environ.get(name, "")
        least = 1 if name == "LOCAL_WORLD_SIZE" else -1
        if name in os.environ and not (WHOLE_NUMBER.fullmatch(value) and int(value) >= least):
            raise UsageError(f"{name}={value}: must be a whole number of at least {max(least, 0)}; or unset it")
    if (device := os.environ.get(DEVICE_VARIABLE)) is not None:
        known = _devices()
        if device not in known:
            raise UsageError(f"{DEVICE_VARIABLE}={device}: must be one of {', '.join(known)}; or unset it")


def _devices() -> list[str]:
    """Return the names of the devices that PyTorch has here."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = str(torch.accelerator.current_accelerator())
    return ["cpu", kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]


def launched_as_main() -> bool:
    """Say whether the launcher, or nobody, started this as the main process; for use without an Accelerator."""
    return os.environ.get("RANK", "0") == "0"


def launched_as_first_here() -> bool:
    """Say whether the launcher started this as the first process of its host, which speaks for all of them."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def launched_here() -> int:
    """Return how many processes the launcher has started on this host; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launch_here() -> str:
    """Return what tells this launch on this host from all others; "" where nothing does.

    It stays the same when the launcher starts its processes again. torchrun makes a new directory for every
    launch, which has a directory of logs for every start.
    """
    error_file = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))  # LAUNCH/attempt_N/RANK/error.json
    start = error_file.parent.parent
    if not re.fullmatch(r"attempt_\d+", start.name):
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {start.parent}".encode()).hexdigest()[:16]


def launcher_here() -> int | None:
    """Return the id of the process that started this one, if that is torchrun's agent, also in Accelerate.

    It is another one once the agent is gone. Without an agent, a shell may have started this process and left.
    """
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


def num_restarts_here() -> int:
    """Return how often the launcher of this host has started its processes again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
