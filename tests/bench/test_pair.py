"""Launch pairs: turns, quads, extra work, ranks."""

import contextlib
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from bench.harness.windows import time_window
from bench.regress.pair import LaunchPairs, ask_both, launched_together
from bench.regress.sides import Both
from bench.regress.trees import Trees
from bench.regress.windows import CaseWindows
from bench.suite.cases import Case
from bench.turns import messages as m
from bench.turns.quads import plan_for
from bench.turns.ranks import PairError, SideRanks, answers_of, processes
from bench.turns.side import MeasuredSide
from bench.turns.specs import spec_of
from tests.bench.check_processes import Deaths
from tests.bench.regress_records import CASE, NAME
from tests.conftest import ROOT
from tests.test_layout import MODULES, imported, name_of


def test_a_clock_that_is_set_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair takes 12 s, while the time of day goes back by an hour."""
    wall, monotonic = iter([7200.0, 3600.0, 0.0]), iter([100.0, 112.0])
    clocks = SimpleNamespace(time=lambda: next(wall), monotonic=lambda: next(monotonic))
    monkeypatch.setattr("bench.regress.pair.time", clocks)
    monkeypatch.setattr("bench.regress.pair.processes", lambda *_: contextlib.nullcontext({}))
    answer = SimpleNamespace(environment={}, startup_seconds=3.0)
    monkeypatch.setattr("bench.regress.pair.ask_both", lambda *_: Both([answer], [answer]))
    pair = launch_pairs().measure({NAME: CASE}, [])
    assert (pair.seconds, pair.time, pair.startup_seconds) == (12, 7200, Both(3.0, 3.0))
    monkeypatch.setattr("bench.turns.side.time", SimpleNamespace(monotonic=lambda: 108.0))
    assert MeasuredSide(m.Start(0, 0, 100.0, str(ROOT)))._import_seconds == 8


def test_which_side_starts_first_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.regress.pair.processes", lambda *_: contextlib.nullcontext({}))
    answer = SimpleNamespace(environment={}, startup_seconds=3.0)
    monkeypatch.setattr("bench.regress.pair.ask_both", lambda *_: Both([answer], [answer]))
    pairs = launch_pairs()
    started = {pairs.measure({NAME: CASE}, []).started for _ in range(20)}
    assert started == {("base", "head"), ("head", "base")}


def test_threads_spin_less_while_both_sides_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side's threads take cores that the other's need; alone, a side spins as the check has seen fit."""
    told: list[Any] = []

    def ask(_: object, command: m.SideCommand[Any]) -> Both[list[Any]]:
        told.append(command if isinstance(command, m.Spin) else type(command))
        answer = SimpleNamespace(environment={}, startup_seconds=3.0)
        return Both([answer], [answer])

    def measure_case(*_: object) -> CaseWindows:
        told.append("windows")
        return CaseWindows(*[Both({}, {})] * 3, {}, (), Both((), ()))  # type: ignore[arg-type]

    monkeypatch.setattr("bench.regress.pair.processes", lambda *_: contextlib.nullcontext({}))
    monkeypatch.setattr("bench.regress.pair.ask_both", ask)
    monkeypatch.setattr(LaunchPairs, "_measure_case", measure_case)
    pairs = launch_pairs()
    for contended in (False, True):
        told.clear()
        pairs._contention.contended = contended
        pairs.measure({NAME: CASE}, [NAME])
        assert told == [m.Hello, m.Spin(less=True), m.Prepare, m.Spin(less=contended), "windows", m.Drop]


