"""A race: its arithmetic, and how launches are measured."""

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest

from bench.race.contenders import Contender, in_order
from bench.race.launch import Launches, MemoryGuard
from bench.race.load import CpuTimes
from bench.race.measure import ContenderError, measure_race
from bench.race.options import RaceSettings
from bench.race.record import Duel, Entry, RaceRecord
from bench.race.standing import Ratio, failures_of, standings_of
from bench.race.summary import notes_of, show_race
from bench.suite.cases import Case
from bench.turns import messages as m
from bench.turns.ranks import PairError
from tests.bench.race_records import NOISE, SLOWER, race_of

Command = Callable[..., tuple[int, str, str]]


# The arithmetic.


def test_a_contender_with_twice_the_step_time_takes_twice_the_time() -> None:
    duel = Duel((3, 2), ("ABBA", "BAAB"), ((0.012,) * 4, (0.016,) * 4))
    assert duel.log_ratio((64, 64)) == pytest.approx(math.log(2), abs=1e-12)
    assert duel.log_ratio((64, 128)) == pytest.approx(0, abs=1e-12), "with twice the images it is as quick"
    ratio = Ratio.of([duel.log_ratio((64, 64))] * 8)
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((2, 2, 2), abs=1e-12)


def test_a_drift_of_the_machine_within_a_quad_is_no_difference() -> None:
    """Each window takes 10 % longer than the one before, and both contenders are alike."""
    at = [0.01 * 1.1**index for index in range(8)]
    abba, baab = at[:4], at[4:]
    first = (abba[0], abba[3], baab[1], baab[2])
    other = (abba[1], abba[2], baab[0], baab[3])
    assert Duel((1, 1), ("ABBA", "BAAB"), (first, other)).log_ratio((8, 8)) == pytest.approx(0, abs=1e-9)


def test_the_interval_covers_the_ratio_as_often_as_it_says() -> None:
    """An exact 95 % interval of eight pairs errs in at most 5 % of races, whatever the noise looks like."""
    draw = random.Random(0)
    noises: list[Callable[[], float]] = [
        lambda: draw.gauss(0, 0.01),
        lambda: draw.choice([-1, 1]) * draw.expovariate(50) ** 2 * 10,
    ]
    for noise in noises:
        covered = 0
        for _ in range(1000):
            ratio = Ratio.of([math.log(1.3) + noise() for _ in range(8)])
            covered += ratio.low <= 1.3 <= ratio.high
        assert 0.945 < covered / 1000 < 0.98


def test_too_few_pairs_have_no_interval() -> None:
    assert not Ratio.of(SLOWER[:5]).has_interval
    assert Ratio.of(SLOWER[:6]).has_interval
    assert Ratio.of(SLOWER[:1]).estimate == pytest.approx(2, rel=0.01)


def test_each_contender_is_compared_with_the_first() -> None:
    first, plain, mine = standings_of(race_of(SLOWER, NOISE))
    assert first.ratio is None
    assert plain.ratio
    assert mine.ratio
    assert plain.ratio.estimate == pytest.approx(2, rel=2e-3)
    assert plain.ratio.is_different
    assert not mine.ratio.is_different
    assert first.step_seconds == 0.006
    assert plain.step_seconds == pytest.approx(0.012, rel=0.01)
    assert first.images_per_second == pytest.approx(64 / 0.006)


def test_ratios_are_of_the_time_per_image() -> None:
    record = race_of(SLOWER, b={"images_per_step": 256})
    _, other = standings_of(record)
    assert other.ratio
    assert other.ratio.estimate == pytest.approx(2, rel=2e-3)
    assert other.step_seconds == pytest.approx(0.006 * 2 * 4, rel=0.01)
    assert "images of a step differ (core 64, plain 256)" in " ".join(notes_of(record, standings_of(record)))


# Launches.


class FakeSide:
    """Answers as the processes of a contender would."""

    def __init__(self, letter: str, step_seconds: float, images: Any = 8, losses: Any = None) -> None:
        self.letter, self.step_seconds, self.images, self.losses = letter, step_seconds, images, losses
        self.num_steps, self.windows, self.held_bytes = 0, [], 2**20
        self.answer: Any = None
        self.told: list[Any] = []

    def send(self, command: m.SideCommand[Any]) -> None:
        self.num_steps += isinstance(command, m.Prepare)
        self.told.append(command if isinstance(command, m.Spin) else type(command))
        self.answer = {
            m.Hello: m.Greeting((), {"python": "3", "gpus": []}),
            m.Prepare: m.Prepared(1.5, {"device": "cpu"}, self.images, {"G": 5}),
            m.Spin: m.Done(),
        }[type(command)]

    def ask(self, command: m.SideCommand[Any]) -> list[Any]:
        return [m.Memory(1000) if isinstance(command, m.ReadMemory) else m.Losses(self.losses)]

    def run(self, num_steps: int) -> m.Window:
        self.num_steps += num_steps
        self.windows.append(num_steps)
        TURNS.append(self.letter)
        return m.Window(num_steps * self.step_seconds, 0)

    def resident_bytes(self) -> int:
        return self.held_bytes


