"""Whom the watch ends, and whom not. Rank 0 has the watch; rank 1 is a thread that only sends beats."""

import faulthandler
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gan.process.watch
from gan.errors import PeerError
from gan.files.background import BackgroundWriter
from gan.process.peers import Beat, Beats, Failure, LaunchedPlace, Peers
from gan.process.place import launcher_here
from gan.process.script import exit_code_of
from gan.process.watch import Watch, begin_process_group, doing, watching
from tests.gan.test_peers import place

LIMIT = 0.5


class Rank1:
    """Says that it is so many activities ahead of rank 0, until it falls silent."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers
        self.ahead = 0
        self.silent = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        beats = Beats(self.peers)
        number = 0
        while not self.silent.wait(0.02):
            number += 1
            beats.send(Beat(number, gan.process.watch._activity.count + self.ahead, "step 2"))

    def stop(self) -> None:
        self.silent.set()
        self._thread.join()


class Clock:
    """The clock of a process that can be suspended."""

    def __init__(self) -> None:
        self.suspended_seconds = 0.0
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return time.monotonic() + self.suspended_seconds


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ended rank 0, which goes on in these tests."""
    lines: list[str] = []
    monkeypatch.setattr(gan.process.watch, "end_process", lines.append)
    monkeypatch.setattr(gan.process.watch, "LEAST_SILENCE_SECONDS", 0.8)
    monkeypatch.setattr(gan.process.watch, "SECONDS_TO_END", 0.1)
    return lines


@pytest.fixture
def ranks(port: int, lines: list[str]) -> Iterator[tuple[Watch, Rank1]]:
    with ThreadPoolExecutor(2) as threads:
        peers = [*threads.map(lambda rank: Peers(place(rank, port, world_size=2), 20), range(2))]
    doing("step", 3)
    other = Rank1(peers[1])
    watch = Watch(peers[0], LIMIT)
    yield watch, other
    watch.stop()
    other.stop()


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("ahead", [0, 1])
def test_ranks_that_take_longer_than_the_limit_for_the_same_are_left_alone(
    ahead: int, ranks: tuple[Watch, Rank1], lines: list[str]
) -> None:
    """Also a rank that is behind leaves it to those that wait for it: they know since when they wait."""
    ranks[1].ahead = ahead
    time.sleep(2 * LIMIT)
    assert lines == []


def test_a_rank_that_is_behind_is_named_after_the_limit(ranks: tuple[Watch, Rank1], lines: list[str]) -> None:
    began = time.monotonic()
    doing("step", 3)
    ranks[1].ahead = -1
    wait_for(lambda: lines)
    assert time.monotonic() - began > LIMIT
    assert lines[0].startswith("rank 1 on ")
    assert lines[0].endswith(
        "not done with step 2 in 0.5 s (--distributed-timeout); rank 0 waited for it in step 3"
    )


def test_a_silent_rank_is_named_after_the_limit(ranks: tuple[Watch, Rank1], lines: list[str]) -> None:
    ranks[1].silent.set()
    wait_for(lambda: lines)
    assert "ended, stopped or cannot be reached" in lines[0]
    assert lines[0].startswith("rank 1 on ")


