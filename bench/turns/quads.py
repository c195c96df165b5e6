"""Quads: four windows of two sides that take turns, in the order ABBA or BAAB; only one side runs at a time."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.harness.windows import SHORT_WINDOW_SECONDS
from bench.turns import messages as m
from bench.turns.ranks import PairError, SideRanks, ask_all
from gan.process.spinning import LOOK_SECONDS, Contention

WINDOW_SECONDS = 0.013
SWITCHES_PER_QUAD = 2.5
"""How often it becomes the other side's turn in a quad and before it, on average."""
LEAST_QUADS = 12
QUAD_SECONDS = 3.0
"""Two sides have fewer quads if they would take longer than this,"""
PAIR_SECONDS = 9.0
"""or if those of all cases together would take longer than this."""
WARMUP_SECONDS = 0.6
"""Of each side, in windows that take turns, before the first quad."""
LEAST_STEPS = 6
MOST_STEPS = 200
"""Steps of each side that are timed one by one, to choose the windows."""
QUAD_ORDERS = {"ABBA": (0, 1, 1, 0), "BAAB": (1, 0, 0, 1)}

TwoSides = tuple[str, str]
"""The names of the sides A and B."""


@dataclass(frozen=True)
class QuadPlan:
    """How two sides are measured, the same in every launch pair.

    Attributes:
        steps_per_window: Of A and of B; their windows are about equally long.
        warmup_windows: Of both sides, before the first quad.
        num_quads: How many are measured.
        windows_are_short: Whether cold caches at their beginning would cost much of their time.
    """

    steps_per_window: tuple[int, int]
    warmup_windows: int
    num_quads: int
    windows_are_short: bool = True


def plan_for(
    step_seconds: tuple[float, float], most_quads: int, num_cases: int = 1, periods: tuple[int, int] = (1, 1)
) -> QuadPlan:
    """Return windows of about WINDOW_SECONDS or of one period, and as many quads as there is time for.

    Args:
        step_seconds: Of A and of B.
        most_quads: How many are measured if there is time.
        num_cases: How many plans share the time of a launch pair.
        periods: Of A and of B: steps after which costs repeat. Windows hold whole periods.
    """
    period_seconds = [period * seconds for period, seconds in zip(periods, step_seconds, strict=True)]
    window_seconds = max(WINDOW_SECONDS, *period_seconds)
    steps_a, steps_b = (
        period * max(1, round(window_seconds / seconds))
        for period, seconds in zip(periods, period_seconds, strict=True)
    )
    longest_seconds = max(steps_a * step_seconds[0], steps_b * step_seconds[1])
    quad_seconds = 4 * longest_seconds
    if is_short := longest_seconds < SHORT_WINDOW_SECONDS:
        quad_seconds += SWITCHES_PER_QUAD * max(step_seconds)
    fitting_quads = int(min(QUAD_SECONDS, PAIR_SECONDS / num_cases) / quad_seconds)
    num_quads = min(most_quads, max(LEAST_QUADS, fitting_quads))
    warmup_windows = max(2, round(WARMUP_SECONDS / longest_seconds))
    return QuadPlan((steps_a, steps_b), warmup_windows, num_quads, windows_are_short=is_short)


