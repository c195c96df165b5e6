"""The signals that ask a process to end."""

import signal


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
