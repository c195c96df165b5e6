"""Penalties in updates of their own: when, how strong, with which optimizer, and what a run records of it."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from gan.errors import UsageError
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1, GradientPenalty
from gan.methods.schedules import Cosine
from gan.options import TrainOptions
from gan.recipe_files import recipe_named
from gan.recipes import RECIPES
from gan.session.epochs import skipped_updates
from gan.training.execution import Execution
from gan.training.graphs import WARM_UP_STEPS
from gan.training.run_step import run_step
from gan.training.state import TrainState, build_state
from tests.gan.graph_simulator import simulate_graphs
from tests.gan.reference import IMAGE_SHAPE, LAZY, assert_close, float64_state, inputs, small_state

STYLED, SEVERAL, ADAPTIVE = LAZY


def test_penalties_are_due_at_the_first_update_and_then_every_so_many() -> None:
    row = recipe_named(STYLED)  # D's every 3, G's every 2
    assert [row.due(step) for step in range(7)] == [
        ((0,), True),
        ((), False),
        ((), True),
        ((0,), False),
        ((), True),
        ((), False),
        ((0,), True),
    ]
    of_several = recipe_named(SEVERAL)  # every 2 of D's updates, of which a step has 3
    assert [of_several.due(step).discriminator for step in range(3)] == [(0, 2), (1,), (0, 2)]
    assert all(RECIPES["wgan-gp"].due(step) == ((), False) for step in range(20))


def test_an_optimizer_is_corrected_by_the_updates_that_penalties_add() -> None:
    """c = k / (k + 1): lr c, β₁^c, β₂^c (arXiv:1912.04958, appendix B)."""
    adam = Adam(1e-3, betas=(0.5, Cosine(0.9, 0.99, images=100)))
    row = replace(RECIPES["mlp"], optimizer=adam, penalty=R1(1.0, every=16))
    numbers = row.numbers("discriminator", 100)
    assert numbers["lr"] == pytest.approx(1e-3 * 16 / 17, rel=1e-12)
    assert numbers["betas"] == pytest.approx((0.5 ** (16 / 17), 0.99 ** (16 / 17)), rel=1e-12)
    assert numbers["eps"] == 1e-8
    assert row.numbers("generator", 100) == adam.after(100)
    props = replace(row, discriminator_optimizer=RMSprop(1e-3, alpha=0.9)).numbers("discriminator", 0)
    assert (props["lr"], props["alpha"]) == pytest.approx((1e-3 * 16 / 17, 0.9 ** (16 / 17)), rel=1e-12)
    assert replace(row, penalty=R1(1.0)).numbers("discriminator", 100) == adam.after(100)
    assert recipe_named(STYLED).numbers("generator", 0)["lr"] == pytest.approx(1e-3 * 2 / 3, rel=1e-12)


def test_corrected_optimizers_train_and_follow_schedules(accelerator: Accelerator) -> None:
    row = replace(recipe_named(STYLED), optimizer=Adam(Cosine(1e-3, 1e-4, images=50), betas=(0.5, 0.99)))
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=9, dtype=torch.float64)
    corrections = {"discriminator": 3 / 4, "generator": 2 / 3}
    for seen, rate in ((0, 1e-3), (50, 1e-4)):
        for name, player in state.players.items():
            (group,) = player.optimizer.param_groups
            assert group["lr"] == pytest.approx(rate * corrections[name], rel=1e-12)
            assert group["betas"] == pytest.approx([beta ** corrections[name] for beta in (0.5, 0.99)], rel=1e-12)
        if not seen:
            state.record(torch.zeros(state.history.shape[1]), 50)


@pytest.mark.parametrize("every", [1, 4])
def test_a_lazy_penalty_counts_as_often_as_it_is_left_out(every: int, accelerator: Accelerator) -> None:
    """By the gradient of its update, or of the whole loss: `every` times that of the penalty."""
    row = replace(RECIPES["mlp-compact"], penalty=GradientPenalty(3.0, every=every))
    state = build_state(row, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=9, dtype=torch.float64)
    network = state.discriminator.network
    batch = inputs("mlp-compact", 6).first_batch(state, 1 / 6)
    fake = batch.real.flip(0)
    objective = state.discriminator.objective
    loss = objective(batch, fake).loss
    if every > 1:
        plain = row.loss.discriminator(network(batch.real), network(fake)).mean()
        torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
        loss = objective(batch, fake, penalty_alone=True).loss
    else:
        loss = loss - row.loss.discriminator(network(batch.real), network(fake)).mean()
    penalty = GradientPenalty(3.0)(network, batch.real, fake, batch.mix).mean()
    torch.testing.assert_close(loss, 3.0 * every * penalty, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LAZY)
def test_all_parameters_take_part_in_equally_many_updates(name: str, accelerator: Accelerator) -> None:
    """Also those that a penalty does not depend on, such as the last bias."""
    state = float64_state(name, accelerator)
    for step in range(3):
        state.record(inputs(name, 6, step).train(state, 1 / 6), 6)
    for player, network in state.players.items():
        steps = {int(values["step"]) for values in network.optimizer.state.values()}
        assert len(network.optimizer.state) == len(list(network.network.parameters()))
        assert steps == {state.recipe.num_updates(player, 3)}
    assert skipped_updates(state) == [0, 0]


def test_every_update_of_a_step_is_counted() -> None:
    row = recipe_named(SEVERAL)
    for steps in range(6):
        due = [len(row.due(step).discriminator) for step in range(steps)]
        assert row.num_updates("discriminator", steps) == 3 * steps + sum(due)
    assert [recipe_named(STYLED).num_updates("generator", steps) for steps in range(5)] == [0, 2, 3, 5, 6]


def test_an_overflow_in_an_update_for_a_penalty_skips_that_alone(accelerator: Accelerator) -> None:
    state = small_state(STYLED, accelerator, seed=0, steps_per_epoch=9)
    state.discriminator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    calls = iter(range(100))
    parameter = next(state.discriminator.network.parameters())
    parameter.register_hook(lambda gradient: gradient * math.inf if next(calls) == 1 else gradient)
    before = copy.deepcopy(state.discriminator.network.state_dict())
    inputs(STYLED, 6).to(torch.float32).train(state, 1 / 6)
    assert next(calls) == 2
    assert state.discriminator.scaler.get_scale() == 2.0
    assert next(iter(state.discriminator.optimizer.state.values()))["step"] == 1
    assert any(
        not torch.equal(value, before[name]) for name, value in state.discriminator.network.state_dict().items()
    )


def test_each_kind_of_steps_has_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties every 2 and every 3 steps make four kinds; graphs train as single kernels do."""
    simulate_graphs(monkeypatch)
    states: list[TrainState] = []
    for cuda_graph in (False, True):
        state = small_state(
            STYLED,
            Accelerator(cpu=True),
            seed=3,
            steps_per_epoch=40,
            dtype=torch.float64,
            execution=Execution(cuda_graph=cuda_graph),
        )
        for step in range(6 * (WARM_UP_STEPS + 1)):
            taken = inputs(STYLED, 8, step).of(state, 1 / 8)
            if not state.due.generator:
                taken = taken._replace(directions=None)
            state.record(run_step(state, taken), 8)
        states.append(state)
    eager, graphed = states
    assert graphed.graphs is not None
    assert len(graphed.graphs._captured) == 4
    assert_close(graphed.tensors(), eager.tensors(), relative=1e-12)


