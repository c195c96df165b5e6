"""What the process that measures and a node of it on another host tell each other, as lines of JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.harness.exchange import Grant, Refusal, Status


@dataclass(frozen=True)
class Hello:
    """A node is there.

    Attributes:
        hostname: What its host calls itself.
        code: Digest of the code that it would run.
    """

    hostname: str
    code: str


@dataclass(frozen=True)
class Begin:
    """What a node is to start.

    Attributes:
        words: The launcher and its options, for Python. The file with the assignment follows.
        assignment: For the ranks. The node writes itself in as their owner, and when it launches them.
        device: "cpu" hides GPUs.
        variables: Of the ranks' environment, besides those of the node's own.
        main_host: The host of rank 0, as it was named.
        ranks: Those that the launcher starts on this host.
    """

    words: Sequence[str]
    assignment: Mapping[str, Any]
    device: str
    variables: Mapping[str, str]
    main_host: str
    ranks: Sequence[int]


@dataclass(frozen=True)
class Turn:
    """All ranks may take a turn, or are to end."""

    number: int
    grant: Grant


@dataclass(frozen=True)
class Look:
    """Where do the ranks stand? Each prints it into its log."""


@dataclass(frozen=True)
class Stand:
    """The answer: what the system says of each rank that has begun, by rank."""

    states: Mapping[str, str]


@dataclass(frozen=True)
class Beat:
    """The other side lives, and can be reached."""


@dataclass(frozen=True)
class Printed:
    """What a rank has printed since, or the launcher if `rank` is None."""

    text: str
    rank: int | None = None


@dataclass(frozen=True)
class Reported:
    """The last status of a rank."""

    rank: int
    status: Status


@dataclass(frozen=True)
class Recorded:
    """What a rank measured, JSON-ready."""

    rank: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """Why a rank measures nothing."""

    rank: int
    refusal: Refusal


@dataclass(frozen=True)
class LauncherEnded:
    """The launcher of a node has ended."""

    exit_code: int


TO_NODE = (Begin, Turn, Look, Beat)
FROM_NODE = (Hello, Stand, Beat, Printed, Reported, Recorded, Refused, LauncherEnded)
SILENCE_SECONDS = 60.0
"""A side of which nothing was heard for so long is gone: the network between them is down."""
BEAT_SECONDS = 1.0
