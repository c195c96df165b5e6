"""Writing in the background: what takes long goes on in a thread, one piece of work at a time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

_in_flight: set[Future[float]] = set()
"""Pieces of work that have not ended, of all writers of this process."""


def is_writing() -> bool:
    """Say whether something is being written, so that an abrupt end of this process would cut it short."""
    return bool(_in_flight)


class BackgroundWriter:
    """Writes in a thread while its owner does something else, and measures what that costs.

    Attributes:
        num_writes: Pieces of work that ended well.
        writing_seconds: What they took in the thread, in all.
        held_up_seconds: Time for which they kept the owner from going on, in all.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: Future[float] | None = None
        self._failure: BaseException | None = None
        self.num_writes = 0
        self.writing_seconds = 0.0
        self.held_up_seconds = 0.0

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written: what ends the owner does not cut a file short."""
        self.wait()
        self._thread.shutdown()

    @contextmanager
    def holding_up(self) -> Iterator[None]:
        """Count the time of what is done within as time for which the owner was held up."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.held_up_seconds += time.perf_counter() - began

    @contextmanager
    def keeping_failure(self) -> Iterator[None]:
        """Keep an OSError of what the owner writes itself for `failure_so_far`, instead of raising it."""
        try:
            yield
        except OSError as error:
            self._failure = error

    def begin(self, write: Callable[[], object]) -> None:
        """Begin a piece of work when the one before has ended, which is waited for."""
        self.wait()
        self._pending = self._thread.submit(_timed, write)
        _in_flight.add(self._pending)
        self._pending.add_done_callback(_in_flight.discard)

    def wait(self) -> None:
        """Wait until nothing is being written. It raises nothing: ask for `failure_so_far`."""
        if self._pending is None:
            return
        ended = self._pending
        self._pending = None
        if error := ended.exception():
            self._failure = error
        else:
            self.writing_seconds += ended.result()
            self.num_writes += 1

    def failure_so_far(self) -> BaseException | None:
        """Count the piece of work that has ended, if one has; return what went wrong so far, or None."""
        if self._pending is not None and self._pending.done():
            self.wait()
        return self._failure


def _timed(write: Callable[[], object]) -> float:
    began = time.perf_counter()
    write()
    return time.perf_counter() - began
