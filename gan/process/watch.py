"""The watch over a run of several ranks: none waits for another one longer than the time limit.

Two threads beside the training: one tells the other ranks what this one does, and hears of their failures. It may
hang in a dead network. The other one never does: it ends this process with one line, also while the training is
inside of a library, where no exception reaches it.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch

from gan.errors import DivergedError, Interrupted, NotSavedError, PeerError, UnhealthyError, UsageError
from gan.files.text import printable, shortened
from gan.process.peers import (
    MOST_LETTERS,
    Beat,
    Beats,
    Failure,
    LaunchedPlace,
    Peers,
    is_of_a_peer,
    report_before_meeting,
)
from gan.process.signs import LIMIT_FLAG, Signs, of_behind, of_silent

MOST_SECONDS_BETWEEN_BEATS = 1.0
BEATS_IN_LIMIT = 20
LEAST_SILENCE_SECONDS = 1.5
"""A rank whose beats have not been heard for so long, or for some beats, is silent."""
SILENT_BEATS = 5
SECONDS_TO_END = 2.0
"""When a rank has failed, this one has so long to end by itself: often it fails, too."""
SECONDS_TO_REPORT = 2.0
SECONDS_TO_BE_HEARD = 5.0
"""So much longer than the limit rank 0 may take to tell the others that one of them is late."""


class _Activity:
    """What the training of this process does now. Ranks begin the same activities in the same order."""

    count = 0
    what = "starting"
    number: int | None = None
    since = 0.0

    @property
    def words(self) -> str:
        """The activity in words, as in "step 12"."""
        return self.what if self.number is None else f"{self.what} {self.number}"


_activity = _Activity()
_watch: "Watch | None" = None
_sessions = 0


def doing(what: str, number: int | None = None) -> None:
    """Note what this rank begins to do, as in ("step", 12); it takes less than a microsecond.

    All ranks have to call it at the same points of the program.
    """
    _activity.what = what
    _activity.number = number
    _activity.count += 1
    _activity.since = time.monotonic()


def current_watch() -> "Watch | None":
    """Return the watch of this process; None in a run of one process."""
    return _watch


@contextmanager
def watching(limit_seconds: float) -> "Iterator[Watch | None]":
    """Meet the other ranks and watch over them; yield None where a launcher has started no others.

    Args:
        limit_seconds: How long a rank may wait for another one.

    Raises:
        PeerError: Another rank has ended, failed or not gone on for `limit_seconds`. Where the training cannot be
            reached by an exception, the process ends with the error's line and the exit code 1.
    """
    global _watch, _sessions
    place = LaunchedPlace.here()
    if place is None:
        yield None
        return
    doing("starting")
    with _ended_after(
        limit_seconds + SECONDS_TO_BE_HEARD, f"rank 0 ({place.address}) does not answer while this rank began"
    ):
        watch = Watch(Peers(place, limit_seconds), limit_seconds, is_first=_sessions == 0)
    _sessions += 1
    _watch = watch
    try:
        yield watch
    except (DivergedError, UnhealthyError, NotSavedError, Interrupted, PeerError):  # all ranks know of it
        raise
    except BaseException as error:
        _outlive_the_launcher()
        if is_of_a_peer(error):
            raise PeerError(watch.why(error)) from error
        if not (isinstance(error, UsageError) and error.everywhere):
            line = f"{watch.peers.name(place.rank)} failed in {_activity.words}: {_first_line(error)}"
            watch.fail(Failure([place.rank], line[:MOST_LETTERS]))
        raise
    finally:
        _watch = None
        watch.stop()


@contextmanager
def reporting_failures() -> Iterator[None]:
    """Tell the other ranks of bad input that ends this one before it has met them."""
    try:
        yield
    except UsageError as error:
        report_before_meeting(f"{error}", SECONDS_TO_REPORT)
        raise


class Watch:
    """Beats, and the time limit.

    Attributes:
        peers: The ranks.
        is_first: Whether no other run was trained in this process.
    """

    def __init__(self, peers: Peers, limit_seconds: float, *, is_first: bool) -> None:
        self.peers = peers
        self.is_first = is_first
        self._stopped = threading.Event()
        self._asked = threading.Event()
        self._failure: Failure | None = None
        self._to_tell: Failure | None = None
        self._told = threading.Event()
        self._store_lost = False
        self._answered_at = time.monotonic()
        others = [rank for rank in range(peers.place.world_size) if rank != peers.place.rank]
        self._signs = Signs(others)
        self.set_limit(limit_seconds)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._exchange_beats, self._keep_limit)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def most_seconds(self) -> float:
        """After so long something else may end this process, if the watch has not."""
        return 2 * self._limit + 10

    def set_limit(self, seconds: float) -> None:
        """Set how long this rank waits for another one."""
        self._limit = seconds
        self._interval = min(MOST_SECONDS_BETWEEN_BEATS, seconds / BEATS_IN_LIMIT)
        self._signs.silence_seconds = max(LEAST_SILENCE_SECONDS, SILENT_BEATS * self._interval)

    def stop(self) -> None:
        """Stop watching; the other ranks still can."""
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()
        self._threads[0].join(2 * self._interval)

    def fail(self, failure: Failure) -> None:
        """Tell the other ranks why the run has failed; wait until it is said, but not for long."""
        self._to_tell = failure
        self._told.wait(self._signs.silence_seconds)

    def why(self, error: BaseException) -> str:
        """Return which rank has ended, after an error that only says that one cannot be reached."""
        if self._failure is None:
            self._asked.set()
            until = time.monotonic() + 2 * self._signs.silence_seconds
            while self._failure is None and time.monotonic() < until and not self._found():
                time.sleep(self._interval / 4)
            time.sleep(self._interval)  # others may be silent, too, or say why
        unknown = Failure([], f"no rank is silent, but a connection broke: {_first_line(error)}")
        failure = self._failure or self._found() or unknown
        self.fail(failure)
        return self._line(failure)

    # What follows is of the thread that exchanges beats.

    def _exchange_beats(self) -> None:
        number = 0
        try:
            beats = Beats(self.peers)
            while True:
                number += 1
                beats.send(Beat(number, _activity.count, _activity.words))
                self._failure = self._failure or beats.failure()
                self._answered_at = time.monotonic()
                if self._to_tell is not None:
                    beats.fail(self._to_tell)
                    self._told.set()
                if self._stalled_seconds() > self._limit / 2 or self._asked.is_set():
                    self._signs.note(beats.of_others(), time.monotonic())
                else:
                    self._signs.stop_listening()
                if self._stopped.wait(self._interval):
                    return
        except RuntimeError:  # the store is gone
            self._store_lost = True

    # What follows is of the thread that keeps the limit.

    def _keep_limit(self) -> None:
        failed_at: float | None = None
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            while not self._stopped.wait(self._interval):
                # For a library that hangs and keeps this thread from running: the other ranks print the line.
                faulthandler.dump_traceback_later(self.most_seconds, file=nowhere, exit=True)
                now = time.monotonic()
                if self._failure is not None:
                    failed_at = failed_at or now
                    if now - failed_at > SECONDS_TO_END:
                        self._end(self._failure)
                elif self._stalled_seconds() >= self._limit and not self._asked.is_set():
                    failure = self._found() or self._nobody_goes_on()
                    self.fail(failure)
                    self._end(self._failure or failure)

    def _stalled_seconds(self) -> float:
        """Return for how long this rank, and as far as is known each other one, has not begun an activity."""
        return time.monotonic() - max([_activity.since, *self._signs.moved_at.values()])

    def _end(self, failure: Failure) -> None:
        if self.peers.place.serves_store:
            time.sleep(self._signs.silence_seconds)  # for the others to hear why
        if not self._stopped.is_set():
            end_process(self._line(failure))

    def _found(self) -> Failure | None:
        """Return which rank the others wait for; None if there is no sign of it."""
        peers = self.peers
        now = time.monotonic()
        if self._store_lost:
            return Failure(
                [0], f"{peers.name(0)}: its node is gone, or cannot be reached (port {peers.place.port})"
            )
        if now - self._answered_at > self._signs.silence_seconds:
            line = f"{peers.name(0)}: its node does not answer (port {peers.place.port}); is the network down?"
            return Failure([0], line)
        if silent := self._signs.silent(now):
            return of_silent(silent, self._signs, peers.name)
        here = Beat(0, _activity.count, _activity.words)
        behind = {} if self._asked.is_set() else self._signs.behind(peers.place.rank, here)
        return of_behind(behind, peers.name, self._limit) if behind else None

    def _nobody_goes_on(self) -> Failure:
        waited = f"none goes on with {_activity.words} for {self._limit:g} s ({LIMIT_FLAG})"
        return Failure([], f"all ranks answer, but {waited}; can they reach each other?")

    def _line(self, failure: Failure) -> str:
        """Return what this rank prints."""
        rank = self.peers.place.rank
        waited = "" if rank in failure.ranks else f"; rank {rank} waited for it in {_activity.words}"
        return f"{failure.reason}{waited}"


def end_process(line: str) -> None:
    """Print an error's line and end this process at once, with exit code 1, wherever its other threads are."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(Exception):
        print(shortened(printable(f"error: {line}"), 2000), file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _ended_after(seconds: float, line: str) -> Iterator[None]:
    """End this process with a line if what is within takes longer than `seconds`."""
    timer = threading.Timer(seconds, end_process, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _outlive_the_launcher() -> None:
    """Ignore SIGTERM, which a launcher sends as soon as another rank has ended; this one ends by itself."""
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def begin_process_group() -> None:
    """Let the ranks of a watched run connect, over a store that no earlier start of theirs has used.

    Accelerate would take the launcher's store as it is. After a restart, that has addresses of ended processes.

    Raises:
        PeerError: They cannot connect.
    """
    watch = current_watch()
    if watch is None or torch.distributed.is_initialized() or torch.distributed.is_mpi_available():
        return
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    place = watch.peers.place
    try:
        torch.distributed.init_process_group(
            torch.distributed.get_default_backend_for_device(device or "cpu"),
            store=watch.peers.store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=watch.most_seconds),
        )
    except RuntimeError as error:
        raise PeerError(watch.why(error)) from error
