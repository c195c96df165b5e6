"""Phases inside the real step: in the step's order, without a gap, and without touching what is computed."""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile

from bench.harness.windows import Arm, Collectives, Effort, Engine
from bench.harness.world import World
from bench.report.notes import notes
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.damage import damage
from bench.results.figures import overhead
from bench.results.phases import attribution
from bench.suite.cases import Case
from bench.workloads.attribution import PHASES, REST, Marks, attributed
from bench.workloads.trace import BACKWARD, OPTIMIZER, read_trace
from gan.recipes import RECIPES
from gan.surface import prepare
from gan.training.state import TrainState
from tests.bench.records import arm, doubt_lines, marked_phases_record, rank, record, results_file
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state

BATCH = 8
CPU = torch.device("cpu")


def steps_of(state: TrainState, name: str) -> Callable[[], None]:
    taken = inputs(name, BATCH).to(torch.float32)
    return lambda: state.record(taken.train(state, 1 / BATCH), BATCH)


def phases_in_order(name: str) -> list[str]:
    """The phases of the first step as its recipe orders them, without the rest; lazy penalties are due in it."""
    row = RECIPES[name]
    due = row.due(0)
    generator_turn = ["G forward", "G backward", "G optimizer"] * (1 + due.generator)
    discriminator_turn = ["D forward", "D backward", "D optimizer"]
    if row.generator_first:
        return ["data", *generator_turn, *discriminator_turn * row.discriminator_steps, "record"]
    turns = [
        ["fakes", *discriminator_turn * (1 + (update in due.discriminator))]
        for update in range(row.discriminator_steps)
    ]
    if row.shared_fakes:
        turns[-1][0] = "G forward"
    return ["data", *itertools.chain(*turns), *generator_turn, "record"]


@pytest.mark.parametrize(
    "name", quick_or_slow(RECIPES, quick=("mlp", "dcgan", "wgan"), slow=("wgan-gp", "stylegan2"))
)
def test_phases_are_marked_in_the_order_of_the_step(name: str, accelerator: Accelerator) -> None:
    marked: list[str] = []
    state = small_state(name, accelerator, seed=0, steps_per_epoch=2)
    step = steps_of(state, name)
    with attributed(state, marked.append):
        step()
    assert set(marked) <= set(PHASES)
    order = [phase for phase, _ in itertools.groupby(phase for phase in marked if phase != REST)]
    assert order == phases_in_order(name)


@pytest.mark.parametrize("name", quick_or_slow(RECIPES, quick=("mlp-dropout",), slow=("wgan", "stylegan2-ada")))
def test_a_marked_step_computes_the_same_and_leaves_the_state_as_it_was(
    name: str, accelerator: Accelerator
) -> None:
    weights = []
    for is_marked in (False, True):
        state = small_state(name, accelerator, seed=0, steps_per_epoch=2)
        step = steps_of(state, name)
        before = [dict(vars(owner)) for owner in (state, *state.players.values())]
        torch.manual_seed(0)
        if is_marked:
            with attributed(state, lambda _: None):
                step()
        else:
            step()
        after = [vars(owner) for owner in (state, *state.players.values())]
        for then, now in zip(before, after, strict=True):
            assert now.keys() - then.keys() <= {"_averaged"}, "which is remembered when it is first needed"
            watched = {
                "generate",
                "preview",
                "generator_loss",
                "record",
                "objective",
                "backward",
                "update",
            } & now.keys()
            assert all(now[name] is then[name] for name in watched)
        weights.append(state.tensors())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_marks_add_up_to_the_time_between_the_first_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.5, 4.0, 4.25, 9.0, 9.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    marks = Marks(CPU)
    for phase in ("data", "D forward", REST, "data", "D forward", REST):
        marks.mark(phase)
    assert marks.seconds_of(("data", "D forward", REST)) == {"data": 5.25, "D forward": 3.0, REST: 0.25}
    assert marks.seconds() == {}


def test_a_phase_that_nobody_knows_of_counts_as_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", itertools.count().__next__)
    marks = Marks(CPU)
    for phase in ("data", "another", REST):
        marks.mark(phase)
    assert marks.seconds_of(("data", "record", REST)) == {"data": 1.0, "record": 0.0, REST: 1.0}


