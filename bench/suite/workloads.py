"""WORKLOADS: one row for each kind of measurement, with all that is known of it before anything is measured.

The rows stand below results and reports, which read them. What measures a workload is bound to its name in
`bench.workloads.table`, above them, because it needs the training core, the tiers and the plain loop.
"""

from dataclasses import dataclass
from typing import Literal

MOST_WINDOWS = 50_000
"""The most windows of an arm over all launches: an interval takes memory for 1,000 resamples of them."""
NUM_DIGITS = 1797
"""Images of the dataset `digits`, which comes with a dependency."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A kind of measurement.

    Attributes:
        name: As in `Case.workload`; its test is `test_` and the name.
        title: Of its table.
        columns: Of its table: headings in `bench.report.columns.COLUMNS`.
        row_per_arm: Whether each arm takes a row of the table. Such a table has columns of its own.
        figures: Plots of the page that show it: names in `bench.report.plots.FIGURES`.
        kind: `windows`: arms, whose windows take turns. `start`: arms, of which only the start is timed. `facts`:
            a function that returns facts.
        own_arm: Name of the first arm, which is the case's own.
        other_arms: Arms without which other figures of it would mean something else.
        counts_images: Whether a step of it handles images, so that it has images/s.
        facts: Facts that its figures need: names in `bench.results.damage.REQUIRED_FACTS`.
        timed: Whether its seconds are a result. If they are not, cuBLAS takes a slower way that repeats itself.
        alone: Whether it disturbs others, or would be disturbed by processes that wait beside it.
        several_processes: Whether it can be measured in several processes.
        of_subjects: Whether it can be measured of other subjects than the core, which are known by their step.
        on_digits: Whether it trains on the bundled digits until something is known, however long that takes.
        repeats_disturbed: Whether rounds are measured again if the machine was disturbed.
        profiled: Whether `--profile` takes further steps of its own arm under a profiler.
        launches: Fresh processes for each case, instead of the suite's number.
        times_rounds: As a multiple of the suite's rounds.
        most_convolution_batch: The most images a step of a convolutional row, if no batch is asked for.
    """

    name: str
    title: str
    columns: tuple[str, ...] = ()
    row_per_arm: bool = False
    figures: tuple[str, ...] = ()
    kind: Literal["windows", "start", "facts"] = "windows"
    own_arm: str = "step"
    other_arms: tuple[str, ...] = ()
    counts_images: bool = True
    facts: tuple[str, ...] = ()
    timed: bool = True
    alone: bool = False
    several_processes: bool = True
    of_subjects: bool = False
    on_digits: bool = False
    repeats_disturbed: bool = True
    profiled: bool = False
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
        title="Training step",
        columns=(
            *("ms/step", "IQR", "p90 ms", "p99 ms", "images/s", "s/kimg", "× plain", "reached", "peak MiB"),
            *("one bound", "matrix products", "first step s", "compile s"),
        ),
        figures=("throughput", "windows", "roofline", "time"),
        of_subjects=True,
        profiled=True,
    ),
    Workload(
        name="scaling",
        title="Scaling",
        columns=(
            *("ms/step", "IQR", "p90 ms", "p99 ms", "images/s", "s/kimg", "× one process", "efficiency"),
            *("communication", "slowest rank", "rank spread", "× plain"),
        ),
        figures=("windows", "scaling", "roofline", "time"),
        of_subjects=True,
        profiled=True,
    ),
    Workload(
        name="phases",
        title="Phases of the step",
        row_per_arm=True,
        figures=("windows", "time"),
        profiled=True,
        other_arms=("data",),
        several_processes=False,
    ),
    Workload(
        name="epoch",
        title="Whole epoch",
        columns=("s/epoch", "IQR", "images/s", "s/kimg", "× plain"),
        figures=("windows",),
        own_arm="epoch",
        several_processes=False,
    ),
    Workload(
        name="sampling",
        title="Sampling",
        columns=("ms/batch", "IQR", "p90 ms", "p99 ms", "images/s", "s/kimg", "× plain", "peak MiB", "compile s"),
        figures=("windows",),
        own_arm="sampling",
        several_processes=False,
        times_rounds=2,  # a batch of samples is short
    ),
    Workload(
        name="checkpoint",
        title="Checkpoint",
        columns=("save ms", "IQR", "p90 ms", "p99 ms", "load ms", "MiB", "MiB/s saved", "× torch.save"),
        figures=("windows",),
        own_arm="checkpoint",
        other_arms=("load",),
        counts_images=False,
        facts=("checkpoint_bytes",),
        alone=True,
        several_processes=False,
        repeats_disturbed=False,  # writing to a disk disturbs what comes after it, however long one waits
    ),
    Workload(
        name="startup",
        title="Start to the end of the first step",
        columns=("total s", "launcher s", "imports s", "prepare s", "first step s", "compile s"),
        kind="start",
        alone=True,
        of_subjects=True,
        launches=3,
    ),
    Workload(
        name="stability",
        title="Loss stability",
        columns=("verdict", "T0", "T1", "T2", "T4", "D's gradient error", "G's gradient error"),
        figures=("windows",),
        kind="facts",
        facts=("checks",),
        timed=False,
        of_subjects=True,
        on_digits=True,
        launches=1,
        most_convolution_batch=8,  # the answer does not depend on the batch, the time does
    ),
    Workload(
        name="convergence",
        title="Outcomes of several seeds",
        columns=("verdict", "seeds", "loss_d", "loss_g", "fid", "coverage", "images_to_quality"),
        figures=("windows",),
        kind="facts",
        facts=("seeds", "checks"),
        timed=False,
        several_processes=False,
        on_digits=True,
        launches=1,
    ),
    Workload(
        name="time_to_quality",
        title="Time to quality",
        columns=("verdict", "target FID", "FID", "seconds", "images"),
        figures=("windows",),
        kind="facts",
        facts=("quality", "checks"),
        several_processes=False,
        on_digits=True,
        launches=1,
    ),
)
WORKLOADS: dict[str, Workload] = {row.name: row for row in _ROWS}
