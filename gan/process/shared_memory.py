"""Memory that all processes of a run share, if all are on one host; and where they wait for one another.

Otherwise processes on CPUs send one another every byte through the loopback interface, where it is copied twice.
Nothing here has a name in a file system, so nothing is left over, however a process ends: the memory is an
anonymous file of Linux, whose descriptor goes from one process to the others through a socket.
"""

import mmap
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from torch import Tensor, distributed

from gan.process.memory import free_on_host
from gan.process.watch import current_watch

SECONDS_TO_WAIT = 1800.0
"""As long as gloo waits, in a process without a watch."""
SECONDS_TO_CONNECT = 60.0
ARRIVAL = struct.Struct("<?q")
"""What a process says to rank 0: whether it agrees, and how many bytes it exchanges."""
YES = b"y"
NO = b"n"
DIFFERENT = b"d"
"""What rank 0 answers."""
TOKEN_BYTES = 16
ALIGNMENT_BYTES = 64
"""Of what lies in shared memory: a cache line belongs to one process at a time."""


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

    def meet(self, num_bytes: int = 0, *, agrees: bool = True) -> bool:
        """Wait until all processes are here. What one has written before, the others can read afterwards.

        Args:
            num_bytes: How much they exchange.
            agrees: Whether this process agrees to something.

        Returns:
            Whether all of them agree.

        Raises:
            torch.distributed.DistNetworkError: Another one has ended, or did not come.
            RuntimeError: They exchange different things.
        """
        with _connected():
            if self.rank:
                (main,) = self._connections
                main.send(ARRIVAL.pack(agrees, num_bytes))
                answer = _received(main, 1)
            else:
                others = [ARRIVAL.unpack(_received(other, ARRIVAL.size)) for other in self._connections]
                answer = YES if agrees and all(other_agrees for other_agrees, _ in others) else NO
                if any(others_bytes != num_bytes for _, others_bytes in others):
                    answer = DIFFERENT
                for other in self._connections:
                    other.send(answer)
        if answer == DIFFERENT:
            raise RuntimeError(
                "processes exchange different gradients or statistics of BatchNorm: all of them have to use the "
                "same layers in the same order"
            )
        return answer == YES

    def share(self, num_bytes: int) -> Tensor | None:
        """Return memory that all processes share: zeros, shape (num_bytes,), uint8.

        It is freed with the last tensor of the last process.

        Returns:
            None, in all processes, if one of them lacks memory or anything else that this takes.

        Raises:
            torch.distributed.DistNetworkError: Another process has ended, or did not come.
        """
        if self.rank:
            (main,) = self._connections
            with _connected():
                _, descriptors, _, _ = socket.recv_fds(main, 1, 1)  # none if rank 0 has ended: then meet fails
        else:
            descriptors = _anonymous_file(num_bytes)
            with _connected():
                for other in self._connections:
                    socket.send_fds(other, [YES], descriptors)
        memory = None
        for descriptor in descriptors:
            with suppress(OSError):
                memory = mmap.mmap(descriptor, num_bytes)
            os.close(descriptor)
        has_all = self.meet(agrees=memory is not None)
        return torch.frombuffer(memory, dtype=torch.uint8) if memory is not None and has_all else None


def neighbours() -> Neighbours | None:
    """Return the processes of torch.distributed's group, which all have to call this; None if some are elsewhere.

    Processes that do not see the same network are elsewhere, such as those of two containers. So are all
    processes on a system other than Linux.
    """
    return _neighbours(distributed.get_rank(), distributed.get_world_size())


@cache
def _neighbours(rank: int, world_size: int) -> Neighbours | None:
    listener = _listen() if rank == 0 else None
    invitation = [(listener.getsockname(), secrets.token_bytes(TOKEN_BYTES)) if listener else None]
    distributed.broadcast_object_list(invitation)
    if invitation[0] is None:
        return None
    address, token = invitation[0]
    main = _connect(address, token) if rank else None
    distributed.barrier()  # who has not connected by now is elsewhere
    if listener:
        with listener:
            connections = _accept(listener, token)
    else:
        connections = [main] if main else []
    is_here = torch.tensor(int(len(connections) == (1 if rank else world_size - 1)))
    distributed.all_reduce(is_here, distributed.ReduceOp.MIN)
    if is_here.item():
        return Neighbours(rank, world_size, connections)
    for connection in connections:
        connection.close()
    return None


def _listen() -> socket.socket | None:
    """Return a socket with an address of no file system, which the system chooses; None where there are none."""
    if not hasattr(os, "memfd_create"):
        return None
    listener = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        listener.bind("")
        listener.listen(socket.SOMAXCONN)
        return listener
    listener.close()
    return None


def _connect(address: bytes, token: bytes) -> socket.socket | None:
    """Return a connection to rank 0, or to a stranger: the address may be another one's on another host."""
    if not hasattr(os, "memfd_create"):
        return None
    main = socket.socket(socket.AF_UNIX)
    with suppress(OSError):
        main.settimeout(SECONDS_TO_CONNECT)
        main.connect(address)
        main.send(token)
        return main
    main.close()
    return None


def _accept(listener: socket.socket, token: bytes) -> list[socket.socket]:
    """Return the connections that are there, without those of strangers, who do not know the token."""
    connections = []
    listener.setblocking(False)
    with suppress(OSError):  # there are no more
        while True:
            other, _ = listener.accept()
            if _is_known(other, token):
                connections.append(other)
            else:
                other.close()
    return connections


def _is_known(other: socket.socket, token: bytes) -> bool:
    with suppress(OSError):  # it has sent nothing
        return other.recv(TOKEN_BYTES, socket.MSG_DONTWAIT) == token
    return False


def _anonymous_file(num_bytes: int) -> list[int]:
    """Return a descriptor of so much memory, which is taken now: later, it would end a process to lack it.

    There is none if there is not so much.
    """
    if num_bytes > free_on_host():  # the system would end processes to get it
        return []
    descriptors = []
    try:
        descriptors.append(os.memfd_create("gan"))
        os.posix_fallocate(descriptors[0], 0, num_bytes)
    except OSError:
        for descriptor in descriptors:
            os.close(descriptor)
        return []
    return descriptors


def _received(other: socket.socket, num_bytes: int) -> bytes:
    """Return a message, which has always been sent at once."""
    message = other.recv(num_bytes)
    if not message:
        raise distributed.DistNetworkError("a process of this host has closed its connection")
    return message


@contextmanager
def _connected() -> Iterator[None]:
    """Raise DistNetworkError for the error of a connection that has ended."""
    try:
        yield
    except OSError as error:
        raise distributed.DistNetworkError(f"no connection to a process of this host: {error}") from error