def test_parts_of_windows_are_recorded_beside_them_and_not_those_of_the_warm_up() -> None:
    clock = [0.0]
    taken = [0]

    def steps() -> Iterator[None]:
        while True:
            clock[0] += 0.01
            taken[0] += 1
            yield

    def parts() -> dict[str, float]:
        steps_since = taken[0]
        taken[0] = 0
        return {"first": 0.004 * steps_since, "second": 0.006 * steps_since, "never": 0.0}

    effort = Effort(launches=1, rounds=12, measure_seconds=100)
    engine = Engine(effort, wait=lambda: None, timer=lambda: clock[0])
    whole = engine.add(Arm("whole", steps(), 64, parts=parts))
    engine.measure()
    first, second, never = (engine.records[name] for name in ("first", "second", "never"))
    assert len(first.windows) == len(whole.windows) == 12
    assert [sum(window) for window in zip(first.windows, second.windows, strict=True)] == pytest.approx(
        whole.windows
    )
    assert min(never.windows) > 0, "no time is none that a file may hold"
    assert (first.part_of, first.steps_per_window, whole.part_of) == ("whole", whole.steps_per_window, "")


def test_a_rank_without_a_part_in_a_window_records_no_parts_of_another() -> None:
    clock = itertools.count(step=0.01)
    collectives = Collectives(World(rank=1, size=2), maximum=lambda seconds: max(seconds, 0.01))
    engine = Engine(
        Effort(1, 12, measure_seconds=100), lambda: None, collectives=collectives, timer=lambda: next(clock)
    )
    whole = engine.add(Arm("whole", itertools.repeat(None), 64, parts=lambda: {"part": 0.001}))
    engine.add(Arm("solo", itertools.repeat(None), 64, alone=True))
    engine.measure()
    assert len(engine.records["part"].windows) == len(whole.windows) == 12


def test_shares_of_phases_add_up_to_the_untouched_step() -> None:
    divided = attribution(CaseResult.of(marked_phases_record()))
    assert divided is not None
    assert sum(phase.share for phase in divided.phases) == pytest.approx(1)
    assert sum(phase.seconds for phase in divided.phases) == pytest.approx(0.010)
    assert divided.covered == pytest.approx(0.99)
    assert divided.disturbance.estimate == pytest.approx(1.0)


def test_the_table_says_what_memory_and_products_take_of_each_phase() -> None:
    (table,) = tables([CaseResult.of(marked_phases_record())])
    rows = {row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    # 3 ms of 9.9 ms marked: 3.03 ms of the untouched step; 20 MB at 10 GB/s take 2 ms of it
    optimizer = rows["D optimizer"]
    assert (optimizer["ms"], optimizer["of the step"]) == ("3.03", "30.3%")
    assert (optimizer["memory"], optimizer["products"], optimizer["GB/s"]) == ("66.0%", "0.0%", "6.6")
    # 400 MFLOP at 200 GFLOP/s take 2 of 6.06 ms
    assert (rows["D forward"]["products"], rows["D forward"]["memory"]) == ("33.0%", "0.0%")
    assert (rows["step"]["ms"], rows["step"]["memory"], rows["step"]["products"]) == ("10.0", "20.0%", "20.0%")
    assert "phases add up to 99.0%" in " ".join(notes([CaseResult.of(marked_phases_record())]))


def test_short_phases_do_not_make_the_harness_look_slow() -> None:
    assert overhead(CaseResult.of(marked_phases_record())) == pytest.approx(1e-6 / 0.004)


@pytest.mark.parametrize(
    ("marked_seconds", "said"),
    [(0.0095, "(they are 104% of it)"), (0.0110, "(they are 90% of it)")],
)
def test_phases_that_do_not_add_up_are_said(marked_seconds: float, said: str) -> None:
    assert any(said in warning for warning in doubt_lines(CaseResult.of(marked_phases_record(marked_seconds))))


def test_marks_that_cost_much_are_said() -> None:
    phases = {"data": 0.001, "rest": 0.011}
    arms = {name: {**arm([seconds] * 12), "part_of": "attributed"} for name, seconds in phases.items()}
    first = rank(step=arm([0.010] * 12, 64), attributed=arm([0.012] * 12, 64), **arms)
    result = CaseResult.of(record(Case(workload="phases"), [first]))
    assert any("marking the phases takes long (20% of the step)" in warning for warning in doubt_lines(result))


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("data part_of", "gone", "data is a part of gone, which is not the one arm that has parts"),
        ("data part_of", "step", "which is not the one arm that has parts"),
        ("data part_of", "record", "which is not the one arm that has parts"),
        ("data steps_per_window", 2, "data has other windows than attributed, whose part it is"),
        ("data part_of", 1, "1 is not of type 'string'"),
        ("peak_update", arm([0.001] * 12), "facts lack the work of peak_update"),
    ],
)
def test_parts_belong_to_one_arm(place: str, value: object, complaint: str) -> None:
    whole = marked_phases_record()
    assert damage(results_file(whole)) is None
    part = whole["launches"][0]["ranks"][0]["arms"]
    *way, last = place.split()
    for key in way:
        part = part[key]
    part[last] = value
    assert complaint in (damage(results_file(whole)) or "")


