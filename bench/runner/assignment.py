"""What the processes of a case are told."""

from dataclasses import dataclass

from bench.harness.windows import Effort
from bench.suite.cases import Case


@dataclass(frozen=True)
class Assignment:
    """A case to measure.

    Attributes:
        case: The case.
        effort: How long to measure.
        owner: The process without which there is nothing to measure.
        launched_at_seconds: When the launcher was started, by `time.monotonic`.
        num_threads: CPU threads of each process; None to share the cores.
        place: The directory that a subject's file is relative to.
        traces: The directory that the trace of a profiled step is written to; "" to profile nothing.
        hosts: The name of each rank's host, if the processes are spread over several; otherwise empty.
    """

    case: Case
    effort: Effort
    owner: int
    launched_at_seconds: float
    num_threads: int | None
    place: str = "."
    traces: str = ""
    hosts: tuple[str, ...] = ()
