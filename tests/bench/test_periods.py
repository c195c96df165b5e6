"""A step's time and cost are means over a whole period of lazy penalties."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from bench.harness.windows import Effort, time_window
from bench.predict.schedule import Event, Kind, scaled, step_time
from bench.report.notes import notes
from bench.results.case_result import CaseResult
from bench.results.work import StepWork
from bench.subjects.measured import MeasuredSubject
from bench.subjects.plain import make
from bench.subjects.subject import Setup, SubjectError
from bench.suite.cases import Case
from bench.turns import messages as m
from bench.turns.quads import plan_for
from bench.turns.side import MeasuredSide
from bench.workloads import step as step_workload
from bench.workloads.exposure import typical
from bench.workloads.profile import PROFILED_STEPS, profiled
from bench.workloads.roofline import StepCost, recorded, step_cost
from bench.workloads.setup import CoreSetup, in_turn
from gan.methods.lazy import due_updates, period_of
from gan.models.mlp import MLP
from gan.options import TrainOptions
from gan.recipes import RECIPES, Recipe
from gan.session.run import prepare
from gan.surface import NOWHERE, MeasuredRun, whole_batches
from gan.training.batch import StepInputs
from gan.training.state import build_state
from gan.training.step import train_step
from tests.bench.records import step_record
from tests.bench.test_windows import Machine
from tests.conftest import ROOT
from tests.gan.reference import IMAGE_SHAPE, LAZY

STYLED, SEVERAL, _ = LAZY
BATCH = 8
WIDTHS = [784, 16, 1]
EVERY = 4


@pytest.mark.parametrize(
    ("of_d", "of_g", "num_updates"), [*itertools.product((1, 2, 6, 16), (1, 3, 4), (1, 3, 4))]
)
def test_a_period_is_the_shortest_after_which_the_same_is_due(of_d: int, of_g: int, num_updates: int) -> None:
    def due(step: int) -> tuple[object, ...]:
        return due_updates(of_d, step * num_updates, num_updates), step % of_g == 0

    course = [due(step) for step in range(200)]
    shortest = next(n for n in range(1, 100) if all(a == b for a, b in zip(course, course[n:], strict=False)))
    assert period_of({"discriminator": of_d, "generator": of_g}, num_updates) == shortest


# Windows.


def alternating(step: int) -> float:
    """3 steps of a millisecond, after one of 13 ms: a mean of 4 ms."""
    return 0.001 if step % EVERY else 0.013


def test_every_window_of_the_engine_has_whole_periods() -> None:
    machine = Machine()
    engine = machine.engine()
    record = engine.add(machine.arm("lazy", alternating, period=EVERY))
    assert record.steps_per_window == 8  # at least 30 ms, in whole periods
    assert record.settled
    engine.measure()
    assert record.windows == pytest.approx([8 * 0.004] * len(record.windows))
    assert record.period == EVERY
    num_steps = engine.keep_busy("lazy", 0.05, lambda: None)
    assert num_steps == 16, "each half has whole periods"


def test_windows_of_two_sides_have_whole_periods() -> None:
    assert plan_for((0.004, 0.004), 80, periods=(4, 4)).steps_per_window == (4, 4)
    assert plan_for((0.001, 0.001), 80, periods=(4, 1)).steps_per_window == (12, 13)
    assert plan_for((0.004, 0.001), 80, periods=(16, 1)).steps_per_window == (16, 64)
    assert plan_for((0.004, 0.004), 80) == plan_for((0.004, 0.004), 80, periods=(1, 1))


def test_injected_work_is_a_share_of_the_mean_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which one step of four takes 6 s, the others 2 s, and a product 10 ms."""
    now = 0.0

    def taking(*seconds: float) -> Iterator[None]:
        nonlocal now
        for one in itertools.cycle(seconds):
            now += one
            yield

    monkeypatch.setattr("bench.turns.side.time_window", partial(time_window, timer=lambda: now))
    monkeypatch.setattr("bench.turns.side.small_products", lambda device: taking(0.01))
    side = MeasuredSide(m.Start(0, 0, 0.0, str(ROOT)))
    side._steps = taking(6.0, 2.0, 2.0, 2.0)
    side._period = EVERY
    calibration = side.calibrate(0.05, 12)
    assert (calibration.products, calibration.step_seconds) == (15, pytest.approx(3.0))


# Costs.


@dataclass(frozen=True)
class Judged:
    """A penalty of known operations: D once forwards, and backwards for its weights."""

    every: int = EVERY
    weight: float = 1.0
    mixes: ClassVar[bool] = False

    def __call__(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor | None = None
    ) -> Tensor:
        return discriminator(real).square()


def row_with(penalty: Judged | None) -> Recipe:
    return replace(
        RECIPES["mlp-compact"], generator=MLP((16,)), discriminator=MLP(tuple(WIDTHS[1:-1])), penalty=penalty
    )


def steps_of(row: Recipe, accelerator: Accelerator) -> tuple[Any, StepInputs, Callable[[], None]]:
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=100)
    latents = torch.randn(row.latents_per_step, BATCH, row.latent_dim)
    inputs = StepInputs(torch.rand(BATCH, *IMAGE_SHAPE), latents, 1 / BATCH)
    return state, inputs, lambda: state.record(train_step(state, inputs), BATCH)


def cost_of(row: Recipe, accelerator: Accelerator, steps_before: int = 1) -> StepCost:
    state, inputs, take = steps_of(row, accelerator)
    for _ in range(steps_before):
        take()
    return step_cost(state, inputs, take, row.period)


