"""What the ranks of a run tell each other besides their collectives: who is there, and what each does now.

All of it goes through a store of torch.distributed, which the launcher's agent or rank 0 serves. A launcher that
restarts its processes keeps the store, so each start has a generation: a number that rank 0 hands out.
"""

import json
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed has them, untyped

from gan.errors import PeerError, UsageError
from gan.process.place import launch_here, launcher_here, num_restarts_here, require_environment

PEER_GONE = re.compile(
    r"(closed|reset) by peer|broken pipe|gloo/(?!(gloo/)?transport/tcp/device)|Gloo connect", re.IGNORECASE
)
"""In errors of gloo. What its `device` complains of is of this process alone: its network interface."""
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that say which rank of how many this process is, and where the store is."""
LIMIT_FLAG = "--distributed-timeout"
SECONDS_BETWEEN_LOOKS = 0.05
LEAST_SECONDS_TO_CONNECT = 0.1
SECONDS_TO_REPORT = 2.0
"""Rank 0, with which the store ends, stays so long after a failure before the run, for the others to read why."""
MOST_LETTERS = 500
"""Of another rank's line."""


def is_of_a_peer(error: BaseException) -> bool:
    """Say whether this process ends because another one of the run ended first, or cannot be reached."""
    began = torch.distributed.is_initialized() or isinstance(error, torch.distributed.DistError)
    return began and is_of_a_connection(error)


def is_of_a_connection(error: BaseException) -> bool:
    """Say whether a connection to another process broke, or never came to be."""
    of_gloo = isinstance(error, RuntimeError) and PEER_GONE.search(str(error)) is not None
    return of_gloo or isinstance(error, torch.distributed.DistError)


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself again and again.

    Attributes:
        number: Of the beat; a rank whose number does not grow has stopped, or cannot be reached.
        num_activities: Begun so far. All ranks begin the same ones in the same order, so the least one is behind.
        activity: The present one, as in "step 12".
    """

    number: int
    num_activities: int
    activity: str


@dataclass(frozen=True)
class Failure:
    """Why a run has failed.

    Attributes:
        ranks: Those that are the cause, as far as is known.
        reason: One line, which names them.
    """

    ranks: list[int]
    reason: str


@dataclass(frozen=True)
class LaunchedPlace:
    """Where a launcher has put this process, and the address of the store."""

    rank: int
    world_size: int
    address: str
    port: int
    restarts: bool
    """Whether the launcher may restart its processes."""
    launcher: int | None = field(default_factory=launcher_here)

    @classmethod
    def here(cls) -> "LaunchedPlace | None":
        """Return the place of this process; None without a launcher, or for one process that is not restarted.

        Raises:
            UsageError: A variable of the launcher has a value that it cannot have.
        """
        by_accelerate = "LOCAL_RANK" in os.environ or not torch.accelerator.is_available()  # as it decides itself
        if any(not os.environ.get(name) for name in LAUNCHED) or not by_accelerate:
            return None
        require_environment()
        rank, world_size, address, port = (os.environ[name] for name in LAUNCHED)
        if not (rank.isdecimal() and world_size.isdecimal() and port.isdecimal()):
            return None
        restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        if int(world_size) <= 1 and not restarts:
            return None
        return cls(int(rank), int(world_size), address, int(port), restarts)

    @property
    def serves_store(self) -> bool:
        """Whether this process serves the store, because no agent of a launcher does."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def connect(self, seconds: float) -> TCPStore:
        """Return a new connection to the store.

        Raises:
            PeerError: There is none within `seconds`.
        """
        if not self.serves_store:
            self._wait_for_port(seconds)
        try:
            return TCPStore(
                self.address,
                self.port,
                is_master=self.serves_store,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
                multi_tenant=True,
                use_libuv=_uses_libuv(),
            )
        except RuntimeError as error:
            if self.serves_store:
                raise UsageError(
                    f"MASTER_PORT={self.port}: rank 0 cannot listen there; another program may use it, so choose "
                    "another port for all nodes"
                ) from error
            raise self._unreachable(seconds) from error

    def _wait_for_port(self, seconds: float) -> None:
        """Wait until somebody listens there. A TCPStore would wait, too, but print what it cannot do at length."""
        until = time.monotonic() + seconds
        while True:
            try:
                seconds_left = max(LEAST_SECONDS_TO_CONNECT, until - time.monotonic())
                socket.create_connection((self.address, self.port), timeout=seconds_left).close()
            except OSError as error:
                if time.monotonic() > until:
                    raise self._unreachable(seconds) from error
                time.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                return

    def _unreachable(self, seconds: float) -> PeerError:
        who = "rank 0" if self.rank else "the launcher of this process"
        return PeerError(
            f"{who} ({self.address}, port {self.port}) cannot be reached within {seconds:g} s ({LIMIT_FLAG}), "
            f"while rank {self.rank} began; is it running, and is the port open?"
        )


