"""The signals that ask a process to end."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_num_scripts = 0


def ending_signals() -> list[signal.Signals]:
    """Return the signals that ask this process to end, besides Ctrl-C.

    SIGHUP, from a closed terminal, is not among them if it is ignored, as under nohup.
    """
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def end_at_interrupts() -> None:
    """Let Ctrl-C end this process without a traceback until `exit_code_of`, unless it is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let signals call a handler instead of what they did before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def script_around() -> Iterator[None]:
    """Note that this process ends soon after what is within, which may have changed what SIGTERM does."""
    global _num_scripts
    before = signal.getsignal(signal.SIGTERM)
    _num_scripts += 1
    try:
        yield
    finally:
        _num_scripts -= 1
        _handle_sigterm_by(before)


@contextmanager
def outliving_the_launcher() -> Iterator[None]:
    """Ignore SIGTERM, which a launcher sends as soon as another rank has ended; this one ends by itself.

    With a script around, SIGTERM stays ignored until the script has printed why.
    """
    before = signal.getsignal(signal.SIGTERM)
    _handle_sigterm_by(signal.SIG_IGN)
    try:
        yield
    finally:
        if not _num_scripts:
            _handle_sigterm_by(before)


def _handle_sigterm_by(handler: Any) -> None:
    with suppress(ValueError, TypeError):  # not the main thread, or a handler that is not of Python
        signal.signal(signal.SIGTERM, handler)
