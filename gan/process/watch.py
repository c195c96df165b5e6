"""The watch over a run of several ranks: none waits for a silent one, or for one behind it, beyond the time limit.

Two threads beside the training: one tells the other ranks what this one does, and hears of their failures. It may
hang in a dead network. The other one never does: it ends this process with one line, also while the training is
inside of a library, where no exception reaches it.

While all ranks are there and do the same, none waits for another, and the run goes on, however long that takes.
"""

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from gan.errors import DivergedError, Interrupted, NotSavedError, PeerError, UnhealthyError, UsageError
from gan.files.background import is_writing
from gan.files.text import first_line
from gan.process.ending import end_process, ended_after
from gan.process.peers import (
    LIMIT_FLAG,
    MOST_LETTERS,
    Beat,
    Beats,
    Failure,
    LaunchedPlace,
    Peers,
    is_of_a_connection,
    is_of_a_peer,
    report_before_meeting,
)
from gan.process.place import launcher_here
from gan.process.signals import outliving_the_launcher
from gan.process.signs import Signs, of_behind, of_silent

MOST_SECONDS_BETWEEN_BEATS = 1.0
BEATS_IN_LIMIT = 20
SILENT_BEATS = 5
LEAST_SILENCE_SECONDS = 1.5
"""A rank is silent when none of its beats was heard for `SILENT_BEATS` of them, and for no less than this time."""
LOST_SHARE = 0.4
"""Of the limit. A rank that is silent for so long when the limit is over is lost; a link may come back before."""
SUSPENDED_BEATS = 5
"""A process that did nothing for so many beats was suspended. It has waited for nobody meanwhile."""
SECONDS_TO_END = 2.0
"""When a rank has failed, this one has so long to end by itself: often it fails, too."""
SECONDS_TO_BE_HEARD = 5.0
"""So much longer than the limit rank 0 may take to tell the others that one of them is late."""
LEAST_SECONDS_IN_A_CALL = 1800.0
"""For a call of gloo, NCCL or any other library. A compiler may keep all ranks in one for long."""
STANDARD_ERROR = 2


class _Activity:
    """What the training of this process does now. Ranks begin the same activities in the same order.

    Attributes:
        count: Activities begun so far, this one included.
        what: The activity.
        number: Of a step or an epoch.
        is_meeting: Whether nobody computes in it, so that all ranks wait for one another.
        since: When it began, in seconds of `time.monotonic`.
    """

    count = 0
    what = "starting"
    number: int | None = None
    is_meeting = False
    since = 0.0

    @property
    def words(self) -> str:
        """The activity in words, as in "step 12"."""
        return self.what if self.number is None else f"{self.what} {self.number}"


_activity = _Activity()
_watch: "Watch | None" = None


def doing(what: str, number: int | None = None, *, is_meeting: bool = False) -> None:
    """Note what this rank begins to do, as in ("step", 12); it takes about a microsecond.

    All ranks have to call it at the same points of the program. What begins by waiting for the other ranks is an
    activity by itself: a rank that keeps them waiting is then one behind, and is named.
    """
    _activity.since = time.monotonic()  # first: with an old time it would look like one that takes long
    _activity.what = what
    _activity.number = number
    _activity.is_meeting = is_meeting
    _activity.count += 1


def current_watch() -> "Watch | None":
    """Return the watch of this process; None in a run of one process."""
    return _watch


@contextmanager
def watching(limit_seconds: float) -> "Iterator[Watch | None]":
    """Meet the other ranks and watch over them; yield None where a launcher has started no others.

    Args:
        limit_seconds: How long a rank may wait for another one that is silent or behind.

    Raises:
        PeerError: Another rank has ended or failed, or was silent or behind for `limit_seconds`. Where no
            exception reaches the training, the process ends with the error's line and exit code 1.
    """
    global _watch
    place = LaunchedPlace.here()
    if place is None:
        yield None
        return
    doing("starting")
    with ended_after(
        limit_seconds + SECONDS_TO_BE_HEARD, f"rank 0 ({place.address}) does not answer while this rank began"
    ):
        watch = Watch(Peers(place, limit_seconds), limit_seconds)
    _watch = watch
    try:
        yield watch
    except (DivergedError, UnhealthyError, NotSavedError, Interrupted, PeerError):  # all ranks know of it
        raise
    except BaseException as error:
        with outliving_the_launcher():
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
        report_before_meeting(f"{error}")
        raise


