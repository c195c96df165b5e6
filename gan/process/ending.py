"""The end of this process where no exception reaches what it does: in a library that waits or hangs."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gan.files.text import printable, shortened

MOST_CHARACTERS = 2000
"""Of an error: it may quote a value of any length."""


def print_on_error(line: str) -> None:
    """Print a line on standard error, so that a terminal shows all of its characters, and not too many."""
    print(shortened(printable(line), MOST_CHARACTERS), file=sys.stderr, flush=True)


def end_process(line: str) -> None:
    """Print an error's line and end this process at once, with exit code 1, wherever its other threads are."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(Exception):
        print_on_error(f"error: {line}")
    os._exit(1)


@contextmanager
def ended_after(seconds: float, line: str) -> Iterator[None]:
    """End this process with a line if what is within takes longer than `seconds`."""
    timer = threading.Timer(seconds, end_process, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
