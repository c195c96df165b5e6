"""Messages of a step in several processes, and the parts of the step that are due to them."""

from collections.abc import Sequence
from dataclasses import dataclass

EXPLAINED = "explained"
"""The arm whose messages are timed; what follows are parts of its windows."""
COMPUTE = "compute"


@dataclass(frozen=True)
class Message:
    """What processes exchange in a step: a bucket of gradients, or another sum, such as that of BatchNorm.

    Attributes:
        name: The network and the number of the bucket; or what is added up.
        count: How often in a step, at the most. What follows is of all of them together, and the mean over steps
            if a lazy penalty sends more in some.
        num_bytes: Bytes of gradients, before a hook makes them fewer; or of what is summed.
        ready_seconds: When the slowest process had the first of it, since its step began; a median.
        seconds: From when all had it, and the message before was there, until it was summed; a median.
    """

    name: str
    count: int
    num_bytes: int
    ready_seconds: float
    seconds: float


def exposed_part(message: str) -> str:
    """Return the name of the part of a step in which nothing ran beside a message."""
    return f"{message} exposed"


def waiting_part(message: str) -> str:
    """Return the name of the part of a step in which another process was not ready for a message."""
    return f"{message} waiting"


def parts_of(messages: Sequence[str]) -> list[str]:
    """Return the names of all parts of a step that has these messages.

    >>> parts_of(["generator 1"])
    ['compute', 'generator 1 exposed', 'generator 1 waiting']
    """
    return [COMPUTE, *(part(name) for name in messages for part in (exposed_part, waiting_part))]