def parts_by_profiler(name: str, events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each player's backward passes and updates, as a trace has them.

    An update follows its backward pass, and the recipe says in which order the players update.
    """
    row = RECIPES[name]
    players = ["D"] * row.discriminator_steps
    players = ["G", *players] if row.generator_first else [*players, "G"]
    spans = [
        (float(event["ts"]) / 1e6, float(event["dur"]) / 1e6, event["name"])
        for event in events
        if event.get("cat") in ("cpu_op", "user_annotation") and event["name"].startswith((BACKWARD, OPTIMIZER))
    ]
    parts: dict[str, float] = defaultdict(float)
    waiting: list[tuple[float, float]] = []
    updates = itertools.cycle(players)
    for start, seconds, span in sorted(spans):
        if span.startswith(OPTIMIZER):
            player = next(updates)
            parts[f"{player} optimizer"] += seconds
            parts[f"{player} backward"] += waiting[-1][1] - waiting[0][0]
            waiting.clear()
        else:
            waiting.append((start, start + seconds))
    return parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch_size"), [("mlp", 64), ("dcgan", 32), pytest.param("sngan", 16, marks=pytest.mark.nightly)]
)
def test_phases_agree_with_a_profiler(name: str, batch_size: int) -> None:
    """Within 10 % of the step each, in the shortest of rounds in turns: other programs hold up some of them."""
    run = prepare({"recipe": name, "batch_size": batch_size})
    steps = run.steps()
    marks = Marks(run.device)
    named = {f"{player} {part}" for player in "DG" for part in ("backward", "optimizer")}
    phases: dict[str, float] = {}
    profiled: dict[str, float] = {}
    for round_number in range(30):
        for _ in range(3):
            with attributed(run.state, marks.mark):
                next(steps)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            for _ in range(3):
                next(steps)
            seconds = time.perf_counter() - began
        marked = marks.seconds()
        parts = parts_by_profiler(name, events_of(profiler))
        assert parts.keys() == named
        if round_number == 0:
            continue  # it warms up
        for shortest, these, whole in ((phases, marked, sum(marked.values())), (profiled, parts, seconds)):
            ours = {phase: these[phase] for phase in named}
            ours["others"] = whole - sum(ours.values())
            shortest.update({phase: min(value, shortest.get(phase, value)) for phase, value in ours.items()})
        shares = {phase: value / sum(phases.values()) for phase, value in phases.items()}
        seen = {phase: value / sum(profiled.values()) for phase, value in profiled.items()}
        if round_number >= 3 and shares == pytest.approx(seen, abs=0.1):
            break
    print(f"\n{name}, batch {batch_size}, {round_number} rounds: marked, profiled, of the step")
    for phase in sorted(seen):
        print(f"{phase:12} {shares[phase]:6.1%} {seen[phase]:6.1%}")
    assert shares == pytest.approx(seen, abs=0.1)


def events_of(profiler: profile) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json.gz")
        profiler.export_chrome_trace(str(path))
        return read_trace(path)
