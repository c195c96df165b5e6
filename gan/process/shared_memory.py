"""Memory that all processes of a run share, if all are on one host; and where they wait for one another.

Otherwise processes on CPUs send one another every byte through the loopback interface, where it is copied twice.
Nothing here has a name in a file system, so nothing is left over, however a process ends: the memory is an
anonymous file of Linux, whose descriptor goes from one process to the others through a socket.
"""

import mmap
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, distributed

from gan.process.memory import free_on_host
from gan.process.watch import current_watch

SECONDS_TO_WAIT = 1800.0
"""As long as gloo waits, in a process without a watch."""
SECONDS_TO_CONNECT = 60.0
CREDENTIALS = struct.Struct("3i")
"""Of the process at the other end of a socket: its number, user and group."""
YES = b"y"
NO = b"n"

T = TypeVar("T")


class Neighbours:
    """The processes of a run, all of which are on this host. All of them have to call a method together.

    They are connected like a star: each of them with rank 0.

    Attributes:
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, rank: int, world_size: int, connections: list[socket.socket]) -> None:
        self.rank = rank
        self.world_size = world_size
        self._connections = connections
        watch = current_watch()
        for connection in connections:
            connection.settimeout(watch.most_seconds if watch else SECONDS_TO_WAIT)

    def meet(self) -> None:
        """Wait until all processes are here. What one has written before, the others can read afterwards.

        Raises:
            torch.distributed.DistNetworkError: Another one has ended, or did not come.
        """
        if self.rank:
            (main,) = self._connections
            _connected(lambda: main.send(YES))
            _received(main)
            return
        for other in self._connections:
            _received(other)
        for other in self._connections:
            _connected(lambda to=other: to.send(YES))  # type: ignore[misc]

    def share(self, num_bytes: int) -> Tensor | None:
        """Return memory that all processes share: zeros, shape (num_bytes,), uint8; None if there is not so much.

        It is freed with the last tensor of the last process.

        Raises:
            torch.distributed.DistNetworkError: Another process has ended, or did not come.
        """
        if self.rank:
            (main,) = self._connections
            answer, descriptors, _, _ = _connected(lambda: socket.recv_fds(main, 1, 1))
            descriptor = descriptors[0] if answer == YES else None
        else:
            descriptor = _anonymous_file(num_bytes)
            for other in self._connections:
                if descriptor is None:
                    _connected(lambda to=other: to.send(NO))  # type: ignore[misc]
                else:
                    _connected(lambda to=other: socket.send_fds(to, [YES], [descriptor]))  # type: ignore[misc]
        if descriptor is None:
            return None
        try:
            return torch.frombuffer(mmap.mmap(descriptor, num_bytes), dtype=torch.uint8)
        finally:
            os.close(descriptor)


def neighbours() -> Neighbours | None:
    """Return the processes of torch.distributed's group, which all have to call this; None if some are elsewhere.

    Processes that do not see the same network are elsewhere, such as those of two containers. So are all
    processes on a system other than Linux.
    """
    return _neighbours(distributed.get_rank(), distributed.get_world_size())


@cache
def _neighbours(rank: int, world_size: int) -> Neighbours | None:
    with socket.socket(socket.AF_UNIX) as listener:
        address = [_listen(listener, world_size) if rank == 0 else b""]
        distributed.broadcast_object_list(address)
        main = _connect(address[0]) if rank and address[0] else None
        is_here = torch.tensor(int(main is not None if rank else bool(address[0])))
        distributed.all_reduce(is_here, distributed.ReduceOp.MIN)
        if not is_here.item():
            return None
        return Neighbours(rank, world_size, [main] if main else _accept(listener, world_size - 1))


def _listen(listener: socket.socket, backlog: int) -> bytes:
    """Return an address of no file system, which the system chooses; empty where there are none."""
    if not hasattr(os, "memfd_create"):
        return b""
    listener.bind("")
    listener.listen(backlog)
    listener.settimeout(SECONDS_TO_CONNECT)
    return bytes(listener.getsockname())


def _connect(address: bytes) -> socket.socket | None:
    main = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        main.connect(address)
        if _is_of_this_user(main):
            return main
    main.close()
    return None


def _accept(listener: socket.socket, count: int) -> list[socket.socket]:
    connections: list[socket.socket] = []
    while len(connections) < count:
        other, _ = _connected(listener.accept)
        if _is_of_this_user(other):
            connections.append(other)
        else:
            other.close()
    return connections


def _is_of_this_user(other: socket.socket) -> bool:
    """Say whether a process of the same user is at the other end: any process of this host may connect."""
    credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, user, _ = CREDENTIALS.unpack(credentials)
    return bool(user == os.getuid())


def _anonymous_file(num_bytes: int) -> int | None:
    """Return the descriptor of so much memory, which is taken now: later, it would end a process to lack it."""
    if num_bytes > free_on_host():  # the system would end processes to get it
        return None
    descriptor = os.memfd_create("gan")
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _received(other: socket.socket) -> None:
    if not _connected(lambda: other.recv(1)):
        raise distributed.DistNetworkError("a process of this host has closed its connection")


def _connected(call: Callable[[], T]) -> T:
    """Return what a call of a connection returns; raise DistNetworkError where the connection has ended."""
    try:
        return call()
    except OSError as error:
        raise distributed.DistNetworkError(f"no connection to a process of this host: {error}") from error
