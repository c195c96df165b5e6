"""Tables of results, for any format: one for each workload."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.cells import NONE, milliseconds, percent, ratio
from bench.report.columns import (
    COLUMNS,
    GPU_COLUMNS,
    KEPT_LONGEST,
    MARK,
    MEANINGS,
    PHASE_COLUMNS,
    PLAIN_RATIOS,
    Cell,
)
from bench.report.exposures import exposure_tables
from bench.report.profiles import profile_tables
from bench.report.settings import TIMES_DEFAULT, times_default
from bench.results.case_result import CaseResult
from bench.results.figures import peaks
from bench.results.phases import PhaseTime, attribution
from bench.results.work import Peaks, StepWork
from bench.suite.cases import AXES
from bench.suite.workloads import WORKLOADS, Workload
from gan.display.tables import Table


@dataclass(frozen=True)
class WorkloadGroup:
    """The cases of one workload.

    Attributes:
        workload: Its row.
        title: Of its table, with the values that all its cases share.
        axes: Names of the axes whose values differ between the cases; if none do, the recipe, or the subject.
        results: The cases.
    """

    workload: Workload
    title: str
    axes: Sequence[str]
    results: Sequence[CaseResult]

    @property
    def columns(self) -> list[str]:
        """Headings of the axes."""
        return [AXES[name].column for name in self.axes]

    def labels(self, result: CaseResult) -> list[str]:
        """Return a case's values of the axes."""
        return [result.case.label(name) for name in self.axes]


def by_workload(results: Sequence[CaseResult]) -> Iterator[WorkloadGroup]:
    """Yield the cases of each workload, in the order of WORKLOADS."""
    for workload in WORKLOADS.values():
        chosen = [result for result in results if result.workload == workload]
        if not chosen:
            continue
        varied = [name for name in AXES if len({result.case.label(name) for result in chosen}) > 1]
        axes = varied or ["recipe" if chosen[0].case.is_core else "subject"]
        shared = chosen[0].case.labels(name for name in AXES if name not in axes)
        yield WorkloadGroup(workload, f"{workload.title}: {', '.join(shared)}", axes, chosen)


def tables(results: Sequence[CaseResult]) -> list[Table]:
    """Return a table for each workload, then those of single cases. Axes that do not vary stand in its title."""
    groups = by_workload(results)
    by_case = [_row_per_arm(group) if group.workload.row_per_arm else _table(group) for group in groups]
    return [*by_case, *exposure_tables(results), *profile_tables(results)]


def _table(group: WorkloadGroup) -> Table:
    to_default = times_default(group.results)
    cells: dict[str, Cell] = {
        **COLUMNS,
        **GPU_COLUMNS,
        TIMES_DEFAULT: lambda result: ratio(to_default.get(result.name)),
    }
    names = [*group.workload.columns, *_gpu_columns(group)]
    if to_default:
        names.insert(1 + next(index for index, name in enumerate(names) if name in PLAIN_RATIOS), TIMES_DEFAULT)
    rows = [[*group.labels(result), *(cells[name](result) for name in names)] for result in group.results]
    others = [name for name in reversed(names[1:]) if name not in (*KEPT_LONGEST, MARK)]
    empty = {name for name in others if all(cells[name](result) == NONE for result in group.results)}
    others.sort(key=lambda name: name not in empty)
    expendable = (*others, *(name for name in KEPT_LONGEST if name in names[1:]))
    return Table(group.title, [*group.columns, *names], len(group.axes), rows, expendable)


def _gpu_columns(group: WorkloadGroup) -> list[str]:
    """Return the columns of GPUs that say something of a case."""
    if not group.workload.in_windows:
        return []
    return [name for name, cell in GPU_COLUMNS.items() if any(cell(one) != NONE for one in group.results)]


def _row_per_arm(group: WorkloadGroup) -> Table:
    columns = [*group.columns, *PHASE_COLUMNS]
    rows = [[*group.labels(result), *row] for result in group.results for row in _rows_of_phases(result)]
    return Table(group.title, columns, len(group.axes) + 1, rows, ("images/s", "GB/s", "products", "memory"))


def _rows_of_phases(result: CaseResult) -> Iterator[list[str]]:
    """Yield a row for the step and one for each of its phases, which add up to it."""
    step_seconds = result.median()
    limits = peaks(result)
    divided = attribution(result)
    phases = _measured_apart(result) if divided is None else divided.phases
    for phase in (PhaseTime("step", 1.0, step_seconds, result.facts.sequence), *phases):
        seconds = phase.seconds
        work = phase.work
        yield [
            phase.name,
            milliseconds(seconds) if seconds else "0",
            percent(phase.share),
            *(_of_peaks(work, limits, seconds) if work and limits and seconds else (NONE, NONE, NONE)),
            f"{result.images_per_step('step') / seconds:,.0f}" if seconds else NONE,
        ]


def _of_peaks(work: StepWork, limits: Peaks, seconds: float) -> tuple[str, str, str]:
    """Return which parts of the time traffic and products take at the peaks, and the traffic in GB/s."""
    return (
        percent(work.traffic_seconds(limits) / seconds),
        percent(work.product_seconds(limits) / seconds),
        f"{work.traffic_bytes / seconds / 1e9:.1f}",
    )


def _measured_apart(result: CaseResult) -> list[PhaseTime]:
    """Return the phases of an older file, each measured by itself; what none takes is the rest."""
    step_seconds = result.median()
    names = [arm for arm in result.seconds_per_step if arm not in ("step", "plain")]
    seconds = {name: result.median(name) for name in names}
    seconds["rest"] = max(0.0, step_seconds - sum(seconds.values()))
    return [PhaseTime(name, value / step_seconds, value, None) for name, value in seconds.items()]


def legend(shown: Sequence[Table]) -> list[str]:
    """Return what the columns of tables mean, a line for each that does not explain itself."""
    columns = {name for table in shown for name in table.columns}
    return [f"{name}: {meaning}" for name, meaning in MEANINGS.items() if name in columns]