def test_a_penalty_is_lazy_or_a_part_of_the_loss() -> None:
    """G takes updates for a penalty that says how often, even if that is after each one; D only if it is not."""
    term = OrthogonalRegularization()
    row = RECIPES["mlp-compact"]
    assert (row.lazy_penalty, row.lazy_generator_penalty, row.generator_term, row.lazy) == (None, None, None, {})
    often = replace(row, penalty=R1(1.0), generator_penalty=PathLength(every=1))
    assert (often.lazy_penalty, often.lazy_generator_penalty) == (None, PathLength(every=1))
    assert (often.generator_term, often.lazy) == (None, {"generator": 1})
    seldom = replace(row, penalty=R1(1.0, every=2), generator_penalty=term)
    assert (seldom.lazy_penalty, seldom.lazy_generator_penalty) == (R1(1.0, every=2), None)
    assert (seldom.generator_term, seldom.lazy) == (term, {"discriminator": 2})


def test_a_record_says_every_only_where_it_says_something() -> None:
    """Runs with a penalty that were begun before go on."""
    row = RECIPES["wgan-gp"]
    assert row.to_json()["penalty"] == {"kind": "GradientPenalty", "weight": 10.0}
    lazy = replace(row, penalty=GradientPenalty(10.0, every=4))
    assert lazy.to_json()["penalty"] == {"kind": "GradientPenalty", "weight": 10.0, "every": 4}
    assert "generator_penalty" not in row.to_json()
    assert recipe_named(STYLED).to_json()["generator_penalty"]["kind"] == "PathLength"


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("wgan-gp", ["penalty.every=0"], "penalty.every 0: must be a whole number of at least 1"),
        (STYLED, ["generator_penalty.every=0"], "generator_penalty.every 0: must be a whole number of at least 1"),
        (ADAPTIVE, ["adaptive.interval=0"], "adaptive.interval 0: must be a whole number of at least 1"),
        ("mlp", ["adaptive=Adaptive"], "adaptive: none of the augmentations takes a probability"),
        ("mlp", ["ema_ramp=-1"], "ema_ramp -1.0: must be a number of at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(recipe: str, settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainOptions(recipe=recipe, set=tuple(settings)).validate()


def test_other_augmentations_than_adaptive_ones_are_refused_on_the_command_line() -> None:
    with pytest.raises(UsageError, match="--augment cutout: adaptive: none of the augmentations takes a prob"):
        TrainOptions(recipe=ADAPTIVE, augment="cutout").validate()


def test_settings_choose_lazy_penalties() -> None:
    options = TrainOptions(recipe="mlp-compact", set=("penalty=R1", "penalty.weight=5", "penalty.every=16"))
    options.validate()
    assert options.row.penalty == R1(5.0, every=16)