def test_the_algorithm_is_judged_without_a_step_of_training_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would compile another program than the one that is judged, which takes float64."""

    def take_step(*_: object) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr("gan.surface.take_step", take_step)
    side = MeasuredSide(m.Start(0, 0, 0.0, str(ROOT)))
    answer = side.obey(m.JudgeSemantics(spec_of(Case(recipe="mlp-compact"))))
    assert [check["passed"] for check in answer.checks] == [True] * 5


class FakeSide:
    """Answers as a process would whose steps take their time; the compiler runs in one window."""

    ANSWERS: ClassVar = {
        m.ReadMemory: [m.Memory(1000), m.Memory(900)],
        m.Calibrate: [m.Calibration(70, 0.001, 0.01), m.Calibration(71, 0.001, 0.01)],
        m.Inject: [m.Done(), m.Done()],
    }

    def __init__(self, seconds_per_step: float, compiles_in: int = -1) -> None:
        self.seconds_per_step, self.compiles_in = seconds_per_step, compiles_in
        self.windows: list[int] = []
        self.told: list[m.SideCommand[Any]] = []

    def ask(self, command: m.SideCommand[Any]) -> list[Any]:
        self.told.append(command)
        return self.ANSWERS[type(command)]

    def run(self, num_steps: int) -> m.Window:
        self.windows.append(num_steps)
        return m.Window(num_steps * self.seconds_per_step, int(len(self.windows) == self.compiles_in))


def launch_pairs(**injected: float) -> LaunchPairs:
    return LaunchPairs(Trees(Path(), Both("", "")), random.Random(0), most_quads=9, injected=injected)


def measured(sides: dict[str, Any], pairs: LaunchPairs | None = None) -> CaseWindows:
    return (pairs or launch_pairs())._measure_case(
        sides, "it", Both(m.Prepared(2.0, {}), m.Prepared(2.0, {})), num_cases=1
    )


def test_both_sides_take_the_same_steps_in_quads_of_random_order() -> None:
    sides = {"base": FakeSide(0.004), "head": FakeSide(0.006)}
    pairs = launch_pairs()
    case = measured(sides, pairs)
    assert sides["base"].windows.count(3) == sides["head"].windows.count(3) == 2 * 9
    assert set(case.orders) == {"ABBA", "BAAB"}
    assert case.steps_per_window == Both(3, 3)
    assert case.log_ratio == pytest.approx(math.log(1.5))
    later = {"base": FakeSide(0.004), "head": FakeSide(0.006)}
    measured(later, pairs)
    assert later["base"].windows.count(3) == later["head"].windows.count(3) > 60, "now it warms up first"


def test_quads_use_the_time_there_is_although_steps_with_cold_caches_take_longer() -> None:
    """A step takes 12 ms, and 20 more after the other side. 3 s hold 38 quads with a step before each turn."""
    last: list[Any] = []

    class ColdSide(FakeSide):
        def run(self, num_steps: int) -> m.Window:
            cold = 0.0 if last[-1:] == [self] else 0.02
            last.append(self)
            return replace(super().run(num_steps), seconds=num_steps * 0.012 + cold)

    pairs = replace(launch_pairs(), most_quads=80)
    case = measured({"base": ColdSide(0.012), "head": ColdSide(0.012)}, pairs)
    assert len(case.orders) == int(3 / (6.5 * 0.012)) == 38
    assert [*case.windows.base, *case.windows.head] == pytest.approx([0.012] * 152)


def test_windows_hold_whole_periods_of_either_side() -> None:
    """BASE may be a revision that does not say, or has no lazy penalty yet."""
    sides = {"base": FakeSide(0.001), "head": FakeSide(0.001)}
    prepared = Both(m.Prepared(2.0, {}), m.Prepared(2.0, {}, period=4))
    case = launch_pairs()._measure_case(sides, "it", prepared, num_cases=1)  # type: ignore[arg-type]
    assert (case.steps_per_window, case.period) == (Both(12, 12), 4)
    assert {*sides["base"].windows, *sides["head"].windows} == {4, 12, 1}, "1 fills the caches"
    assert sides["base"].windows.count(12) == 2 * 9, "200 windows of 4 ms have warmed it up"
    quick = {"base": FakeSide(0.001), "head": FakeSide(0.001)}
    measured(quick)
    assert quick["base"].windows.count(13) == 2 * 9 + 46, "200 ms were not enough"
    assert measured({"base": FakeSide(0.001), "head": FakeSide(0.001)}).period == 1


def test_a_compiler_inside_a_window_spoils_the_pair() -> None:
    counting = {"base": FakeSide(0.004), "head": FakeSide(0.004)}
    measured(counting)
    windows = len(counting["head"].windows)
    with pytest.raises(PairError, match="HEAD: it compiled again inside a window of quad 9"):
        measured({"base": FakeSide(0.004), "head": FakeSide(0.004, compiles_in=windows)})
    measured({"base": FakeSide(0.004), "head": FakeSide(0.004, compiles_in=3)})  # while it warms up


def test_extra_work_is_measured_once_and_the_same_in_every_pair() -> None:
    pairs = launch_pairs(head=0.05)
    for calibrated in (True, False):
        sides = {"base": FakeSide(0.004), "head": FakeSide(0.004)}
        case = measured(sides, pairs)
        calibration = [m.Calibrate(0.05, 9)] if calibrated else []
        assert sides["head"].told == [m.ReadMemory(), *calibration, m.Inject(70)]
        assert sides["base"].told == [m.ReadMemory()]
        seconds = {"product_seconds": 0.001, "step_seconds": 0.01} if calibrated else {}
        assert case.injected == {"head": {"products": 70, **seconds}}


def test_extra_work_is_a_share_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which a step takes 2 s and a product 10 ms."""
    now = 0.0

    def taking(seconds: float) -> Iterator[None]:
        nonlocal now
        while True:
            now += seconds
            yield

    clock = partial(time_window, timer=lambda: now)
    monkeypatch.setattr("bench.turns.side.time_window", clock)
    monkeypatch.setattr("bench.turns.side.small_products", lambda device: taking(0.01))
    side = MeasuredSide(m.Start(0, 0, 0.0, str(ROOT)))
    side._steps = taking(2.0)
    calibration = side.calibrate(0.05, 12)
    assert asdict(calibration) == pytest.approx({"products": 10, "product_seconds": 0.01, "step_seconds": 2.0})
    side.obey(m.Inject(calibration.products))
    assert side.run(3).seconds == pytest.approx(3 * 2.1)


