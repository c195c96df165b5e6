"""How settings are measured beside the default: what is noted of them, and who is blamed for a failure."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.race.measure import ContenderError
from bench.race.record import Launch
from bench.suite.cases import Case
from bench.suite.machine import Machine, fits_digits
from bench.tune import measure
from bench.tune.measure import LEAST_STALL_SECONDS, TurnMeasures, _judged
from bench.tune.options import TuneSettings
from bench.tune.search import Failed, Heat
from bench.turns.ranks import PairError
from tests.bench.race_records import race_of

DEFAULT = Case(recipe="mlp")
SETTINGS = [replace(DEFAULT, precision=precision) for precision in ("bf16", "fp16", "tf32")]
MACHINE = Machine(num_cores=2, num_gpus=0, processes_at_once=8)

Fails = Callable[[Sequence[Case]], str]
"""Returns the letter of the contender that fails in a launch of these, or ""."""


class StubSide:
    """A side that does as it is told, or fails."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    def ask(self, command: Any) -> list[Any]:
        if self.fails:
            raise PairError("a", "out of memory")
        return [command]

    def run(self, num_steps: int) -> None:
        pass


def measures_of(
    monkeypatch: pytest.MonkeyPatch, root: Path, fails: Fails = lambda _: "", *, seconds: float = 600.0
) -> tuple[TurnMeasures, list[list[Case]]]:
    """Return measures without processes, and what every launch measured."""
    launched: list[list[Case]] = []

    class StubLaunches:
        def __init__(self, race: Any, *_: Any) -> None:
            self.race = race

        def measure(self) -> Launch:
            cases = [one.case for one in self.race.contenders.values()]
            launched.append(cases)
            if letter := fails(cases):
                raise PairError(letter, "out of memory")
            return race_of(*[[0.1]] * (len(cases) - 1)).launches[0]

    @contextmanager
    def alone(place: Any, letters: Sequence[str], *_: Any) -> Iterator[dict[str, StubSide]]:
        yield {letter: StubSide(fails=bool(fails([DEFAULT]))) for letter in letters}

    monkeypatch.setattr(measure, "Launches", StubLaunches)
    monkeypatch.setattr(measure, "processes", alone)
    monkeypatch.setattr(measure, "replace", lambda thing, **changes: thing)
    settings = TuneSettings(DEFAULT, {}, MACHINE)
    return TurnMeasures(settings, root, time.monotonic() + seconds, lambda _: None), launched


def test_a_heat_notes_the_quads_that_were_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measures, _ = measures_of(monkeypatch, tmp_path)
    assert measures.heat(SETTINGS[:1], 24) == {SETTINGS[0]: Heat(3, pytest.approx(0.1))}


def test_a_setting_keeps_its_compilers_cache_whichever_letter_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measures, _ = measures_of(monkeypatch, tmp_path)
    caches = [{measures.place(setting).cache(letter) for letter in "bcd"} for setting in SETTINGS]
    assert [len(of_setting) for of_setting in caches] == [1, 1, 1]
    assert len(set.union(*caches)) == 3


def test_settings_for_which_the_time_is_over_have_no_heat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measures, launched = measures_of(monkeypatch, tmp_path, seconds=0.0)
    measures.settings = TuneSettings(DEFAULT, {}, replace(MACHINE, processes_at_once=2))
    assert list(measures.heat(SETTINGS, 24)) == SETTINGS[:1]
    assert launched == [[DEFAULT, SETTINGS[0]]]


def test_a_default_that_fails_beside_many_is_measured_beside_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measures, launched = measures_of(monkeypatch, tmp_path, lambda cases: "a" if len(cases) > 2 else "")
    outcomes = measures.heat(SETTINGS[:2], 24)
    assert [type(outcome) for outcome in outcomes.values()] == [Heat, Heat]
    assert [len(cases) for cases in launched] == [3, 2, 2]


def test_a_setting_beside_which_the_default_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measures, _ = measures_of(monkeypatch, tmp_path, lambda cases: "a" if SETTINGS[1] in cases else "")
    outcomes = measures.heat(SETTINGS[:2], 24)
    assert isinstance(outcomes[SETTINGS[0]], Heat)
    failure = outcomes[SETTINGS[1]]
    assert isinstance(failure, Failed)
    assert failure.reason == "the default failed beside it: out of memory"


