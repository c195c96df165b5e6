"""Sides that take turns: all of their threads wait for one another in the same way."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.harness.spinning import Spinning
from bench.harness.world import World
from bench.regress.sides import Both
from bench.regress.trees import Trees
from bench.turns import messages as m
from bench.turns.quads import QuadPlan, Turns, plan_for
from bench.turns.ranks import _environment
from gan.process import spinning
from gan.process.spinning import Contention

NAMES = ("base", "head")
WAITS_OF_NEIGHBOURS = 0.08
"""Seconds a second that a thread of a side waits at rest, because those of the side before still spin."""
WAITS_BESIDE_A_LOAD = 0.3


class FakeSide:
    """Its windows of two steps take 30 ms, so that a look takes one quad. Steps that are not timed come alone.

    A thread waits for as long as `waiting` says.
    """

    def __init__(self, waiting: float) -> None:
        self.waiting = waiting
        self.told: list[object] = []
        self.windows_before_it_was_told: list[int] = []
        self.num_windows = 0

    def run(self, num_steps: int) -> m.Window:
        self.num_windows += num_steps == 2
        return m.Window(0.015 * num_steps, 0, 0.015 * num_steps * self.waiting)

    def send(self, command: m.SideCommand[Any]) -> None:
        self.told.append(command)
        self.windows_before_it_was_told.append(self.num_windows)


def sides(base: float, head: float) -> dict[str, Any]:
    return {"base": FakeSide(base), "head": FakeSide(head)}


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_all(asked: Mapping[str, FakeSide], command: m.SideCommand[Any]) -> None:
        for side in asked.values():
            side.send(command)

    monkeypatch.setattr("bench.turns.quads.ask_all", ask_all)


def take(turns: Turns, num_quads: int) -> None:
    turns.take_quads(NAMES, QuadPlan((2, 2), 2, num_quads), random.Random(0), "it")


@pytest.mark.parametrize(("step_seconds", "fills"), [(0.02, True), (0.11, False)], ids=["short", "long"])
def test_a_short_window_after_the_other_side_s_begins_with_warm_caches(step_seconds: float, fills: bool) -> None:
    """A side's first window after the other's would else take longer than its second one in a row."""
    taken: list[tuple[str, int]] = []

    def side(name: str) -> Any:
        def run(num_steps: int) -> m.Window:
            taken.append((name, num_steps))
            return m.Window(step_seconds * num_steps, 0, 0.0)

        return SimpleNamespace(run=run)

    plan = replace(plan_for((step_seconds, step_seconds), 12), steps_per_window=(3, 3))
    turns = Turns({name: side(name) for name in "ab"}, Contention())
    turns.warm_up(("a", "b"), plan)
    taken.clear()
    quads = turns.take_quads(("a", "b"), plan, random.Random(0), "it")
    assert set(quads.orders) == {"ABBA", "BAAB"}
    expected: list[tuple[str, int]] = []
    last = "b"
    for name in "".join(quads.orders).lower():
        expected += [(name, 1)] * (fills and name != last) + [(name, 3)]
        last = name
    assert taken == expected
    assert quads.windows[0] == pytest.approx([3 * step_seconds] * 24), "the step before is not timed"
    assert sum(turns.untimed_steps.values()) == len(taken) - 48


@pytest.mark.parametrize(
    ("slower", "asked", "count", "untimed"), [(0.055, 0, 11, 10), (0.055, 3, 3, 2), (0.2, 0, 6, 0)]
)
def test_periods_are_timed_until_the_slowest_side_is_warm(
    slower: float, asked: int, count: int, untimed: int
) -> None:
    """After 0.6 s and six windows, or as many as are asked for; short ones begin with warm caches."""
    step_seconds = {"a": 0.01, "b": slower}

    def side(seconds: float) -> Any:
        return SimpleNamespace(run=lambda num_steps: m.Window(seconds * num_steps, 0, 0.0))

    turns = Turns({name: side(seconds) for name, seconds in step_seconds.items()}, Contention())
    periods = turns.time_periods("ab", 1, asked)
    assert periods == {name: [seconds] * count for name, seconds in step_seconds.items()}
    assert turns.untimed_steps == {"a": untimed, "b": untimed}


def test_sides_at_rest_are_left_alone() -> None:
    rest = sides(WAITS_OF_NEIGHBOURS, WAITS_OF_NEIGHBOURS)
    take(Turns(rest, Contention()), 20)
    assert not rest["base"].told
    assert not rest["head"].told


def test_both_sides_spin_less_from_the_same_quad_on_though_only_one_waits() -> None:
    one = sides(2 * WAITS_BESIDE_A_LOAD, 0.0)
    turns = Turns(one, Contention())
    take(turns, 5)
    for side in one.values():
        assert side.told == [m.Spin(less=True)]
        assert side.windows_before_it_was_told == [4], "after two quads, of two windows each"
    one["base"].waiting = 0.0
    take(turns, 5)
    for side in one.values():
        assert side.told == [m.Spin(less=True), m.Spin(less=False)]
        assert side.windows_before_it_was_told[1] == 16


def test_the_next_pair_begins_as_the_last_one_ended() -> None:
    state = Contention()
    Turns(sides(WAITS_BESIDE_A_LOAD, WAITS_BESIDE_A_LOAD), state).warm_up(NAMES, QuadPlan((2, 2), 4, 1))
    assert state.contended
    later = sides(WAITS_BESIDE_A_LOAD, WAITS_BESIDE_A_LOAD)
    turns = Turns(later, state)
    assert later["head"].told == [m.Spin(less=True)]
    take(turns, 3)
    assert later["head"].told == [m.Spin(less=True)]


def test_threads_that_are_left_alone_wait_for_nothing() -> None:
    alone = Spinning(None)
    alone.set(less=True)
    assert (alone.label, alone.waited_seconds()) == ("", 0.0)


def test_users_decide_how_threads_of_a_side_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "500")
    theirs = Spinning(Path(spinning.__file__))
    theirs.set(less=True)
    assert (theirs.label, theirs.waited_seconds()) == ("GOMP_SPINCOUNT=500", 0.0)


def test_what_a_side_compiles_is_its_own(tmp_path: Path) -> None:
    """PyTorch takes an extension of the same name for the same, whatever its source, once it is compiled."""
    trees = Trees(tmp_path, Both("1", "2"))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):
        for side in NAMES:
            assert trees.cache(side) in Path(_environment(trees, side, "cpu", World())[name]).parents
