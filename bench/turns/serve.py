"""The loop of one process of a launch pair: read commands from standard input, answer each, end with the check."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from bench.harness.messages import decode, encode
from bench.harness.processes import end_with
from bench.turns.messages import SIDE_COMMANDS, Failure, SideCommand, Start

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
    with os.fdopen(start.answers, "wb") as answers:

        def answer(message: Any) -> None:
            answers.write(encode(message))
            answers.flush()

        try:
            obey = build(start)
            for line in iter(sys.stdin.readline, ""):
                answer(obey(decode(line, *SIDE_COMMANDS)))
        except Exception as error:
            traceback.print_exc()
            kind = "" if isinstance(error, RefusedError) else f"{type(error).__name__}: "
            answer(Failure(kind + " ".join(str(error).split())))
            return 1
    return 0
