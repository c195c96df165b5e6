"""Where a process stands among the processes that measure together, all of them on this machine."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """One process's place, in the terms of torch.distributed. The default is a single process.

    Attributes:
        rank: From 0. On one machine it is the local rank, too.
        size: The number of processes.
        port: Where the processes meet on this machine; 0 if there is one process.
    """

    rank: int = 0
    size: int = 1
    port: int = 0

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Return the place that a launcher gave to this process."""
        return cls(
            rank=int(environment.get("RANK", "0")),
            size=int(environment.get("WORLD_SIZE", "1")),
            port=int(environment.get("MASTER_PORT", "0")),
        )

    @property
    def variables(self) -> dict[str, str]:
        """What a launcher tells the process in its environment; nothing if it is alone."""
        if self.size == 1:
            return {}
        return {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.size),
        }


def worlds(size: int) -> list[World]:
    """Return the places of `size` processes, which meet at a free port."""
    if size == 1:
        return [World()]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    return [World(rank, size, port) for rank in range(size)]
