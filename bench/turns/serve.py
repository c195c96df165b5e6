"""The loop of one process of a launch pair: read commands from standard input, answer each, end with the check."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from bench.harness.messages import decode, encode
from bench.harness.processes import end_with
from bench.turns.messages import SIDE_COMMANDS, Failure, SideCommand, Start

MOST_LETTERS = 1000
"""Of an error: some repeat a whole tensor."""
Obey = Callable[[SideCommand[Any]], Any]
"""Does what a command says, and returns the answer."""


class RefusedError(Exception):
    """A tree cannot be measured, and why, in one line."""


def serve(build: Callable[[Start], Obey]) -> int:
    """Answer commands until standard input ends or one fails; return an exit code.

    Args:
        build: Imports what is to be measured, and returns what obeys the commands.
    """
    start = decode(sys.argv[1], Start)
    end_with(start.owner)
    os.set_inheritable(start.answers, False)  # or a process that a subject leaves would keep the pipe open
    with os.fdopen(start.answers, "wb") as answers, _taking_standard_input() as commands:

        def answer(message: Any) -> None:
            answers.write(encode(message))
            answers.flush()

        try:
            obey = build(start)
            for line in iter(commands.readline, b""):
                answer(obey(decode(line, *SIDE_COMMANDS)))
        except SystemExit as error:
            answer(Failure(f"it called sys.exit({'' if error.code is None else error.code!r})"))
            return 1
        except Exception as error:
            traceback.print_exc()
            kind = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
            answer(Failure(kind + " ".join(str(error).split())[:MOST_LETTERS]))
            return 1
    return 0


def _taking_standard_input() -> BinaryIO:
    """Return the standard input that there was, and leave an empty one to whatever else reads it."""
    commands = os.fdopen(os.dup(0), "rb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return commands
