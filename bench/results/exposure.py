"""Where the time of a step in several processes goes: computing, exposed communication, waiting for others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.results.case_result import CaseResult
from bench.results.messages import COMPUTE, EXPLAINED, Message, exposed_part, parts_of, waiting_part
from bench.results.phases import middle_windows


@dataclass(frozen=True)
class StepParts:
    """Parts of a step, in seconds; they add up to it.

    Attributes:
        compute_seconds: In which it computes.
        exposed_seconds: In which it waits for messages whose bytes are there on all processes.
        waiting_seconds: In which it waits for the slowest process to have its bytes.
    """

    compute_seconds: float
    exposed_seconds: float
    waiting_seconds: float


@dataclass(frozen=True)
class MessageTime:
    """What a message takes of a step, on average over the processes.

    Attributes:
        message: What is known of it besides.
        exposed_seconds: In which the step waits for it, though its bytes are there on all processes.
        waiting_seconds: In which the step waits for the slowest process to have its bytes.
    """

    message: Message
    exposed_seconds: float
    waiting_seconds: float


@dataclass(frozen=True)
class Exposure:
    """Where the time of a step in several processes goes. All of it is scaled to the median of untouched steps.

    Attributes:
        ranks: The step of each process.
        messages: What is exchanged, in the order in which it is sent; its parts are those of `mean`.
    """

    ranks: Sequence[StepParts]
    messages: Sequence[MessageTime]

    @property
    def mean(self) -> StepParts:
        """The step on average over the processes."""
        rows = [(one.compute_seconds, one.exposed_seconds, one.waiting_seconds) for one in self.ranks]
        return StepParts(*np.mean(rows, axis=0).tolist())


def exposure(result: CaseResult) -> Exposure | None:
    """Return where the time of a step goes; None in one process, in an older file, and of another subject."""
    messages = result.facts.messages
    if EXPLAINED not in result.seconds_per_step:
        return None
    names = [message.name for message in messages]
    middle = middle_windows(result, EXPLAINED)
    of_ranks = []
    for number in range(result.case.num_processes):
        sums = {
            name: float(np.concatenate(result.seconds_of_rank(name, number))[middle].sum())
            for name in parts_of(names)
        }
        scale = result.median() / sum(sums.values())
        of_ranks.append({name: seconds * scale for name, seconds in sums.items()})
    ranks = [
        StepParts(
            compute_seconds=parts[COMPUTE],
            exposed_seconds=sum(parts[exposed_part(name)] for name in names),
            waiting_seconds=sum(parts[waiting_part(name)] for name in names),
        )
        for parts in of_ranks
    ]
    return Exposure(
        ranks,
        [
            MessageTime(
                message,
                exposed_seconds=float(np.mean([parts[exposed_part(message.name)] for parts in of_ranks])),
                waiting_seconds=float(np.mean([parts[waiting_part(message.name)] for parts in of_ranks])),
            )
            for message in messages
        ],
    )
