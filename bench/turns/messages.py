"""What the processes of a launch pair are told, and what they answer.

All are frozen dataclasses that travel as lines of JSON. Nothing here imports `gan`: the processes of BASE read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

A = TypeVar("A")


class SideCommand(Generic[A]):
    """What a process of a side is told to do; it answers with an A, or with a Failure."""


@dataclass(frozen=True)
class Start:
    """What a process is started with.

    Attributes:
        owner: Process id of the check, with which the process ends.
        answers: File descriptor that its answers go to.
        started_seconds: `time.monotonic` at its start.
        tree: The directory with what it measures: its `gan`, or a subject's file.
        has_gan: Whether the tree's `gan` is measured; otherwise only subjects are.
        working_tree: The directory that the tree is a revision of; empty if the tree is no copy.
        spinning: The file of `gan.process.spinning`; empty to leave the threads of the process alone.
    """

    owner: int
    answers: int
    started_seconds: float
    tree: str
    has_gan: bool = True
    working_tree: str = ""
    spinning: str = ""


@dataclass(frozen=True)
class CaseSpec:
    """What a side is told of a case.

    Attributes:
        workload: `step` or `epoch`.
        options: Fields of TrainOptions.
        environment: Variables that `accelerate launch` would set.
        subject: `core` for the tree's `gan`, or as `bench.subjects.load` takes it.
        setup: Fields of `bench.subjects.subject.Setup` for another subject, but for its rank and world size.
    """

    workload: str
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    subject: str = "core"
    setup: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A command failed, and why, in one line."""

    reason: str


@dataclass(frozen=True)
class Done:
    """A command that returns nothing is done."""


@dataclass(frozen=True)
class Greeting:
    """The recipes of a side's tree (none without `has_gan`), and the hardware and versions that it sees."""

    recipes: tuple[str, ...]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Hello(SideCommand[Greeting]):
    """Import `gan`, if the tree's is measured."""


@dataclass(frozen=True)
class Prepared:
    """A case is built and its first step taken.

    Attributes:
        startup_seconds: Of the imports and of all since the command, without waiting for the other side.
        configuration: What must be alike on both sides.
        images_per_step: Over all processes; 0 where an old revision does not say.
        num_parameters: By network; None where they are not shown.
        period: Steps after which the costs of steps repeat; 1 where an old revision does not say.
    """

    startup_seconds: float
    configuration: Mapping[str, Any]
    images_per_step: int = 0
    num_parameters: Mapping[str, int] | None = None
    period: int = 1


@dataclass(frozen=True)
class Prepare(SideCommand[Prepared]):
    """Build a case and take its first step."""

    case: CaseSpec


@dataclass(frozen=True)
class Window:
    """What a window took.

    Attributes:
        seconds: Its length.
        num_compilations: How often a compiler ran in it.
        waited_seconds: How long a thread waited for a core in it, on average.
    """

    seconds: float
    num_compilations: int
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class TakeWindow(SideCommand[Window]):
    """Take a window of so many steps."""

    num_steps: int


@dataclass(frozen=True)
class Memory:
    """The most bytes held since `Prepare`: allocated on a GPU, resident otherwise."""

    peak_bytes: int


@dataclass(frozen=True)
class ReadMemory(SideCommand[Memory]):
    """Say how much memory the case took."""


@dataclass(frozen=True)
class Losses:
    """The losses of the last step by name; None where they are not shown."""

    values: Mapping[str, float] | None


@dataclass(frozen=True)
class ReadLosses(SideCommand[Losses]):
    """Say what the last step's losses were, in this process."""


@dataclass(frozen=True)
class Calibration:
    """How many products of small matrices make a fraction of a step's work, and the seconds of each."""

    products: int
    product_seconds: float
    step_seconds: float


@dataclass(frozen=True)
class Calibrate(SideCommand[Calibration]):
    """Measure how many products make a fraction of a step's work, in so many quads."""

    fraction: float
    num_quads: int


@dataclass(frozen=True)
class Inject(SideCommand[Done]):
    """From now on do so many products of small matrices in each step."""

    products: int


@dataclass(frozen=True)
class Spin(SideCommand[Done]):
    """From now on let threads that wait for one another spin less, or as usual."""

    less: bool


@dataclass(frozen=True)
class Semantics:
    """The checks of tier T1, and of T2 if it was asked for, as `Check.to_json` writes them."""

    checks: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class JudgeSemantics(SideCommand[Semantics]):
    """Check whether a case's step is still the algorithm's; only a side that runs this `bench` is asked.

    Attributes:
        case: The case.
        precision: Of the case, to check also whether its first step is as exact as that allows (T2); "" if not.
    """

    case: CaseSpec
    precision: str = ""


@dataclass(frozen=True)
class Drop(SideCommand[Done]):
    """Let go of the case."""


SIDE_COMMANDS = (Hello, Prepare, TakeWindow, ReadMemory, ReadLosses, Calibrate, Inject, Spin, JudgeSemantics, Drop)
SIDE_ANSWERS = (Failure, Done, Greeting, Prepared, Window, Memory, Losses, Calibration, Semantics)
