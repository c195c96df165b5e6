"""What a launch pair measured: a part of a check's record."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.regress.sides import Both
from bench.regress.verdict import pair_log_ratio

SMALLEST = 1e-9
LARGEST = 1e18
"""Every time in seconds and every size in bytes lies between these."""

JsonObject = Mapping[str, Any]
"""Open-ended facts by name, which are compared and shown as a whole; a version may add to them."""

StepLosses = Mapping[str, float | None]
"""The losses of a step by name, as the mean over the ranks; None is not finite."""
OF_SUBJECTS = ("losses", "num_parameters")
"""Fields that a file has only where they say something."""
NO_LOSSES: Both[tuple[StepLosses, ...]] = Both((), ())
NO_NUMBERS: Both[Mapping[str, int]] = Both({}, {})


@dataclass(frozen=True)
class CaseWindows:
    """What a launch pair measured of a case.

    Attributes:
        configuration: Device, threads, batch and precision of each side.
        steps_per_window: The same for both sides, or the pair cannot be judged.
        peak_bytes: Largest over the ranks of a side.
        injected: Extra work by side: the number of products, and what was measured to find it.
        orders: ABBA or BAAB, one a quad.
        windows: Seconds, two a quad and side, in the order in which they were measured.
        losses: Of a subject's first steps, which start from the same seed, by side; empty if it shows none.
        num_parameters: Of a subject's networks, by side; empty if it shows none.
        period: Steps over which the time of a step is a mean: what costs more in some of them is in each window.
    """

    configuration: Both[JsonObject]
    steps_per_window: Both[int]
    peak_bytes: Both[float]
    injected: Mapping[str, Mapping[str, float]]
    orders: tuple[str, ...]
    windows: Both[tuple[float, ...]]
    losses: Both[tuple[StepLosses, ...]] = NO_LOSSES
    num_parameters: Both[Mapping[str, int]] = NO_NUMBERS
    period: int = 1

    @cached_property
    def log_ratio(self) -> float:
        """The one number that a pair gives of a case's time: see `pair_log_ratio`."""
        return pair_log_ratio(self.windows.base, self.windows.head)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "CaseWindows":
        """Return the windows of a valid JSON object; what is no number becomes NaN, which `complaint_of` names."""
        return cls(
            configuration=Both.parse(data["configuration"], dict),
            steps_per_window=Both.parse(data["steps_per_window"], int),
            peak_bytes=Both.parse(data["peak_bytes"], measured_number),
            injected=data.get("injected", {}),
            orders=tuple(data["orders"]),
            windows=Both.parse(data["windows"], lambda values: tuple(map(measured_number, values))),
            losses=Both.parse(data["losses"], tuple) if "losses" in data else NO_LOSSES,
            num_parameters=(Both.parse(data["num_parameters"], dict) if "num_parameters" in data else NO_NUMBERS),
            period=data.get("period", 1),
        )


@dataclass(frozen=True)
class Pair:
    """A launch pair: two fresh processes, or as many on each side as there are ranks.

    Attributes:
        time: Of day, in seconds since 1970.
        started: The sides in the order in which they were started.
        sides: Hardware and versions that each side saw.
        startup_seconds: Until the first step of the first case was done.
        cases: By name; a case that has its verdict is not measured again.
        seconds: That the pair took.
    """

    time: float
    started: tuple[str, ...]
    sides: Both[JsonObject]
    startup_seconds: Both[float]
    cases: Mapping[str, CaseWindows]
    seconds: float

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "Pair":
        """Return the pair of a valid JSON object."""
        return cls(
            time=data.get("time", 0.0),
            started=tuple(data.get("started", ())),
            sides=Both.parse(data["sides"], dict),
            startup_seconds=Both.parse(data["startup_seconds"], measured_number),
            cases={name: CaseWindows.parse(case) for name, case in data["cases"].items()},
            seconds=data["seconds"],
        )


def measured_number(value: Any) -> float:
    """Return a measured value as a float; NaN for what is no number, or too large for one."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= LARGEST else math.nan


def is_measured(value: float) -> bool:
    """Say whether a value can be a number of seconds or bytes; NaN cannot."""
    return SMALLEST <= value <= LARGEST