TURNS: list[str] = []


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launches]:
    """Return what measures launches of these sides, whose contenders are `core` in cases of their own."""

    def launches_of(*sides: FakeSide, **settings: Any) -> Launches:
        @contextmanager
        def processes(_: object, letters: tuple[str, ...], *__: object) -> Iterator[dict[str, FakeSide]]:
            yield {letters[0]: by_letter[letters[0]]}

        by_letter = {side.letter: side for side in sides}
        TURNS.clear()
        monkeypatch.setattr("bench.race.launch.processes", processes)
        monkeypatch.setattr("bench.race.launch.replace", lambda side, **changes: _replaced(side, changes))
        answers = {"answers_of_all": lambda sides: {name: [side.answer] for name, side in sides.items()}}
        monkeypatch.setattr("bench.race.launch.answers_of_all", answers["answers_of_all"])
        monkeypatch.setattr("bench.turns.ranks.answers_of_all", answers["answers_of_all"])
        contenders = in_order([Contender(Case(batch_size=8 + index)) for index in range(len(sides))])
        chosen = RaceSettings(contenders, **{"most_quads": 12, "num_pairs": 2, **settings})
        return Launches(chosen, dict.fromkeys(contenders), random.Random(0))  # type: ignore[arg-type]

    return launches_of


def _replaced(value: Any, changes: dict[str, Any]) -> Any:
    return value if isinstance(value, FakeSide) else type(value)(**{**vars(value), **changes})


def test_windows_hold_whole_periods(launches: Callable[..., Launches]) -> None:
    """b takes 1 ms, and 12 ms more in one step of four: 4 ms on average, as a does."""

    class Lazy(FakeSide):
        def send(self, command: m.SideCommand[Any]) -> None:
            super().send(command)
            if isinstance(command, m.Prepare):
                self.answer = m.Prepared(1.5, {"device": "cpu"}, self.images, {"G": 5}, period=4)

        def run(self, num_steps: int) -> m.Window:
            steps = range(self.num_steps, self.num_steps + num_steps)
            seconds = super().run(num_steps).seconds
            return m.Window(seconds + sum(0.012 for step in steps if step % 4 == 0), 0)

    launch = launches(FakeSide("a", 0.004), Lazy("b", 0.001)).measure()
    assert launch.duels["b"].steps_per_window == (4, 4)
    assert launch.duels["b"].step_seconds(1) == pytest.approx([0.004] * len(launch.duels["b"].windows[1]))
    assert launch.log_ratio("b") == pytest.approx(0.0, abs=1e-12)
    assert (launch.entries["a"].period, launch.entries["b"].period) == (1, 4)
    early = {entry.early_losses.step for entry in launch.entries.values()}
    assert len(early) == 1, "losses of different steps would not be comparable"
    stored = json.loads(json.dumps(asdict(launch.entries["b"])))
    assert Entry.parse(stored).period == 4
    del stored["period"]
    assert Entry.parse(stored).period == 1, "a record from before"


def test_contenders_take_turns_in_quads_of_random_order(launches: Callable[..., Launches]) -> None:
    sides = [FakeSide("a", 0.004), FakeSide("b", 0.002), FakeSide("c", 0.03)]
    launch = launches(*sides).measure()
    assert set(launch.duels) == {"b", "c"}
    assert launch.duels["b"].steps_per_window == (3, 6), "windows are about equally long"
    assert launch.duels["c"].steps_per_window == (8, 1)
    assert {order for duel in launch.duels.values() for order in duel.orders} == {"ABBA", "BAAB"}
    assert launch.log_ratio("b") == pytest.approx(math.log(0.5))
    assert launch.log_ratio("c") == pytest.approx(math.log(7.5))
    quads = re.sub("c(c+)|a(a+)", r"\1\2", "".join(TURNS))
    assert quads.endswith("".join({"ABBA": "acca", "BAAB": "caac"}[order] for order in launch.duels["c"].orders))
    entry = launch.entries["c"]
    assert (entry.images_per_step, entry.startup_seconds, entry.num_parameters) == (8, 1.5, {"G": 5})