def settled_seconds(steps: list[float]) -> float:
    """Return the seconds of a step: the median of the second half of those that were timed."""
    settled = sorted(steps[len(steps) // 2 :])
    return settled[len(steps) // 4]


@dataclass(frozen=True)
class Quads:
    """What was measured of two sides.

    Attributes:
        orders: ABBA or BAAB, one a quad.
        windows: Seconds of A and of B, two a quad and side, in the order in which they were measured.
    """

    orders: tuple[str, ...]
    windows: tuple[tuple[float, ...], tuple[float, ...]]


class Turns:
    """Lets sides take turns, two at a time, all of whose threads wait for one another in the same way.

    A process that trains finds out by itself whether its threads should spin less (`gan.process.spinning`). Sides
    must not: one of them would do so a moment before the other, and seem to be slower. So they are told, all at
    once and between quads, by what all of them have waited.

    Args:
        sides: By name.
        contention: What earlier launch pairs have shown.

    Attributes:
        untimed_steps: How many steps each side has taken between its windows.
    """

    def __init__(self, sides: Mapping[str, SideRanks], contention: Contention) -> None:
        self._sides = sides
        self._contention = contention
        self._seconds = 0.0
        self._waited_seconds = 0.0
        self._last = ""
        self.untimed_steps = dict.fromkeys(sides, 0)
        if contention.contended:
            ask_all(sides, m.Spin(less=True))

    def take_windows(
        self, names: Sequence[str], num_steps: Sequence[int], *, warm_caches: bool = False
    ) -> list[m.Window]:
        """Let sides take a window each, one after the other.

        Args:
            names: Whose turn it is.
            num_steps: Of each window.
            warm_caches: Whether a step that is not timed goes before a window after another side's. A process that
                trains finds its weights in the caches; here, another one has used them since.
        """
        windows = []
        for name, steps in zip(names, num_steps, strict=True):
            if warm_caches and name != self._last:
                self._sides[name].run(1)
                self.untimed_steps[name] += 1
            windows.append(self._sides[name].run(steps))
            self._last = name
        self._seconds += sum(window.seconds for window in windows)
        self._waited_seconds += sum(window.waited_seconds for window in windows)
        if self._seconds >= LOOK_SECONDS:
            before = self._contention.contended
            if self._contention.look(self._waited_seconds / self._seconds) != before:
                ask_all(self._sides, m.Spin(less=not before))
            self._seconds = self._waited_seconds = 0.0
        return windows

    def time_periods(self, names: Sequence[str], period: int, num_windows: int = 0) -> dict[str, list[float]]:
        """Let sides take as many windows of one period each, in turns; return the seconds of each window.

        Args:
            names: Of the sides.
            period: Steps of a window.
            num_windows: Of each side; 0 until the slowest has taken WARMUP_SECONDS.
        """
        seconds: dict[str, list[float]] = {name: [] for name in names}
        are_short = False
        for number in range(num_windows or MOST_STEPS):
            is_warm = number >= LEAST_STEPS and max(map(sum, seconds.values())) >= WARMUP_SECONDS
            if is_warm and not num_windows:
                break
            windows = self.take_windows(names, [period] * len(names), warm_caches=are_short)
            are_short = max(window.seconds for window in windows) < SHORT_WINDOW_SECONDS
            for name, window in zip(names, windows, strict=True):
                seconds[name].append(window.seconds)
        return seconds

    def warm_up(self, names: TwoSides, plan: QuadPlan) -> None:
        """Take the windows before the first quad."""
        for _ in range(plan.warmup_windows):
            self.take_windows(names, plan.steps_per_window)

    def take_quads(
        self,
        names: TwoSides,
        plan: QuadPlan,
        draw: random.Random,
        what: str,
        after_quad: Callable[[], object] = lambda: None,
    ) -> Quads:
        """Measure the quads of two sides that are warm.

        Args:
            names: Of A and of B.
            plan: How many.
            draw: Draws their orders.
            what: Is measured, for an error.
            after_quad: Called after each quad, when no side runs.

        Raises:
            PairError: A side failed, or compiled inside a window.
        """
        orders: list[str] = []
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(1, plan.num_quads + 1):
            orders.append(draw.choice(list(QUAD_ORDERS)))
            order = QUAD_ORDERS[orders[-1]]
            windows = self.take_windows(
                [names[side] for side in order],
                [plan.steps_per_window[side] for side in order],
                warm_caches=plan.windows_are_short,
            )
            for side, window in zip(order, windows, strict=True):
                if window.num_compilations:
                    raise PairError(names[side], f"{what} compiled again inside a window of quad {number}")
                seconds[side].append(window.seconds)
            after_quad()
        return Quads(tuple(orders), (tuple(seconds[0]), tuple(seconds[1])))
