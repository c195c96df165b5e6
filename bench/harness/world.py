"""Where a process stands among the processes that measure together, on this host and on others."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One process's place, in the terms of torch.distributed. The default is a single process.

    Attributes:
        rank: From 0.
        size: The number of processes.
        port: Where the processes meet; 0 if there is one process.
        first_here: The rank of the first process on this host.
        size_here: The number of processes on this host; None if all are.
    """

    rank: int = 0
    size: int = 1
    port: int = 0
    first_here: int = 0
    size_here: int | None = None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Return the place that a launcher gave to this process."""
        rank = int(environment.get("RANK", "0"))
        size = int(environment.get("WORLD_SIZE", "1"))
        size_here = int(environment.get("LOCAL_WORLD_SIZE", str(size)))
        return cls(
            rank=rank,
            size=size,
            port=int(environment.get("MASTER_PORT", "0")),
            first_here=rank - int(environment.get("LOCAL_RANK", str(rank))),
            size_here=None if size_here == size else size_here,
        )

    @property
    def local_rank(self) -> int:
        """Its number among the processes on this host, from 0, which is that of its GPU."""
        return self.rank - self.first_here

    @property
    def is_first_here(self) -> bool:
        """Whether no process on this host has a lower rank."""
        return self.rank == self.first_here

    @property
    def num_here(self) -> int:
        """The number of processes on this host."""
        return self.size if self.size_here is None else self.size_here

    @property
    def variables(self) -> dict[str, str]:
        """What a launcher tells the process in its environment; nothing if it is alone."""
        if self.size == 1:
            return {}
        return {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.num_here),
        }


def worlds(size: int) -> list[World]:
    """Return the places of `size` processes, which meet at a free port."""
    if size == 1:
        return [World()]
    port = free_port("127.0.0.1")
    return [World(rank, size, port) for rank in range(size)]


def free_port(address: str = "") -> int:
    """Return a port on which nobody listens at an address of this host, by default at any."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
