"""Which signals ask this process to end."""

import signal


def ending_signals() -> list[signal.Signals]:
    """Return what asks this process to end besides Ctrl-C; a closed terminal does not under nohup."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