def _uses_libuv() -> bool:
    """Say which kind of store torch itself would make, which the launcher has made as well."""
    return os.environ.get("USE_LIBUV", "0" if sys.platform == "win32" else "1") == "1"


class Peers:
    """The ranks of one generation.

    Args:
        place: Of this process.
        seconds: How long to wait for all ranks to begin.

    Attributes:
        place: Of this process.
        store: Of this generation, for the process group and this thread.
        lasting: Of all generations that the launcher starts.
        hosts: Of the ranks that have been heard of.
        launch: How often every launcher has started its ranks again, by what `launch_here` calls the launcher.
    """

    def __init__(self, place: LaunchedPlace, seconds: float) -> None:
        self.place = place
        until = time.monotonic() + seconds
        connection = place.connect(seconds)
        self._connection = connection
        self.lasting: Store = PrefixStore("gan", connection)
        self.hosts = {place.rank: socket.gethostname()}
        self.launch: dict[str, int] = {}
        self._seconds = seconds
        generation = self._gather(until) if place.rank == 0 else self._join(until)
        self.prefix = f"gan/{generation}"
        self.store: Store = PrefixStore(self.prefix, connection)
        if place.rank == 0:
            self._tell(self.store)
        else:
            # longer than rank 0, which says after `seconds` who is missing
            self.store.wait(["launch", "hosts"], timedelta(seconds=seconds + SECONDS_TO_REPORT))
            self.hosts = {int(rank): host for rank, host in json.loads(self.store.get("hosts")).items()}
            self.launch = json.loads(self.store.get("launch"))

    def name(self, rank: int) -> str:
        """Return what a rank is called in a message."""
        return f"rank {rank} on {self.hosts[rank]}" if rank in self.hosts else f"rank {rank}"

    def _gather(self, until: float) -> int:
        """Let all ranks take part in a new generation, as rank 0.

        A hello may be of a process that an earlier generation has left. So it is answered, and the rank counts as
        here when it has taken the answer.
        """
        generation = int(self.lasting.add("generation", 1))
        hello_here = _hello()
        self.lasting.set("hello/0", hello_here)
        hellos: dict[int, Mapping[str, Any]] = {0: json.loads(hello_here)}
        answered: dict[int, str] = {}
        missing = set(range(1, self.place.world_size))
        while missing:
            for rank in sorted(missing):
                if self.lasting.check([f"taken/{generation}/{rank}"]):
                    missing.remove(rank)
                elif hello := _read(self.lasting, f"hello/{rank}"):
                    hellos[rank] = hello
                    self.hosts[rank] = str(hello["host"])
                    if hello["failed"] and hello["token"] not in answered.values():
                        self._refuse(
                            generation, [rank], f"{self.name(rank)} ended before it began: {hello['failed']}"
                        )
                    if answered.get(rank) != hello["token"]:
                        answered[rank] = str(hello["token"])
                        self.lasting.set(f"welcome/{hello['token']}", str(generation))
            if missing and time.monotonic() > until:
                self._refuse(generation, sorted(missing), self._late(missing))
            time.sleep(SECONDS_BETWEEN_LOOKS if missing else 0)
        launchers = hellos.values()
        self.launch = {str(hello["launch"]): int(hello["restarts"]) for hello in launchers if hello["launch"]}
        return generation

    def _refuse(self, generation: int, ranks: list[int], reason: str) -> None:
        """Let those that are here end as this rank does."""
        store = PrefixStore(f"gan/{generation}", self._connection)
        self._tell(store)
        store.set("failure", json.dumps(asdict(Failure(ranks, reason))))
        time.sleep(SECONDS_TO_REPORT)
        raise PeerError(reason)

    def _tell(self, store: Store) -> None:
        """Tell the ranks of a generation who they are."""
        store.set("launch", json.dumps(self.launch))
        store.set("hosts", json.dumps(self.hosts))

    def _late(self, missing: set[int]) -> str:
        ranks = ", ".join(map(self.name, sorted(missing)))
        limit = f"{self._seconds:g} s ({LIMIT_FLAG})"
        return f"{ranks}: not started within {limit}, while rank {self.place.rank} waited for it"

    def _join(self, until: float) -> int:
        """Take part in the generation that rank 0 begins."""
        hello = _hello()
        self.lasting.set(f"hello/{self.place.rank}", hello)
        welcome = f"welcome/{json.loads(hello)['token']}"
        while not self.lasting.check([welcome]):
            main = _read(self.lasting, "hello/0") or {"failed": ""}
            if main["failed"]:
                raise PeerError(f"rank 0 on {main['host']} ended before it began: {main['failed']}")
            if time.monotonic() > until:
                raise PeerError(self._late({0}))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        generation = int(self.lasting.get(welcome))
        self.lasting.set(f"taken/{generation}/{self.place.rank}", "1")
        return generation

    def agreed(self, key: str, value: Any) -> Any:
        """Return what rank 0 passes, JSON-ready."""
        if self.place.rank == 0:
            self.store.set(key, json.dumps(value))
            return value
        self.store.wait([key], timedelta(seconds=self._seconds))
        return json.loads(self.store.get(key))


