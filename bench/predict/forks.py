"""Rehearsals of several numbers of processes, in turns: `python -m bench.predict.forks ORDER`."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.harness.messages import decode, encode
from bench.harness.processes import end_with, ending
from bench.predict.rehearsal import NoStepsError, Order, Rehearsal, rehearse
from gan.errors import UsageError

ANSWER_NAME = "answer.json"
"""Of the file beside the order."""
MOST_REASON = 300
"""Characters of an error that are shown."""
ENDED_EARLY = "ended before the first timed step"
"""Of a size whose turns ended because another size failed."""
LEAST_TURNS = 8
TURN = b"."
"""Says that a turn begins, and that it is over."""


@dataclass(frozen=True)
class Answer:
    """What came of an order: a rehearsal for each size, or why there is none, in one line.

    Attributes:
        rehearsals: In the order of the sizes.
        refusal: What is wrong with the order.
        failure: What went wrong with a step.
    """

    rehearsals: tuple[Rehearsal, ...] = ()
    refusal: str = ""
    failure: str = ""


class _Fork:
    """A fork of this process, which has done the imports, as rank 0 of a number of processes."""

    def __init__(self, order: Order, num_processes: int) -> None:
        self._num_processes = num_processes
        reading, answering = os.pipe()
        hearing, telling = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            os.close(telling)
            try:
                with os.fdopen(answering, "wb") as answers:
                    answers.write(encode(_answer(order, num_processes, _turns(hearing, answering))))
            finally:
                os._exit(0)
        os.close(answering)
        os.close(hearing)
        self._answers = os.fdopen(reading, "rb", buffering=0)
        self._telling = telling

    def turn(self) -> bool:
        """Let it take a turn; return False if it ended before the turn did."""
        with suppress(BrokenPipeError):
            os.write(self._telling, TURN)
        self._last = self._answers.read(1)
        return self._last == TURN

    def answer(self) -> Answer:
        """Let it take no more turns, and return its answer."""
        os.close(self._telling)
        with os.fdopen(os.dup(self._answers.fileno()), "rb") as file:
            line = self._last.strip(TURN) + file.read()
        self._answers.close()
        _, status = os.waitpid(self._pid, 0)
        if line:
            return decode(line, Answer)
        died = ending(os.waitstatus_to_exitcode(status))
        return Answer(failure=f"rank 0 of {self._num_processes:,} processes: {died}")


def _turns(hearing: int, answering: int) -> Iterator[None]:
    """Yield when a turn begins; going on ends it."""
    while os.read(hearing, 1) == TURN:
        yield
        os.write(answering, TURN)


def _rehearsed_in_forks(order: Order) -> Answer:
    """Rehearse all sizes at the same time, in turns: a neighbour then slows all of them alike."""
    forks = []
    for size in order.sizes:
        forks.append(_Fork(order, size))
        if not forks[-1].turn():
            break
    else:
        began = time.monotonic()
        num_turns = 0
        while num_turns < LEAST_TURNS or time.monotonic() - began < order.measure_seconds * len(forks):
            if not all(fork.turn() for fork in forks):
                break
            num_turns += 1
    answers = [fork.answer() for fork in reversed(forks)]
    bad = [answer for answer in answers if answer.refusal or answer.failure]
    bad.sort(key=lambda answer: answer.failure == ENDED_EARLY)
    return bad[0] if bad else Answer(tuple(one for answer in reversed(answers) for one in answer.rehearsals))


def _answer(order: Order, num_processes: int, turns: Iterator[object]) -> Answer:
    end_with(order.owner)
    try:
        return Answer((rehearse(order, num_processes, turns),))
    except UsageError as error:
        return Answer(refusal=str(error))
    except NoStepsError:
        return Answer(failure=ENDED_EARLY)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:MOST_REASON]
        return Answer(failure=f"rank 0 of {num_processes:,} processes: {type(error).__name__}: {reason}")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    order = decode(path.read_bytes(), Order)
    end_with(order.owner)
    path.with_name(ANSWER_NAME).write_bytes(encode(_rehearsed_in_forks(order)))
