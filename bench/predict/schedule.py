"""When a step computes and when it sends, and what that takes together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from gan.models.batch_statistics import BATCHNORM
from gan.models.minibatch_deviation import DEVIATION


class Kind(StrEnum):
    """What a step does with other processes."""

    BUCKET = "bucket"
    """Begins the sum of a bucket of gradients, and goes on."""
    WAIT = "wait"
    """Waits for all sums that were begun: at the end of a backward pass."""
    SUM = "sum"
    """Forms a sum and waits for it, as that of BatchNorm over all processes."""
    GATHER = "gather"
    """Gathers a table and waits for it: BatchNorm over all processes, on GPUs."""
    END = "end"
    """The step is over. A schedule of several steps has one after each."""


@dataclass(frozen=True)
class Event:
    """One of the points of a step at which other processes count.

    Attributes:
        kind: What happens.
        compute_seconds: Of the computation between the event before and this one.
        num_bytes: That are summed, or that each process has after a gather.
        network: Whose backward pass it is; empty outside of one.
        name: What is added up or gathered, as "BatchNorm"; empty for gradients.
    """

    kind: Kind
    compute_seconds: float
    num_bytes: int = 0
    network: str = ""
    name: str = ""

    @property
    def sends(self) -> bool:
        """Whether bytes are sent."""
        return self.kind in (Kind.BUCKET, Kind.SUM, Kind.GATHER)


Schedule = tuple[Event, ...]
Cost = Callable[[Event], float]
"""The seconds that the bytes of an event take."""


@dataclass(frozen=True)
class Transfer:
    """What became of the bytes of one event.

    Attributes:
        event: The event.
        ready_seconds: When they were there to be sent, since the step began.
        began_seconds: When the link was free for them.
        ended_seconds: When they had arrived.
        step: The number of the step, from 0, in a schedule of several.
    """

    event: Event
    ready_seconds: float
    began_seconds: float
    ended_seconds: float
    step: int = 0


@dataclass(frozen=True)
class StepTime:
    """What a step takes, the mean over those of its schedule.

    Attributes:
        compute_seconds: Without any communication.
        exposed_seconds: In which it waits for communication.
        transfers: One for each event of the schedule that sends, in order.
        num_steps: Of the schedule.
    """

    compute_seconds: float
    exposed_seconds: float
    transfers: tuple[Transfer, ...]
    num_steps: int = 1

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute_seconds + self.exposed_seconds

    @property
    def communication_seconds(self) -> float:
        """In which bytes are sent, hidden behind the computation or not."""
        sending = sum(transfer.ended_seconds - transfer.began_seconds for transfer in self.transfers)
        return sending / self.num_steps

    @property
    def sent_bytes(self) -> float:
        """The bytes that are summed or gathered, on one process."""
        return sum(transfer.event.num_bytes for transfer in self.transfers) / self.num_steps

    @property
    def least_seconds(self) -> float:
        """The step if all communication ran beside the computation."""
        return max(self.compute_seconds, self.communication_seconds)

    @property
    def most_seconds(self) -> float:
        """The step if no communication ran beside the computation."""
        return self.compute_seconds + self.communication_seconds


def num_steps_of(schedule: Sequence[Event]) -> int:
    """Return the number of steps of a schedule; one that does not say where it ends is of one step."""
    return max(1, sum(event.kind is Kind.END for event in schedule))


def compute_seconds(schedule: Sequence[Event]) -> float:
    """Return what a step computes, in seconds: the mean over those of the schedule."""
    return sum(event.compute_seconds for event in schedule) / num_steps_of(schedule)


def step_time(schedule: Schedule, cost: Cost) -> StepTime:
    """Return what a step takes whose bytes go over one link, in the order in which they are ready.

    A step ends when all its sums are there, so steps do not overlap.
    """
    now = 0.0
    step = 0
    link_free = 0.0
    exposed = 0.0
    transfers = []
    for event in schedule:
        now += event.compute_seconds
        if event.sends:
            began = max(now, link_free)
            link_free = began + cost(event)
            transfers.append(Transfer(event, now, began, link_free, step))
        if event.kind in (Kind.WAIT, Kind.SUM, Kind.GATHER) and link_free > now:
            exposed += link_free - now
            now = link_free
        step += event.kind is Kind.END
    num_steps = num_steps_of(schedule)
    return StepTime(compute_seconds(schedule), exposed / num_steps, tuple(transfers), num_steps)


def scaled(schedule: Schedule, seconds: float) -> Schedule:
    """Return a schedule whose step computes for so long; each part keeps its share."""
    factor = seconds / compute_seconds(schedule)
    return tuple(replace(event, compute_seconds=event.compute_seconds * factor) for event in schedule)


def with_bytes_of(schedule: Schedule, other: Schedule) -> Schedule:
    """Return a schedule that sends the bytes of another one; the other one itself if its events are others.

    They are others where a group of the minibatch deviation has images of several processes in one of the two.
    """
    kinds, others = ([(event.kind, event.network, event.name) for event in one] for one in (schedule, other))
    if kinds != others:
        return other
    return tuple(replace(event, num_bytes=same.num_bytes) for event, same in zip(schedule, other, strict=True))


def as_on_gpus(schedule: Schedule, num_processes: int) -> Schedule:
    """Return the schedule of a CPU with the messages that a GPU sends in place of the CPU's.

    On GPUs groups of the minibatch deviation end with a process's images, so that nothing is exchanged. For
    BatchNorm on CPUs each process fills its row of a table of mean, variance and count, 3 C numbers a process, and
    the table is summed, forwards and backwards (`gan.models.batch_statistics`). `torch.nn.SyncBatchNorm` gathers
    2 C + 1 numbers of each process forwards, and sums 2 C numbers backwards. Other sums stay as they are.
    """
    number = 4
    converted = []
    carried_seconds = 0.0
    for event in schedule:
        if event.name == DEVIATION:
            carried_seconds += event.compute_seconds
            continue
        if event.name == BATCHNORM:
            channels = event.num_bytes // (3 * number * num_processes)
            if event.network:
                event = replace(event, num_bytes=2 * channels * number)
            else:
                gathered = num_processes * (2 * channels + 1) * number
                event = replace(event, kind=Kind.GATHER, num_bytes=gathered)
        converted.append(replace(event, compute_seconds=carried_seconds + event.compute_seconds))
        carried_seconds = 0.0
    return tuple(converted)