@pytest.mark.parametrize("steps_before", [1, 4, 6])
def test_a_penalty_every_so_many_steps_counts_as_its_share(steps_before: int, accelerator: Accelerator) -> None:
    """Forwards, for the weights, and for the inputs of all layers but the first: once in four steps."""
    without = cost_of(row_with(None), accelerator)
    lazy = cost_of(row_with(Judged()), accelerator, steps_before)
    products = [2 * rows * columns for rows, columns in itertools.pairwise(WIDTHS)]
    of_penalty = BATCH * (2 * sum(products) + sum(products[1:]))
    assert lazy.flops == round(without.flops + of_penalty / EVERY)
    assert sum(lazy.work.values(), StepWork()).flops == pytest.approx(lazy.flops, abs=len(lazy.work))
    updates = [cost.work["D optimizer"].optimizer_traffic_bytes for cost in (lazy, without)]
    assert updates[0] == pytest.approx(updates[1] * (1 + 1 / EVERY), rel=1e-6)


def test_products_are_those_of_each_step_of_the_period(accelerator: Accelerator) -> None:
    """Steps that are alike share what their products are taken on, or a period would take a lot of memory."""
    cost = cost_of(row_with(Judged()), accelerator, steps_before=4)
    assert [len(calls) for calls in cost.products] == [len(cost.products[0]), *[len(cost.products[1])] * 3]
    assert len(cost.products[0]) > len(cost.products[1])
    assert cost.products[1] is cost.products[2] is cost.products[3]
    taken = in_turn(cost.products)
    counted = [recorded(lambda: next(taken)).flops for _ in range(2 * EVERY)]
    assert sum(counted) == pytest.approx(2 * EVERY * cost.flops, abs=2 * EVERY)
    assert counted[:EVERY] == counted[EVERY:]


def test_a_profile_has_whole_periods_and_the_work_of_their_mean(tmp_path: Path, accelerator: Accelerator) -> None:
    row = row_with(Judged())
    _, _, take = steps_of(row, accelerator)
    take()
    data = profiled(iter(take, 0), torch.device("cpu"), tmp_path / "a.trace.json.gz", row.period)
    assert data["num_steps"] == 8 > PROFILED_STEPS
    adam = next(one for one in data["operators"] if "adam" in one["name"])
    assert adam["calls"] == pytest.approx(2 + 1 / EVERY)  # a step's two updates, and a penalty's
    assert adam["traffic_bytes"], "as many calls were counted"


def setup_of(recipe: str, folder: Path) -> CoreSetup:
    options = TrainOptions(recipe=recipe, dataset="digits", batch_size=50, output=NOWHERE, num_threads=1)
    run, state = prepare(options)
    return CoreSetup(Case(recipe=recipe), whole_batches(run), state, folder, {}, Effort(1, 1))


def test_arms_of_a_case_have_the_period_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.workloads.peaks.PRODUCT_SIZES", {"cpu": (16,)})
    monkeypatch.setattr("bench.workloads.peaks.COPIED_BYTES", {"cpu": 1024})
    setup = setup_of(STYLED, tmp_path)
    assert MeasuredRun(setup.run, setup.state).period == setup.period == 6
    arms: dict[str, Any] = {}
    for arm in step_workload.step(setup):
        next(arm.steps)
        arms[arm.name] = arm
    assert {name: arm.period for name, arm in arms.items() if arm.period > 1} == {
        "step": 6,
        "plain": 6,
        "products": 6,
    }


def test_the_plain_loop_and_subjects_say_their_period() -> None:
    plain = MeasuredSubject(make(Setup(recipe=SEVERAL, batch_size=2, num_classes=10)), Setup(), "plain")
    assert plain.period == 2

    class Lazy:
        images_per_step = 1
        period: Any = 16

        def step(self) -> None: ...

    assert MeasuredSubject(Lazy(), Setup(), "a.py:make").period == 16
    Lazy.period = 0
    with pytest.raises(SubjectError, match=r"a\.py:make: period is 0; it must be a whole number of at least 1"):
        _ = MeasuredSubject(Lazy(), Setup(), "a.py:make").period


def test_a_message_takes_the_median_over_periods() -> None:
    assert typical([9.0, 1.0, 3.0, 1.0, 5.0, 1.0, 3.0], 2) == 2.0
    assert typical([1.0, 3.0], 16) == 2.0
    assert typical([1.0, 5.0, 2.0], 1) == 2.0


# Predictions.


def test_a_predicted_step_is_the_mean_over_its_schedule() -> None:
    """A step of 1 s that sends for 2 s, three times; and once another one that sends for 4 s more."""
    send = (Event(Kind.BUCKET, 1.0, 200, "generator"), Event(Kind.WAIT, 0.0), Event(Kind.END, 0.0))
    penalty = (*send[:2], Event(Kind.BUCKET, 1.0, 400, "generator"), *send[1:])
    schedule = (*penalty, *send, *send, *send)
    step = step_time(schedule, lambda event: event.num_bytes / 100)
    assert (step.compute_seconds, step.exposed_seconds, step.seconds) == (5 / 4, 3.0, 4.25)
    assert (step.communication_seconds, step.sent_bytes) == (3.0, 300)
    assert [transfer.step for transfer in step.transfers] == [0, 0, 1, 2, 3]
    assert step_time(scaled(schedule, 2.5), lambda _: 0.0).seconds == pytest.approx(2.5)


# What is said.


def test_a_report_says_once_over_how_many_steps_times_are_means() -> None:
    record = step_record()
    usual = CaseResult.of(record)
    assert not [line for line in notes([usual]) if "mean over" in line]
    for launch in record["launches"]:
        for rank in launch["ranks"]:
            rank["arms"]["step"]["period"] = 16
    lazy = CaseResult.of(record)
    assert lazy.period == 16
    (line,) = [line for line in notes([lazy]) if "mean over" in line]
    assert line == f"mean over 16 steps, in some of which a penalty is due: {lazy.name}"
