"""What is said while a check measures, and how a signal ends it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gan.errors import Interrupted
from gan.files.text import printable
from gan.process.signals import ending_signals, handled

Say = Callable[[str], None]


@contextmanager
def ending_with_signals() -> Iterator[None]:
    """Let SIGTERM and a terminal that is closed end the check as Ctrl-C does: with no process and no tree left."""

    def end(number: int, _: Any) -> None:
        raise Interrupted("terminated; nothing was written", 128 + number)

    with handled(ending_signals(), end):
        yield


@contextmanager
def progress_line() -> Iterator[Say]:
    """Yield what says what is going on: a line that changes on a terminal, lines on standard error elsewhere."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda line: print(printable(line), file=sys.stderr, flush=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda line: progress.update(task, description=escape(printable(line)))


def below(heading: str, say: Say) -> Say:
    """Return what says the parts of something: on a terminal after its heading, which is said alone elsewhere."""
    if sys.stderr.isatty():
        return lambda what: say(f"{heading} · {what}")
    say(heading)
    return lambda _: None