def report_before_meeting(line: str) -> None:
    """Tell the other ranks that this process ends before it meets them, if that is possible at once."""
    try:
        place = LaunchedPlace.here()
        if place is not None and place.world_size > 1:
            store = place.connect(SECONDS_TO_REPORT)
            store.set(f"gan/hello/{place.rank}", _hello(failed=line[:MOST_LETTERS]))
            if place.rank == 0:
                time.sleep(SECONDS_TO_REPORT)
    except (PeerError, UsageError, RuntimeError):
        pass  # they will end at their time limit


def _hello(failed: str = "") -> str:
    hello = {
        "token": secrets.token_hex(8),
        "host": socket.gethostname(),
        "launch": launch_here(),
        "restarts": num_restarts_here(),
        "failed": failed,
    }
    return json.dumps(hello)


def _read(store: Store, key: str) -> Mapping[str, Any] | None:
    return json.loads(store.get(key)) if store.check([key]) else None


class Beats:
    """Beats and failures over a connection of their own; to be used by one thread."""

    def __init__(self, peers: Peers) -> None:
        self._place = peers.place
        client = TCPStore(
            self._place.address,
            self._place.port,
            is_master=False,
            timeout=timedelta(seconds=60),
            wait_for_workers=False,
            use_libuv=_uses_libuv(),
        )
        self._store = PrefixStore(peers.prefix, client)
        self._others = [rank for rank in range(self._place.world_size) if rank != self._place.rank]

    def send(self, beat: Beat) -> None:
        """Say what this rank does."""
        self._store.set(f"beat/{self._place.rank}", json.dumps(asdict(beat)))

    def failure(self) -> Failure | None:
        """Return why the run has failed, as the first rank that knew it says."""
        failure = _read(self._store, "failure")
        return Failure(**failure) if failure else None

    def fail(self, failure: Failure) -> None:
        """Say why the run has failed, unless a rank has said so."""
        if self.failure() is None:
            self._store.set("failure", json.dumps(asdict(failure)))

    def of_others(self) -> dict[int, Beat]:
        """Return the last beat of each other rank that has sent one."""
        keys = {rank: f"beat/{rank}" for rank in self._others}
        return {
            rank: Beat(**json.loads(self._store.get(key)))
            for rank, key in keys.items()
            if self._store.check([key])
        }
