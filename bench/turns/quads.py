"""Quads: four windows of two sides that take turns, in the order ABBA or BAAB; only one side runs at a time."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.turns.ranks import PairError, SideRanks

WINDOW_SECONDS = 0.013
LEAST_QUADS = 12
QUAD_SECONDS = 9.0
"""Two sides have fewer quads if they would take longer than this,"""
PAIR_SECONDS = 27.0
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
    """

    steps_per_window: tuple[int, int]
    warmup_windows: int
    num_quads: int


def plan_for(step_seconds: tuple[float, float], most_quads: int, num_cases: int = 1) -> QuadPlan:
    """Return windows of about WINDOW_SECONDS or of one step, and as many quads as there is time for.

    Args:
        step_seconds: Of A and of B.
        most_quads: How many are measured if there is time.
        num_cases: How many plans share the time of a launch pair.
    """
    window_seconds = max(WINDOW_SECONDS, *step_seconds)
    steps_a, steps_b = (max(1, round(window_seconds / seconds)) for seconds in step_seconds)
    longest_seconds = max(steps_a * step_seconds[0], steps_b * step_seconds[1])
    fitting_quads = int(min(QUAD_SECONDS, PAIR_SECONDS / num_cases) / (4 * longest_seconds))
    num_quads = min(most_quads, max(LEAST_QUADS, fitting_quads))
    return QuadPlan((steps_a, steps_b), max(2, round(WARMUP_SECONDS / longest_seconds)), num_quads)


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


def warm_up(sides: Mapping[str, SideRanks], names: TwoSides, plan: QuadPlan) -> None:
    """Take the windows before the first quad, in turns."""
    for _ in range(plan.warmup_windows):
        for name, num_steps in zip(names, plan.steps_per_window, strict=True):
            sides[name].run(num_steps)


def take_quads(
    sides: Mapping[str, SideRanks],
    names: TwoSides,
    plan: QuadPlan,
    draw: random.Random,
    what: str,
    after_quad: Callable[[], object] = lambda: None,
) -> Quads:
    """Measure the quads of two sides that are warm.

    Args:
        sides: By name.
        names: Of A and of B.
        plan: How many.
        draw: Draws their orders.
        what: Is measured, for an error.
        after_quad: Called after each quad, when no side runs.

    Raises:
        PairError: A side failed, or compiled inside a window.
    """
    orders: list[str] = []
    windows: tuple[list[float], list[float]] = ([], [])
    for number in range(1, plan.num_quads + 1):
        order = draw.choice(list(QUAD_ORDERS))
        orders.append(order)
        for side in QUAD_ORDERS[order]:
            window = sides[names[side]].run(plan.steps_per_window[side])
            if window.num_compilations:
                raise PairError(names[side], f"{what} compiled again inside a window of quad {number}")
            windows[side].append(window.seconds)
        after_quad()
    return Quads(tuple(orders), (tuple(windows[0]), tuple(windows[1])))