def test_extra_work_is_a_share_of_a_step_although_a_few_products_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a clock by which a step takes 2 s, the products after it 20 ms more than 10 ms each."""
    now = 0.0
    last = ""

    def taking(what: str, seconds: float, first: float = 0.0) -> Iterator[None]:
        nonlocal now, last
        while True:
            now += seconds + (first if last != what else 0.0)
            last = what
            yield

    monkeypatch.setattr("bench.turns.side.time_window", partial(time_window, timer=lambda: now))
    monkeypatch.setattr("bench.turns.side.small_products", lambda device: taking("product", 0.01, 0.02))
    side = MeasuredSide(m.Start(0, 0, 0.0, str(ROOT)))
    side._steps = taking("step", 2.0)
    calibration = side.calibrate(0.05, 12)
    assert calibration.products == 8
    side.obey(m.Inject(calibration.products))
    assert side.run(3).seconds == pytest.approx(3 * 2.1)


def test_extra_work_that_seems_to_be_free_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another program holds up the steps without it: products take 10 ms, but nothing beside a step."""
    now = 0.0
    has_steps = False

    def steps() -> Iterator[None]:
        nonlocal now, has_steps
        while True:
            now += 2.0
            has_steps = True
            yield

    def products() -> Iterator[None]:
        nonlocal now
        while True:
            now += 0.0 if has_steps else 0.01
            yield

    monkeypatch.setattr("bench.turns.side.time_window", partial(time_window, timer=lambda: now))
    monkeypatch.setattr("bench.turns.side.small_products", lambda device: products())
    side = MeasuredSide(m.Start(0, 0, 0.0, str(ROOT)))
    side._steps = steps()
    assert side.calibrate(0.05, 12).products == 80


class FakeRank:
    """Has its answers ready, or dies."""

    def __init__(self, *answers: Any) -> None:
        self.side, self.rank_label, self.answers = "head", "", list(answers)
        self.reading, self.writing = os.pipe()
        self.told: list[m.SideCommand[Any]] = []

    def fileno(self) -> int:
        return self.reading

    def send(self, command: m.SideCommand[Any]) -> None:
        self.told.append(command)
        os.write(self.writing, b".")

    def require_well(self) -> None:
        pass

    def receive(self) -> Any:
        os.read(self.reading, 1)
        return self.answers.pop(0)


def test_whichever_process_fails_first_ends_the_pair() -> None:
    """BASE has not answered yet, and HEAD's first rank waits for the one that died."""

    class Silent(FakeRank):
        def send(self, command: m.SideCommand[Any]) -> None:
            self.told.append(command)

    class Dead(FakeRank):
        def receive(self) -> Any:
            raise PairError("head", "rank 1: its process ended with code 7")

    sides = {"base": SideRanks([Silent(), Silent()]), "head": SideRanks([Silent(), Dead()])}  # type: ignore[list-item]
    with pytest.raises(PairError, match="HEAD: rank 1: its process ended with code 7"):
        ask_both(sides, m.Drop())
    answers = {"base": SideRanks([FakeRank(1), FakeRank(2)]), "head": SideRanks([FakeRank(3), FakeRank(4)])}  # type: ignore[list-item]
    assert ask_both(answers, m.Drop()) == Both([1, 2], [3, 4])