class Watch:
    """Beats, and the time limit. A process that is alone has neither.

    It takes the one timer that the module `faulthandler` has in a process.

    Attributes:
        peers: The ranks.
        silence_seconds: A rank that was not heard of for so long is silent.
    """

    def __init__(self, peers: Peers, limit_seconds: float) -> None:
        self.peers = peers
        self._stopped = threading.Event()
        self._asked = threading.Event()
        self._failure: Failure | None = None
        self._to_tell: Failure | None = None
        self._told = threading.Event()
        self._store_lost = False
        self._answered_at = time.monotonic()
        self._awake_since = self._answered_at
        others = [rank for rank in range(peers.place.world_size) if rank != peers.place.rank]
        self._signs = Signs(others)
        self.set_limit(limit_seconds)
        works = (self._exchange_beats, self._keep_limit) if others else ()
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    @property
    def most_seconds(self) -> float:
        """After so long in one call, a library may end this process, if the watch has not."""
        return max(LEAST_SECONDS_IN_A_CALL, 2 * self._limit + 10)

    def set_limit(self, seconds: float) -> None:
        """Set how many seconds this rank waits for one that is silent or behind, from now on."""
        self._limit = seconds
        self._interval = min(MOST_SECONDS_BETWEEN_BEATS, seconds / BEATS_IN_LIMIT)
        self.silence_seconds = max(LEAST_SILENCE_SECONDS, SILENT_BEATS * self._interval)

    def stop(self) -> None:
        """Stop watching; the other ranks still can. Call it where no collective follows."""
        if self._stopped.is_set() or not self._threads:
            return
        self._stopped.set()
        beating, keeping = self._threads
        keeping.join()  # it arms the timer
        faulthandler.cancel_dump_traceback_later()
        beating.join(2 * self._interval)  # it may hang in a dead network

    def fail(self, failure: Failure) -> None:
        """Tell the other ranks why the run has failed; wait until it is said, but not for long."""
        if self._threads and not self._stopped.is_set():
            self._to_tell = failure
            self._told.wait(self.silence_seconds)

    def why(self, error: BaseException) -> str:
        """Return which rank has ended, after an error that only says that one cannot be reached."""
        if self._failure is None:
            self._asked.set()
            until = time.monotonic() + 2 * self.silence_seconds
            while self._failure is None and time.monotonic() < until and not self._found(time.monotonic()):
                time.sleep(self._interval / 4)
            time.sleep(self._interval)  # others may be silent, too, or say why
        broken = f"no rank is silent, but a connection broke in {_activity.words}: {_first_line(error)}"
        failure = self._failure or self._found(time.monotonic()) or Failure([], broken[:MOST_LETTERS])
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
                if self._stalled_seconds(self._answered_at) > self._limit / 2 or self._asked.is_set():
                    self._signs.note(beats.of_others(), time.monotonic())
                else:
                    self._signs.stop_listening()
                if self._stopped.wait(self._interval):
                    return
        except RuntimeError:  # the store is gone
            self._store_lost = True

    # What follows is of the thread that keeps the limit.

    def _keep_limit(self) -> None:
        ends_at: float | None = None
        gives_up_at: float | None = None
        looked_at = time.monotonic()
        while not self._stopped.wait(self._interval):
            # For a library that hangs and keeps all of Python from running: the other ranks print the line.
            faulthandler.dump_traceback_later(self.most_seconds, file=STANDARD_ERROR, exit=True)
            now = time.monotonic()
            if now - looked_at > SUSPENDED_BEATS * self._interval:
                self._awake_since = now
            if self._failure is not None:
                gives_up_at = gives_up_at or now + self._limit
                if ends_at is None or (is_writing() and now < gives_up_at):  # the end would cut a checkpoint short
                    ends_at = now + SECONDS_TO_END
                if now >= ends_at:
                    self._end(self._failure)
            elif failure := self._without_launcher() or self._overdue(now):
                self.fail(failure)
                self._failure = self._failure or failure
                ends_at = now
            looked_at = now

    def _stalled_seconds(self, now: float) -> float:
        """Return for how long this rank, and as far as is known each other one, has not begun an activity."""
        return now - max([_activity.since, self._awake_since, *self._signs.moved_at.values()])

    def _end(self, failure: Failure) -> None:
        if self.peers.place.serves_store:
            self._stopped.wait(self.silence_seconds)  # for the others to hear why
        if not self._stopped.is_set():
            end_process(self._line(failure))

    def _without_launcher(self) -> Failure | None:
        """Return that this rank's launcher is gone, as after kill -9: nobody else would end the rank."""
        gone = Failure([self.peers.place.rank], f"{self.peers.name(self.peers.place.rank)}: launcher is gone")
        return gone if launcher_here() != self.peers.place.launcher else None

    def _overdue(self, now: float) -> Failure | None:
        """Return whom this rank has waited for beyond the limit; None if for nobody."""
        if self._asked.is_set() or self._stalled_seconds(now) < self._limit:
            return None
        failure = self._found(now) or (self._nobody_goes_on() if _activity.is_meeting else None)
        return failure if self._stalled_seconds(now) >= self._limit else None  # a rank may have gone on meanwhile

    def _found(self, now: float) -> Failure | None:
        """Return which rank the others wait for; None if there is no sign of it."""
        peers = self.peers
        is_asked = self._asked.is_set()
        seconds = self.silence_seconds if is_asked else max(self.silence_seconds, LOST_SHARE * self._limit)
        unanswered_seconds = now - max(self._answered_at, self._awake_since)
        if self._store_lost:
            return Failure(
                [0], f"{peers.name(0)}: its node is gone, or cannot be reached (port {peers.place.port})"
            )
        if unanswered_seconds > seconds:
            line = f"{peers.name(0)}: its node does not answer (port {peers.place.port}); is the network down?"
            return Failure([0], line)
        if silent := self._signs.silent(now, seconds):
            return of_silent(silent, self._signs, peers.name)
        if is_asked or unanswered_seconds > self.silence_seconds:  # what is known of the others may be old
            return None
        behind = self._signs.behind(_activity.count)
        return of_behind(behind, peers.name, self._limit) if behind else None

    def _nobody_goes_on(self) -> Failure:
        waited = f"none goes on with {_activity.words} for {self._limit:g} s ({LIMIT_FLAG})"
        return Failure([], f"all ranks answer, but {waited}; can they reach each other?")

    def _line(self, failure: Failure) -> str:
        """Return what this rank prints."""
        rank = self.peers.place.rank
        waited_for_it = failure.ranks and rank not in failure.ranks
        waited = f"; rank {rank} waited for it in {_activity.words}" if waited_for_it else ""
        return f"{failure.reason}{waited}"


def _first_line(error: BaseException) -> str:
    return first_line(error) or type(error).__name__


def begin_process_group() -> None:
    """Let the ranks of a watched run connect, over a store that no earlier start of theirs has used.

    Accelerate would take the launcher's store as it is. After a restart, that has addresses of ended processes.

    Raises:
        PeerError: They cannot connect.
        RuntimeError: Something of this process alone is wrong, such as the name of its network interface.
    """
    watch = current_watch()
    if watch is None or torch.distributed.is_initialized() or torch.distributed.is_mpi_available():
        return
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    place = watch.peers.place
    doing("connecting", is_meeting=True)
    try:
        torch.distributed.init_process_group(
            torch.distributed.get_default_backend_for_device(device or "cpu"),
            store=watch.peers.store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=watch.most_seconds),
        )
    except RuntimeError as error:
        if not is_of_a_connection(error):
            raise
        raise PeerError(watch.why(error)) from error
