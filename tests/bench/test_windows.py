"""The engine, on a clock that only the arms move."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from bench.harness.exchange import Grant
from bench.harness.windows import (
    LEAST_ROUNDS,
    ROUNDS_PER_TURN,
    Arm,
    Collectives,
    Effort,
    Engine,
    RecompiledError,
    undisturbed,
)
from bench.harness.world import World

EFFORT = Effort(launches=1, rounds=20, window_seconds=0.03, measure_seconds=100, warmup_seconds=5)
TURNS = -(-EFFORT.rounds // ROUNDS_PER_TURN)


@dataclass
class Machine:
    """A clock, a device whose work is done when it is waited for, and a compiler."""

    now: float = 0.0
    queued: float = 0.0
    compilations: int = 0
    waits: int = 0
    taken: list[str] = field(default_factory=list)

    def arm(self, name: str, seconds: Callable[[int], float], **settings: object) -> Arm:
        def steps() -> Iterator[None]:
            step = 0
            while True:
                self.queued += seconds(step)
                self.taken.append(name)
                step += 1
                yield

        return Arm(name, steps(), **settings)  # type: ignore[arg-type]

    def wait(self) -> None:
        self.now += self.queued
        self.queued = 0.0
        self.waits += 1

    def engine(self, effort: Effort = EFFORT, **settings: object) -> Engine:
        return Engine(
            effort,
            wait=self.wait,
            num_compilations=lambda: self.compilations,
            timer=lambda: self.now,
            **settings,  # type: ignore[arg-type]
        )


def test_a_window_is_long_enough_and_measures_what_the_device_did() -> None:
    machine = Machine()
    engine = machine.engine()
    fast, slow = machine.arm("fast", lambda _: 0.004), machine.arm("slow", lambda _: 0.5)
    assert engine.add(fast).steps_per_window == 8
    assert engine.add(slow).steps_per_window == 1
    engine.measure()
    assert engine.records["fast"].windows == pytest.approx([8 * 0.004] * EFFORT.rounds)
    assert engine.records["slow"].windows == pytest.approx([0.5] * EFFORT.rounds)


def test_the_device_is_waited_for_once_a_window_and_after_the_step_before_it() -> None:
    machine = Machine()
    engine = machine.engine()
    engine.add(machine.arm("arm", lambda _: 0.001))
    before = machine.waits
    engine.measure()
    assert machine.waits - before == 2 * EFFORT.rounds


def test_warm_up_ends_at_the_steady_state_not_after_a_count() -> None:
    def cooling(step: int) -> float:
        return 0.01 * (1 + 5 * 0.97**step)

    machine = Machine()
    quick = machine.engine().add(machine.arm("steady", lambda _: 0.01))
    slow = machine.engine().add(machine.arm("cooling", cooling))
    assert quick.settled
    assert slow.settled
    assert len(slow.warmup) > 2 * len(quick.warmup)
    assert slow.warmup[-1] < 1.15 * 0.01


def test_an_arm_without_a_steady_state_is_marked_and_does_not_go_on_forever() -> None:
    machine = Machine()
    record = machine.engine().add(machine.arm("rising", lambda step: 0.01 * 1.02**step))
    assert not record.settled
    assert sum(record.warmup) * record.steps_per_window < 10 * EFFORT.warmup_seconds


@pytest.mark.parametrize(("seconds", "is_steady"), [(2.0, True), (20.0, True), (20.0, False)])
def test_long_windows_settle_after_two(seconds: float, is_steady: bool) -> None:
    """The first of them was timed before the warm-up, which may end after one window."""
    machine = Machine()
    growth = 1.0 if is_steady else 1.1
    record = machine.engine().add(machine.arm("epoch", lambda step: seconds * growth**step, steps_per_window=1))
    assert record.settled == is_steady
    assert len(record.warmup) == 1


def test_the_first_step_stands_apart() -> None:
    machine = Machine()
    engine = machine.engine()
    record = engine.add(machine.arm("compiled", lambda step: 0.01 if step else 20.0))
    engine.measure()
    assert record.first_step_seconds == pytest.approx(20.0)
    assert max(record.warmup) < 0.011
    assert max(record.windows) < 0.031


def order_of_three_arms() -> list[str]:
    machine = Machine()
    engine = machine.engine()
    for name in ("a", "b", "c"):
        engine.add(machine.arm(name, lambda _: 0.6))
    machine.taken.clear()
    engine.measure()
    return machine.taken


def test_arms_take_turns_and_their_order_changes() -> None:
    taken = order_of_three_arms()
    rounds = [tuple(taken[index : index + 3]) for index in range(0, len(taken), 3)]
    assert len(rounds) == EFFORT.rounds
    assert all(set(order) == {"a", "b", "c"} for order in rounds)
    assert len(set(rounds)) > 3
    assert order_of_three_arms() == taken  # or the ranks of one case would wait for each other in different arms


def test_drift_of_the_machine_hits_all_arms_alike() -> None:
    machine = Machine()
    engine = machine.engine()

    def speed() -> float:
        return 1 + machine.now / 5

    engine.add(machine.arm("a", lambda _: 0.03 * speed()))
    engine.add(machine.arm("b", lambda _: 0.06 * speed()))
    engine.measure()
    a, b = (engine.records[name].windows for name in ("a", "b"))
    assert a[-1] > 1.2 * a[0]
    assert [y / x for x, y in zip(a, b, strict=True)] == pytest.approx([2.0] * len(a), rel=0.03)


def test_a_compilation_inside_a_timed_window_fails_the_case() -> None:
    machine = Machine()
    engine = machine.engine()

    def seconds(step: int) -> float:
        machine.compilations += step in (0, 30)
        return 0.03

    engine.add(machine.arm("arm", seconds))
    with pytest.raises(RecompiledError, match="arm compiled again inside window"):
        engine.measure()


def test_a_compilation_while_warming_up_starts_the_steady_state_anew() -> None:
    machine = Machine()

    def seconds(step: int) -> float:
        machine.compilations += step in (0, 9)
        return 0.03

    record = machine.engine().add(machine.arm("arm", seconds))
    assert record.settled
    assert len(record.warmup) >= 14


def test_slow_cases_get_fewer_rounds_but_never_too_few() -> None:
    machine = Machine()
    engine = machine.engine(Effort(launches=1, rounds=100, measure_seconds=15))
    engine.add(machine.arm("arm", lambda _: 1.0))
    engine.measure()
    assert len(engine.records["arm"].windows) == 15
    slower = machine.engine(Effort(launches=1, rounds=100, measure_seconds=15))
    slower.add(machine.arm("arm", lambda _: 10.0))
    slower.measure()
    assert len(slower.records["arm"].windows) == LEAST_ROUNDS


def test_rare_arms_are_measured_every_so_many_rounds() -> None:
    machine = Machine()
    engine = machine.engine()
    engine.add(machine.arm("often", lambda _: 0.03))
    engine.add(machine.arm("rare", lambda _: 0.03, every=4))
    engine.measure()
    assert len(engine.records["rare"].windows) == EFFORT.rounds // 4


def test_ranks_decide_alike_and_only_the_first_takes_a_lone_arm() -> None:
    machine = Machine()

    def of_all_ranks(value: float) -> float:
        """Rank 0 is 20 times slower, and takes 0.03 s for a step that this one has no part in."""
        return 0.03 if value == 0 and isinstance(value, float) else 20 * value

    collectives = Collectives(World(1, 2), maximum=of_all_ranks)
    engine = machine.engine(collectives=collectives)
    assert engine.add(machine.arm("together", lambda _: 0.001)).steps_per_window == 2
    engine.add(machine.arm("lone", lambda _: 0.03, alone=True))
    engine.measure()
    assert "lone" not in machine.taken
    assert engine.records["lone"].windows == [0.0] * EFFORT.rounds


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_first_rank_of_every_host_takes_the_probe(rank: int) -> None:
    """Of four ranks, two on each of two hosts."""
    machine = Machine()
    place = World(rank, 4, first_here=rank // 2 * 2, size_here=2)
    engine = machine.engine(collectives=Collectives(place))
    engine.add(machine.arm("together", lambda _: 0.001))
    engine.measure(machine.arm("probe", lambda _: 0.002, steps_per_window=1, alone=True, on_every_host=True))
    assert (engine.records["probe"].windows[0] > 0) == (rank in (0, 2))


def test_more_rounds_are_measured_instead_of_disturbed_ones() -> None:
    machine = Machine()
    engine = machine.engine(Effort(launches=1, rounds=20))
    engine.add(machine.arm("arm", lambda _: 0.03))
    probe = machine.arm("probe", lambda step: 0.003 if 30 <= step < 45 else 0.002, steps_per_window=1)
    engine.measure(probe)
    assert len(engine.records["arm"].windows) == 25
    assert sum(undisturbed(engine.records["probe"].windows)) == 20


def test_a_machine_that_never_comes_to_rest_is_measured_for_the_time_allowed() -> None:
    machine = Machine()
    engine = machine.engine(Effort(launches=1, rounds=20, patience_seconds=2.4))
    engine.add(machine.arm("arm", lambda _: 0.03))
    asked: list[bool] = []

    def others_were_quicker(quickest: float, only_replaces: bool) -> Grant:
        asked.append(only_replaces)
        return Grant(min(quickest, 0.001))

    engine.measure(machine.arm("probe", lambda _: 0.002, steps_per_window=1), others_were_quicker)
    assert len(engine.records["arm"].windows) == pytest.approx(20 + 2.4 / 0.06, abs=1), "with the steps before"
    assert asked == [False] * TURNS + [True] * 5


def test_a_measurement_that_is_asked_to_end_keeps_whole_rounds() -> None:
    machine = Machine()
    engine = machine.engine()
    for name in ("a", "b"):
        engine.add(machine.arm(name, lambda _: 0.03))
    grants = iter([Grant(), Grant(), Grant(finish=True)])
    engine.measure(take_turn=lambda *_: next(grants))
    assert [len(record.windows) for record in engine.records.values()] == [2 * ROUNDS_PER_TURN] * 2


def test_short_windows_begin_with_warm_caches() -> None:
    """By a step that is not timed: before each short window, and in each turn before one that is not long."""
    machine = Machine()
    engine = machine.engine()
    engine.add(machine.arm("short", lambda _: 0.003))
    engine.add(machine.arm("longer", lambda _: 0.11))
    engine.add(machine.arm("long", lambda _: 0.5))
    machine.taken.clear()
    engine.measure()
    assert machine.taken.count("short") == 11 * EFFORT.rounds
    assert machine.taken.count("longer") == EFFORT.rounds + TURNS
    assert machine.taken.count("long") == EFFORT.rounds
    assert engine.records["short"].windows == pytest.approx([0.03] * EFFORT.rounds)


def test_parts_are_those_of_windows_and_not_of_the_step_before() -> None:
    machine = Machine()
    engine = machine.engine()
    told: list[str] = []

    def parts() -> dict[str, float]:
        told.append("parts")
        return {"part": 0.001}

    engine.add(machine.arm("arm", lambda _: 0.03, parts=parts, forget=lambda: told.append("forget")))
    told.clear()
    engine.measure()
    assert told.count("parts") == EFFORT.rounds
    assert told.count("forget") == EFFORT.rounds
    assert told[-2:] == ["forget", "parts"]
