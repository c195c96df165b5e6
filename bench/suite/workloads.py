"""WORKLOADS: one row for each kind of measurement, with all that is known of it before anything is measured.

The rows stand below results and reports, which read them; what measures a workload is bound to its name in
`bench.workloads.table`, above them, because it needs the training core, the tiers and the plain loop.
"""

from dataclasses import dataclass
from typing import Literal

NUM_DIGITS = 1797
"""Images of the dataset `digits`, which comes with a dependency."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A kind of measurement.

    Attributes:
        name: As in `Case.workload`; its test is `test_` and the name.
        meaning: In one line.
        kind: `windows`: arms, whose windows take turns. `start`: arms, of which only the start is timed. `facts`:
            a function that returns facts.
        own_arm: Name of the first arm, which is the case's own.
        other_arms: Arms without which other figures of it would mean something else.
        timed: Whether its seconds are a result. Where they are not, threads give up spinning early.
        alone: Whether it disturbs others, or would be disturbed by processes that wait beside it.
        several_processes: Whether it can be measured in several processes.
        on_digits: Whether it trains on the bundled digits until something is known, however long that takes.
        repeats_disturbed: Whether rounds are measured again where the machine was disturbed. Writing to a disk
            disturbs what comes after it, so that waiting for rest would be in vain.
        launches: Fresh processes for each case, instead of the suite's.
        times_rounds: How many times the suite's rounds it takes.
        most_convolution_batch: Images a step that a convolutional row takes at most where none are asked for.
    """

    name: str
    meaning: str
    kind: Literal["windows", "start", "facts"] = "windows"
    own_arm: str = "step"
    other_arms: tuple[str, ...] = ()
    timed: bool = True
    alone: bool = False
    several_processes: bool = True
    on_digits: bool = False
    repeats_disturbed: bool = True
    launches: int | None = None
    times_rounds: int = 1
    most_convolution_batch: int | None = None

    @property
    def in_windows(self) -> bool:
        """Whether there are windows; otherwise a launch gives one number, or none."""
        return self.kind == "windows"


_ROWS = (
    Workload(
        name="step",
        meaning="one step with its data, beside the plain tutorial loop and this machine's peaks",
    ),
    Workload(
        name="scaling",
        meaning="weak or strong scaling, beside one process alone and the step without its all-reduce",
    ),
    Workload(
        name="phases",
        meaning="data, both networks and the optimizers, each by itself",
        other_arms=("data", "discriminator", "generator", "optimizer"),
        several_processes=False,
    ),
    Workload(
        name="epoch",
        meaning="a whole epoch, log points included",
        own_arm="epoch",
        several_processes=False,
    ),
    Workload(
        name="sampling",
        meaning="images from a generator in evaluation mode",
        own_arm="sampling",
        several_processes=False,
        times_rounds=2,  # batches of samples are short
    ),
    Workload(
        name="checkpoint",
        meaning="saving and loading everything that a run needs to go on",
        own_arm="checkpoint",
        other_arms=("load",),
        alone=True,
        several_processes=False,
        repeats_disturbed=False,
    ),
    Workload(
        name="startup",
        meaning="from the command to the end of the first step",
        kind="start",
        alone=True,
        launches=3,
    ),
    Workload(
        name="stability",
        meaning="determinism, semantics, precision and health, on digits",
        kind="facts",
        timed=False,
        on_digits=True,
        launches=1,
        most_convolution_batch=8,  # what is asked does not depend on how many there are; the time does
    ),
    Workload(
        name="convergence",
        meaning="how training ends over several seeds, against the reference of the recipe where there is one",
        kind="facts",
        timed=False,
        several_processes=False,
        on_digits=True,
        launches=1,
    ),
    Workload(
        name="time_to_quality",
        meaning="seconds and images of training until generated digits are as good as a target",
        kind="facts",
        several_processes=False,
        on_digits=True,
        launches=1,
    ),
)
WORKLOADS: dict[str, Workload] = {row.name: row for row in _ROWS}
