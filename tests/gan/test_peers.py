"""Ranks meet over a store. Here they are threads of this process, which also serves the store."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from gan.errors import PeerError, UsageError
from gan.process.peers import Beat, Beats, Failure, LaunchedPlace, Peers
from gan.process.place import launch_here


@pytest.fixture(autouse=True)
def _stay_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.process.peers.SECONDS_TO_REPORT", 0.5)


@pytest.fixture
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which only the sleep of ranks takes time."""
    now = 100.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("gan.process.peers.time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Rank 0 stays until this is set, instead of for a time."""
    learnt = threading.Event()
    stay_seconds = 60.0

    def sleep(seconds: float) -> None:
        if seconds == stay_seconds:
            learnt.wait(seconds)
        else:
            time.sleep(seconds)

    monkeypatch.setattr("gan.process.peers.SECONDS_TO_REPORT", stay_seconds)
    monkeypatch.setattr("gan.process.peers.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    return learnt


def place(rank: int, port: int, world_size: int = 3) -> LaunchedPlace:
    return LaunchedPlace(rank, world_size, "127.0.0.1", port, restarts=True)


def meet(port: int, seconds: float = 20) -> list[Peers]:
    with ThreadPoolExecutor(3) as threads:
        return [*threads.map(lambda rank: Peers(place(rank, port), seconds), range(3))]


def test_each_start_has_a_store_of_its_own(port: int) -> None:
    """A launcher that restarts its processes keeps the store, and in it what they wrote."""
    first = meet(port)
    assert len({peers.prefix for peers in first}) == 1
    first[1].store.set("key", "of the first start")
    second = meet(port)
    assert len({peers.prefix for peers in second}) == 1
    assert second[0].prefix != first[0].prefix
    assert not second[2].store.check(["key"])
    assert [*second[1].hosts] == [0, 1, 2]


@pytest.mark.usefixtures("_clock")
def test_who_left_before_the_others_came_does_not_count_as_here(port: int) -> None:
    """Its hello is still in the store: rank 0 must wait for the process that takes its place."""
    with pytest.raises(PeerError, match=r"rank 0: not started within 5 s .* while rank 1 waited for it"):
        Peers(place(1, port), 5)
    with pytest.raises(PeerError, match=r"rank 1 on \S+, rank 2: not started within 5 s"):
        Peers(place(0, port), 5)


def test_who_is_there_learns_which_rank_is_late(port: int, learnt: threading.Event) -> None:
    """Rank 0 stays for that: when its process ends, so does the launcher that keeps the store."""
    with ThreadPoolExecutor(2) as threads:
        main = threads.submit(Peers, place(0, port), 1.0)
        beats = Beats(threads.submit(Peers, place(1, port), 5.0).result())
        while (failure := beats.failure()) is None and not main.done():
            time.sleep(0.01)
        assert not main.done()
        learnt.set()
        with pytest.raises(PeerError, match="rank 2: not started"):
            main.result()
    assert failure is not None
    assert failure.ranks == [2]


def test_who_was_there_before_rank_0_learns_it_too(port: int, learnt: threading.Event) -> None:
    """Rank 0 looks only now and then whether its limit has passed: later than one with the same limit."""
    with ThreadPoolExecutor(2) as threads:
        here = threads.submit(Peers, place(1, port), 0.8)
        main = threads.submit(Peers, place(0, port), 1.0)
        assert Beats(here.result()).failure() is not None or not main.done()
        learnt.set()
        with pytest.raises(PeerError, match="rank 2: not started"):
            main.result()


def test_the_first_failure_stays(port: int) -> None:
    main, other, _ = meet(port)
    Beats(other).fail(Failure([2], "rank 2 is gone"))
    Beats(main).fail(Failure([1], "rank 1 is gone"))
    assert Beats(main).failure() == Failure([2], "rank 2 is gone")


def test_beats_are_heard(port: int) -> None:
    main, other, _ = meet(port)
    Beats(other).send(Beat(3, 7, "step 2"))
    assert Beats(main).of_others() == {1: Beat(3, 7, "step 2")}


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    monkeypatch.setattr("gan.process.peers.TCPStore", raise_taken)
    with pytest.raises(UsageError, match=f"^MASTER_PORT={port}: rank 0 cannot listen there"):
        place(0, port).connect(1)


def raise_taken(*_: Any, **__: Any) -> None:
    raise RuntimeError("The server socket has failed to listen on any local network address.")


@pytest.mark.usefixtures("_clock")
def test_no_attempt_to_connect_takes_longer_than_what_is_left(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """A firewall that drops packets keeps an attempt waiting for as long as it is allowed to."""
    attempts: list[float] = []

    def refuse(_: Any, timeout: float) -> None:
        attempts.append(timeout)
        raise ConnectionRefusedError

    monkeypatch.setattr("gan.process.peers.socket.create_connection", refuse)
    late = r"cannot be reached within 0\.4 s \(--distributed-timeout\), while rank 1 began"
    with pytest.raises(PeerError, match=rf"^rank 0 \(127.* {late}"):
        place(1, port).connect(0.4)
    assert attempts == sorted(attempts, reverse=True)
    assert attempts[-1] <= 0.2
    with pytest.raises(PeerError, match=r"^the launcher of this process \(127"):
        place(0, port).connect(0.1)


@pytest.mark.parametrize(
    ("platform", "asked", "used"), [("linux", None, True), ("linux", "0", False), ("win32", None, False)]
)
def test_the_store_is_of_the_kind_that_torch_would_make(
    platform: str, asked: str | None, used: bool, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    kinds: list[bool] = []
    monkeypatch.setattr("gan.process.peers.TCPStore", lambda *_, **settings: kinds.append(settings["use_libuv"]))
    monkeypatch.setattr("gan.process.peers.sys", SimpleNamespace(platform=platform))
    monkeypatch.delenv("USE_LIBUV", raising=False)
    if asked is not None:
        monkeypatch.setenv("USE_LIBUV", asked)
    place(1, port).connect(5)
    assert kinds == [used]


def test_nothing_is_watched_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert LaunchedPlace.here() is None


def test_all_ranks_know_which_start_of_which_launch_this_is(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/tmp/logs/none_x/attempt_2/0/error.json")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert launch_here()
    assert [peers.launch for peers in meet(port)] == [{launch_here(): 2}] * 3


def test_a_launch_is_the_same_at_all_its_starts_and_differs_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch_of(error_file: str) -> str:
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", error_file)
        return launch_here()

    launch = launch_of("/tmp/logs/none_x/attempt_0/0/error.json")
    assert launch == launch_of("/tmp/logs/none_x/attempt_3/1/error.json") != ""
    assert launch != launch_of("/tmp/logs/none_y/attempt_0/0/error.json")
    assert [launch_of(""), launch_of("/dev/null")] == ["", ""], "torchrun --log-dir /dev/null"
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert launch != launch_of("/tmp/logs/none_x/attempt_0/0/error.json")