def test_losses_are_read_after_the_same_number_of_steps(launches: Callable[..., Launches]) -> None:
    sides = [FakeSide("a", 0.004, losses={"d": 0.5}), FakeSide("b", 0.03)]
    race = launches(*sides)
    first, second = race.measure(), race.measure()
    steps = {entry.early_losses.step for launch in (first, second) for entry in launch.entries.values()}
    assert steps == {1 + 20 + 19}, "0.6 s of the slowest in every launch; 19 windows begin with warm caches"
    assert first.entries["a"].early_losses.values == {"d": 0.5}
    assert first.entries["b"].early_losses.values is None
    taken = {side.letter: side.num_steps for side in sides}
    for letter, num_steps in taken.items():
        assert first.entries[letter].last_losses.step + second.entries[letter].last_losses.step == num_steps


def test_threads_spin_less_while_contenders_start_at_once(launches: Callable[..., Launches]) -> None:
    """As sides of a check do: the threads of one take cores that those of another need."""
    sides = [FakeSide("a", 0.004), FakeSide("b", 0.004)]
    launches(*sides).measure()
    for side in sides:
        assert side.told == [m.Hello, m.Spin(less=True), m.Prepare, m.Spin(less=False)]


def test_who_starts_first_is_drawn(launches: Callable[..., Launches]) -> None:
    race = launches(FakeSide("a", 0.004), FakeSide("b", 0.004), FakeSide("c", 0.004))
    assert len({race.measure().started for _ in range(20)}) > 3


@pytest.mark.parametrize("images", [0, -3, "64", 2.5])
def test_a_step_takes_images(images: Any, launches: Callable[..., Launches]) -> None:
    race = launches(FakeSide("a", 0.004), FakeSide("b", 0.004, images=images))
    with pytest.raises(PairError, match="it must be a whole number of at least 1") as caught:
        race.measure()
    assert caught.value.side == "b"


def test_cores_that_others_take_are_counted_apart_from_the_race_s() -> None:
    before = CpuTimes(seconds=100.0, busy_seconds=50.0, own_seconds=10.0, stolen_seconds=1.0)
    after = CpuTimes(seconds=110.0, busy_seconds=65.0, own_seconds=20.0, stolen_seconds=3.0)
    assert after.cores_since(before) == (0.5, 0.2)
    now = CpuTimes.now()
    assert sum(range(2_000_000))
    assert CpuTimes.now().own_seconds > now.own_seconds


def test_who_takes_all_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    sides: dict[str, Any] = {"a": FakeSide("a", 0.1), "b": FakeSide("b", 0.1)}
    guard = MemoryGuard(sides)
    sides["a"].held_bytes, sides["b"].held_bytes = 2**21, 2**30
    guard.check()
    monkeypatch.setattr("bench.race.launch.LEAST_FREE_BYTES", 2**60)
    with pytest.raises(
        PairError, match="runs out of memory; it holds 1,024 MiB, and 1 MiB when it was warm"
    ) as end:
        guard.check()
    assert end.value.side == "b"


def test_a_launch_that_fails_is_measured_again_and_a_second_one_ends_the_race(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = race_of(SLOWER)
    contenders = in_order([Contender(Case()), Contender(Case(subject="plain"))])

    def race(*outcomes: Any) -> RaceRecord:
        left = iter(outcomes)

        def measure(_: Launches) -> Any:
            outcome = next(left)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        monkeypatch.setattr("bench.race.measure.Launches.measure", measure)
        return measure_race(RaceSettings(contenders, num_pairs=3), {}, lambda _: None)

    good, bad = record.launches[0], PairError("b", "it died")
    measured = race(good, bad, good, good)
    assert len(measured.launches) == 3
    assert measured.failed_launches == ("plain: it died",)
    with pytest.raises(ContenderError, match=r"^plain: it died$"):
        race(bad)
    ended = race(good, bad, PairError("b", "it died again"))
    assert ended.launches == (good,), "what was measured is kept"
    failure = "a second launch failed, which ended the race after 1 of 3 launch pairs: plain: it died again"
    assert failures_of(ended) == [failure]
    assert show_race(ended) == 1
    notes = notes_of(ended, standings_of(ended))
    assert notes[0] == failure
    assert "a launch pair failed and was measured again: plain: it died" in notes
    assert not any("--budget" in note or "again: plain: it died again" in note for note in notes)


def test_a_budget_ends_a_race_with_the_pairs_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = race_of(SLOWER).launches[0]
    monkeypatch.setattr("bench.race.measure.Launches.measure", lambda _: launch)
    contenders = in_order([Contender(Case()), Contender(Case(subject="plain"))])
    record = measure_race(RaceSettings(contenders, num_pairs=9, budget_seconds=10), {}, lambda _: None)
    assert len(record.launches) == 1, "it takes 15 s"
    notes = " ".join(notes_of(record, standings_of(record)))
    assert "--budget ended the race after 1 of 9 launch pairs: raise it" in notes
