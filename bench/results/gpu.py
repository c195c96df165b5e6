"""What the processes of a case read of their GPUs, and what of it makes the case's figures doubtful."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, TypeVar

from bench.harness.gpu import POWER_TIMES_TIME, GpuLimits, GpuReading
from bench.results.damage import Json

CLOCKS_FELL = 0.03
"""By this fraction. The clocks of a GPU that grows warm fall in steps of less than one per cent."""
SLOWDOWNS = ("hardware slowdown", "too warm (software)", "too warm (hardware)", "power brake")
"""Reasons that a healthy GPU at rest does not give. At its power cap a GPU runs as it was built to."""

T = TypeVar("T")


@dataclass(frozen=True)
class Energy:
    """The energy of steps without a pause.

    Attributes:
        joules: On one GPU.
        seconds: That the steps took.
        images: Of all processes.
        is_estimated: Whether it is power × time, because the GPU does not count energy.
    """

    joules: float
    seconds: float
    images: int
    is_estimated: bool


@dataclass(frozen=True)
class GpuFacts:
    """What one process read of its GPU.

    Attributes:
        absent: Why nothing was read; empty if it was.
        limits: What does not change.
        before: Before the first window.
        during: After the last window of each turn.
        busy: While it took steps of the case's own arm without a pause.
        after: After the last window.
        energy: Of the case's own steps; None if it is not known.
    """

    absent: str
    limits: GpuLimits
    before: GpuReading
    during: tuple[GpuReading, ...]
    busy: GpuReading
    after: GpuReading
    energy: Energy | None

    @classmethod
    def parse(cls, data: Json) -> "GpuFacts":
        """Return the facts of a valid JSON object; what it lacks is None."""
        energy = data.get("energy")
        return cls(
            absent=data.get("absent", ""),
            limits=_parse(GpuLimits, data.get("limits", {})),
            before=_parse(GpuReading, data.get("before", {})),
            during=tuple(_parse(GpuReading, reading) for reading in data.get("during", ())),
            busy=_parse(GpuReading, data.get("busy", {})),
            after=_parse(GpuReading, data.get("after", {})),
            energy=energy
            and Energy(
                energy["joules"], energy["seconds"], energy["images"], energy["source"] == POWER_TIMES_TIME
            ),
        )

    @property
    def readings(self) -> tuple[GpuReading, ...]:
        """All readings, in order."""
        return (self.before, *self.during, self.busy, self.after)


def _parse(kind: type[T], data: Json) -> T:
    values: dict[str, Any] = {item.name: data.get(item.name) for item in fields(kind)}  # type: ignore[arg-type]
    if values.get("throttling") is not None:
        values["throttling"] = tuple(values["throttling"])
    return kind(**values)


@dataclass(frozen=True)
class Mark:
    """What makes the figures of a case on a GPU doubtful.

    Attributes:
        short: In a table.
        read: What was read of the GPU.
        advice: What to do about it.
    """

    short: str
    read: str
    advice: str


def marks_of(gpus: Sequence[GpuFacts]) -> list[Mark]:
    """Return what is doubtful of a case.

    Args:
        gpus: What the processes of a case have read, in all launches.
    """
    return [*_clocks(gpus), *_slowdowns(gpus), *_sharing(gpus), *_errors(gpus)]


def _clocks(gpus: Sequence[GpuFacts]) -> list[Mark]:
    """Mark clocks that were not the same after all windows. Before them, a GPU may have rested."""
    for name, clock in (("SM", "sm_mhz"), ("memory", "memory_mhz")):
        courses = [[value for reading in gpu.during if (value := getattr(reading, clock))] for gpu in gpus]
        what = f"the {name} clock"
        for course in courses:
            if fall := _fall(course):
                read = f"{what} fell from {fall[0]:,} to {fall[1]:,} MHz"
                return [Mark("clocks fell", read, "let the GPU cool, then repeat")]
        for course in courses:
            if rise := _fall(course[::-1]):
                read = f"{what} rose from {rise[1]:,} to {rise[0]:,} MHz"
                return [Mark("clocks rose", read, "repeat while the GPU is warm")]
        if apart := _fall(sorted((mhz for course in courses for mhz in course), reverse=True)):
            read = f"{what} was {apart[0]:,} MHz in one process and {apart[1]:,} in another"
            return [Mark("clocks differed", read, "repeat, or fix the clocks")]
    return []


def _fall(course: Sequence[int]) -> tuple[int, int] | None:
    """Return the largest fall of a clock, from and to MHz; None if none is larger than CLOCKS_FELL."""
    highest_before = list(accumulate(course, max))
    falls = [(now / high, high, now) for high, now in zip(highest_before, course, strict=True)]
    kept, high, low = min(falls, default=(1.0, 0, 0))
    return (high, low) if kept < 1 - CLOCKS_FELL else None


def _slowdowns(gpus: Sequence[GpuFacts]) -> list[Mark]:
    reasons = {
        reason for gpu in gpus for reading in (*gpu.during, gpu.busy) for reason in reading.throttling or ()
    }
    shown = [reason for reason in SLOWDOWNS if reason in reasons]
    return [Mark("throttled", f"slowed down by {', '.join(shown)}", "cool the GPU, then repeat")] if shown else []


def _sharing(gpus: Sequence[GpuFacts]) -> list[Mark]:
    most = max((reading.other_processes or 0 for gpu in gpus for reading in gpu.readings), default=0)
    if not most:
        return []
    others = "another process was" if most == 1 else f"{most} other processes were"
    return [Mark("shared", f"{others} on the GPU", "stop what is not needed, then repeat")]


def _errors(gpus: Sequence[GpuFacts]) -> list[Mark]:
    new = sum(
        max(0, (gpu.after.uncorrected_errors or 0) - (gpu.before.uncorrected_errors or 0))
        for gpu in gpus
        if gpu.before.uncorrected_errors is not None
    )
    if not new:
        return []
    return [Mark("memory errors", f"{new} errors that ECC could not correct", "do not trust this GPU")]
