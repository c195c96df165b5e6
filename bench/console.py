"""The console script `gan-bench`; what it starts is imported late, as in `gan.console`."""

from gan.process.signals import end_at_interrupts


def bench() -> int:
    """Do what `python -m bench` does, and return the exit code."""
    end_at_interrupts()
    from bench.__main__ import run

    return run()