def test_a_rank_whose_launcher_is_gone_ends_and_tells_the_others(
    ranks: tuple[Watch, Rank1], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after kill -9 of a launcher. Without one, a shell that leaves is nobody's concern."""
    monkeypatch.setattr("os.getppid", lambda: 1)
    time.sleep(LIMIT)
    assert lines == []
    monkeypatch.setattr(gan.process.watch, "launcher_here", lambda: 1)
    wait_for(lambda: lines)
    assert re.fullmatch(r"rank 0 on \S+: launcher is gone", lines[0])
    told = Beats(ranks[1].peers).failure()
    assert told is not None
    assert told.ranks == [0]


def test_the_launcher_is_the_parent_of_a_process_that_an_agent_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher_here() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launcher_here() == os.getppid()


def test_ranks_that_only_wait_for_one_another_end_at_the_limit(
    ranks: tuple[Watch, Rank1], lines: list[str]
) -> None:
    doing("connecting", is_meeting=True)
    wait_for(lambda: lines)
    assert lines[0].startswith("all ranks answer, but none goes on with connecting for 0.5 s")


def test_a_process_that_is_alone_has_no_limit(port: int, lines: list[str]) -> None:
    doing("connecting", is_meeting=True)
    watch = Watch(Peers(place(0, port, world_size=1), 5), 0.1)
    time.sleep(0.3)
    watch.stop()
    assert lines == []


def test_a_suspended_process_waits_anew_when_it_is_continued(
    ranks: tuple[Watch, Rank1], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(gan.process.watch, "time", clock)
    ranks[1].ahead = -1
    doing("step", 4)
    time.sleep(LIMIT / 5)
    continued = time.monotonic()
    clock.suspended_seconds = 1000.0
    wait_for(lambda: lines)
    assert time.monotonic() - continued > LIMIT / 2


def test_the_end_waits_for_a_save_that_is_being_written(ranks: tuple[Watch, Rank1], lines: list[str]) -> None:
    watch, other = ranks
    watch.set_limit(4)  # then the wait for the save is as long
    written = threading.Event()
    with BackgroundWriter() as writer:
        writer.begin(written.wait)
        Beats(other.peers).fail(Failure([1], "rank 1 is gone"))
        time.sleep(1)
        assert lines == [], "the checkpoint would be cut short"
        written.set()
        wait_for(lambda: lines)
    assert lines[0].startswith("rank 1 is gone; rank 0 waited for it in step 3")


def test_the_end_does_not_wait_for_ever_for_a_save(ranks: tuple[Watch, Rank1], lines: list[str]) -> None:
    written = threading.Event()
    with BackgroundWriter() as writer:
        writer.begin(written.wait)
        Beats(ranks[1].peers).fail(Failure([1], "rank 1 is gone"))
        wait_for(lambda: lines)
        assert not written.is_set()
        written.set()


def test_a_watch_that_was_stopped_ends_nobody(
    ranks: tuple[Watch, Rank1], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the timer either, which its thread may be about to set."""
    setting = threading.Event()
    calls: list[str] = []

    def set_timer(*_: Any, **__: Any) -> None:
        setting.set()
        time.sleep(0.2)
        calls.append("set")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", set_timer)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    ranks[1].ahead = -1
    assert setting.wait(20)
    ranks[0].stop()
    time.sleep(LIMIT)
    assert calls[-1] == "cancelled"
    assert lines == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            "[enforce fail at /src/third_party/gloo/gloo/transport/tcp/device.cc:84] ifa != nullptr. "
            "Unable to find address for: eth9",
            RuntimeError,
        ),
        ("Gloo connectFullMesh failed with [/src/third_party/gloo/gloo/transport/tcp/pair.cc:144]", PeerError),
        ("[/src/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer", PeerError),
    ],
)
def test_an_interface_that_is_not_there_is_no_fault_of_another_rank(
    said: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(said)

    peers = SimpleNamespace(place=place(0, 1), store=None)
    watch = SimpleNamespace(peers=peers, most_seconds=1.0, why=lambda error: f"rank 1 is gone: {error}")
    monkeypatch.setattr(gan.process.watch, "_watch", watch)
    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    with pytest.raises(error):
        begin_process_group()


def test_sigterm_is_ignored_until_the_script_has_ended_and_no_longer(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers: list[Any] = []
    monkeypatch.setattr(LaunchedPlace, "here", lambda: place(0, port, world_size=1))
    monkeypatch.setattr("gan.process.script._traceback_file", lambda _: "")
    monkeypatch.setattr(
        "gan.process.script._end", lambda *_, **__: handlers.append(signal.getsignal(signal.SIGTERM)) or 1
    )

    def main() -> None:
        with watching(5):
            raise RuntimeError("a fault")

    try:
        with pytest.raises(RuntimeError, match="a fault"):
            main()
        assert signal.getsignal(signal.SIGTERM) is before
        assert exit_code_of(main) == 1
        assert handlers == [signal.SIG_IGN]
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)