def test_a_default_that_fails_by_itself_ends_the_tuning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measures, launched = measures_of(monkeypatch, tmp_path, lambda _: "a")
    with pytest.raises(ContenderError, match="the default setting: out of memory"):
        measures.heat(SETTINGS[:2], 24)
    assert len(launched) == 1


def test_a_default_has_its_time_to_start_by_itself_however_little_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it, all that was measured would be lost."""
    measures, _ = measures_of(monkeypatch, tmp_path, lambda _: "a", seconds=5.0)
    awaited: list[float] = []
    monkeypatch.setattr(measures, "require_default", awaited.append)
    measures.heat(SETTINGS[:1], 24)
    assert awaited == [measures.settings.stall_seconds]


def test_a_default_whose_losses_are_not_finite_ends_the_tuning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measures, _ = measures_of(monkeypatch, tmp_path)
    lost = {"last_losses": {"step": 700, "values": {"loss_g": None}}}
    monkeypatch.setattr(measure.Launches, "measure", lambda _: race_of([0.1], a=lost).launches[0])
    with pytest.raises(ContenderError, match="the default setting: not finite: loss_g"):
        measures.heat(SETTINGS[:1], 24)


def test_a_default_whose_losses_are_not_finite_in_the_final_race_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The race takes more steps than the heats before it."""
    lost = {"last_losses": {"step": 700, "values": {"loss_g": None}}}
    best = SimpleNamespace(log_ratio=-0.2)
    monkeypatch.setattr(measure, "Search", lambda *_: SimpleNamespace(run=lambda: best))
    monkeypatch.setattr(measure, "_final_race", lambda *_: race_of([-0.2] * 6, a=lost))
    with pytest.raises(ContenderError, match="the default setting: not finite: loss_g"):
        measure.tune_recipe(TuneSettings(DEFAULT, {}, MACHINE), tmp_path, lambda _: None)


def test_a_default_that_fails_again_by_itself_after_a_final_race_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise ContenderError("the default setting: out of memory")

    ended = replace(race_of([-0.2] * 6), failed_launches=("plain: it died",) * 2)
    best = SimpleNamespace(log_ratio=-0.2)
    monkeypatch.setattr(measure, "Search", lambda *_: SimpleNamespace(run=lambda: best))
    monkeypatch.setattr(measure, "_final_race", lambda *_: ended)
    monkeypatch.setattr(measure.TurnMeasures, "require_default", fail)
    with pytest.raises(ContenderError, match="the default setting: out of memory"):
        measure.tune_recipe(TuneSettings(DEFAULT, {}, MACHINE), tmp_path, lambda _: None)


@pytest.mark.parametrize(("seconds", "waits"), [(5.0, LEAST_STALL_SECONDS), (100.0, 100.0), (9e9, 600.0)])
def test_no_answer_is_awaited_longer_than_the_search_may_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float, waits: float
) -> None:
    """Neither in a heat nor by the judge."""
    awaited: list[float] = []
    measures, _ = measures_of(monkeypatch, tmp_path, seconds=seconds)

    def note(thing: Any, **changes: float) -> Any:
        awaited.extend([changes["answer_seconds"]] if isinstance(thing, StubSide) else [])
        return thing

    monkeypatch.setattr(measure, "replace", note)
    monkeypatch.setattr(measure, "_judged", lambda case: case)
    monkeypatch.setattr(StubSide, "ask", lambda self, command: [])
    monkeypatch.setattr(measure, "worst_checks", lambda ranks: [])
    assert measures.judge(DEFAULT) == ()
    assert awaited == [pytest.approx(waits, abs=1)]


@pytest.mark.parametrize("scaling", ["weak", "strong"])
@pytest.mark.parametrize("recipe", ["mlp", "wgan", "dcgan"])
def test_what_is_judged_fits_the_digits(recipe: str, scaling: str) -> None:
    for num_processes in (1, 2, 24, 29, 43, 64):
        case = Case(recipe=recipe, num_processes=num_processes, scaling=scaling, batch_size=128, accumulate=2)
        judged = _judged(case)
        assert fits_digits(judged)
        assert judged.batch_per_process >= 1
        assert scaling == "weak" or judged.batch_size % num_processes == 0