def test_a_process_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.turns.ranks.ANSWER_SECONDS", 0.05)
    ranks = [FakeRank(1), FakeRank(2)]
    ranks[0].send(m.Drop())
    ranks[1].rank_label = "rank 1: "
    with pytest.raises(PairError, match=r"HEAD: rank 1: no answer for 0\.05 s; all were ended"):
        answers_of(ranks)  # type: ignore[arg-type]


@pytest.mark.multiprocess
def test_all_processes_of_a_pair_are_ended_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bench.turns.ranks.SIDE_PROCESS", (sys.executable, "-c", "import time; time.sleep(60)"))
    here: dict[str, Any] = {"root": tmp_path, "code": ROOT, "has_gan": False, "working_tree": None}
    places: Any = SimpleNamespace(**here, tree=lambda side: tmp_path, cache=lambda side: tmp_path)
    deaths = Deaths(monkeypatch)
    with processes(places, ("base", "head"), "cpu", 2) as sides:
        assert [len(side.ranks) for side in sides.values()] == [2, 2]
    assert deaths.at_once() == 4


def test_a_window_is_as_long_as_its_slowest_rank_s() -> None:
    ranks = [FakeRank(m.Window(0.2, 0, 0.5)), FakeRank(m.Window(0.5, 1)), FakeRank(m.Window(0.3, 1, 0.25))]
    assert SideRanks(ranks).run(4) == m.Window(0.5, 2, 0.5)  # type: ignore[arg-type]
    assert all(rank.told == [m.TakeWindow(4)] for rank in ranks)


def test_cases_of_several_processes_have_launches_of_their_own() -> None:
    names = ("mlp", "mlp,num_processes=2", "quickstart", "quickstart,num_processes=2")
    cases = {name: Case(recipe=name.split(",")[0], num_processes=2 if "," in name else 1) for name in names}
    assert launched_together(cases) == [
        ["mlp", "quickstart"],
        ["mlp,num_processes=2"],
        ["quickstart,num_processes=2"],
    ]


@pytest.mark.parametrize(
    ("seconds", "cases", "plan"),
    [
        (0.001, 1, (13, 55)),
        (0.006, 1, (2, 47)),
        (0.02, 1, (1, 23)),
        (0.02, 5, (1, 13)),
        (0.1, 1, (1, 12)),
        (9, 1, (1, 12)),
    ],
)
def test_windows_are_short_and_as_many_as_there_is_time_for(
    seconds: float, cases: int, plan: tuple[int, int]
) -> None:
    quads = plan_for((seconds, seconds), 80, cases)
    assert quads.steps_per_window[0] == quads.steps_per_window[1]
    assert (quads.steps_per_window[0], quads.num_quads) == plan


@pytest.mark.parametrize(
    ("step_seconds", "steps"),
    [((0.004, 0.002), (3, 6)), ((0.12, 0.011), (1, 11)), ((0.001, 1.0), (1000, 1)), ((0.02, 0.015), (1, 1))],
)
def test_windows_of_different_steps_are_about_equally_long(
    step_seconds: tuple[float, float], steps: tuple[int, int]
) -> None:
    assert plan_for(step_seconds, 80).steps_per_window == steps


def test_both_sides_take_the_threads_that_the_user_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert spec_of(Case()).options["num_threads"] == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert spec_of(Case()).options["num_threads"] is None


@pytest.mark.multiprocess
def test_a_side_imports_nothing_of_gan_but_its_surface() -> None:
    """It runs over BASE's `gan`, which may lack anything else. The loop that stubs use does without torch, too."""
    paths = {name_of(path): path for path in MODULES}
    reached: set[str] = set()
    waiting = ["bench.turns.side"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += [other for other in imported(paths[name]) & paths.keys() if other not in reached]
    assert "bench.turns.serve" in reached
    assert not {name for name in reached if name.startswith("gan")}
    code = "import sys; import bench.turns.serve; sys.exit('torch' in sys.modules or 'gan' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
