"""Numbers that follow images seen: closed forms, and that what trains takes them over."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from bench.subjects.plain_step import plain_optimizers
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.schedules import Cosine, Linear, at, changes
from gan.recipes import RECIPES
from gan.training.state import TrainState
from tests.gan.reference import float64_state, inputs

SCHEDULED = [name for name, recipe in RECIPES.items() if recipe.scheduled]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(0, 3.0), (250, 1 + 2 * 0.8535533905932737), (500, 2.0), (1000, 1.0), (10**9, 1.0)],
)
def test_a_cosine_goes_from_begin_to_end(seen: int, expected: float) -> None:
    assert at(Cosine(3.0, 1.0, 1000), seen) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("seen", "expected"), [(0, 3.0), (250, 2.5), (900, 1.2), (1000, 1.0), (10**9, 1.0)])
def test_a_line_goes_from_begin_to_end(seen: int, expected: float) -> None:
    assert at(Linear(3.0, 1.0, 1000), seen) == pytest.approx(expected, rel=1e-12)
    assert at(Linear(1.0, 3.0, 1000), seen) == pytest.approx(4.0 - expected, rel=1e-12)


def test_a_number_without_a_schedule_stays() -> None:
    assert at(0.25, 10**9) == 0.25


def numbers(state: TrainState) -> list[float]:
    groups = [group for player in state.players.values() for group in player.optimizer.param_groups]
    return [value for group in groups for value in (group["lr"], *group["betas"], group["eps"])] + [
        state.penalty_weight.item()
    ]


def expected(state: TrainState, seen: int) -> list[float]:
    adam = state.recipe.optimizer
    assert isinstance(adam, Adam)
    of_one = [at(adam.learning_rate, seen), adam.betas[0], at(adam.betas[1], seen), adam.eps]
    return [*of_one, *of_one, at(state.recipe.penalty.weight, seen) if state.recipe.penalty else 0.0]


@pytest.mark.parametrize("name", SCHEDULED)
def test_optimizers_and_penalty_follow_the_images_seen(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    assert numbers(state) == pytest.approx(expected(state, 0), rel=1e-12)
    state.record(torch.zeros(state.history.shape[1]), 7_000_000)
    assert numbers(state) == pytest.approx(expected(state, 7_000_000), rel=1e-12)
    assert numbers(state) != pytest.approx(expected(state, 0), rel=1e-2)
    other = float64_state(name, accelerator)
    other.load(state.tensors(), state.counters())
    assert numbers(other) == numbers(state)


@pytest.mark.parametrize("name", [name for name in SCHEDULED if RECIPES[name].penalty])
def test_the_objective_takes_the_weight_of_now(name: str, accelerator: Accelerator) -> None:
    """D's loss is linear in it."""
    state = float64_state(name, accelerator)
    batch = inputs(name, 6).first_batch(state, 1 / 6)
    losses = []
    for weight in (0.0, 1.0, 3.0):
        state.penalty_weight.fill_(weight)
        losses.append(state.discriminator.objective(batch, batch.real.flip(0)).loss.item())
    assert losses[1] > losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-9)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.ema_half_life])
def test_a_scheduled_half_life_is_that_of_the_images_seen(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    assert state.average is not None
    now, average = (dict(network.named_parameters()) for network in (state.generator.network, state.average))
    with torch.no_grad():
        for value in now.values():
            value += 1.0
    before = {parameter: value.clone() for parameter, value in average.items()}
    images = 500_000
    half_life = at(state.recipe.ema_half_life, images)
    if not changes(state.recipe.ema_half_life):
        images = max(images, int(half_life))
    if state.recipe.ema_ramp:
        half_life = min(half_life, state.recipe.ema_ramp * images)
    state.record(torch.zeros(state.history.shape[1]), images)
    weight = 1 - 0.5 ** (images / half_life)
    assert 0.1 < weight <= 1
    for parameter, value in average.items():
        torch.testing.assert_close(value, before[parameter] + weight)


@pytest.fixture
def two_time_scales(monkeypatch: pytest.MonkeyPatch) -> str:
    """A row in which D has another optimizer than G, and another schedule."""
    of_generator = Adam(Linear(1e-4, 5e-5, 1000), betas=(0.0, Cosine(0.9, 0.99, 500)))
    of_discriminator = RMSprop(Linear(4e-4, 0.0, 1000))
    row = replace(RECIPES["mlp-compact"], optimizer=of_generator, discriminator_optimizer=of_discriminator)
    monkeypatch.setitem(RECIPES, "two-time-scales", row)
    return "two-time-scales"


def test_each_network_follows_the_schedule_of_its_optimizer(
    two_time_scales: str, accelerator: Accelerator
) -> None:
    state = float64_state(two_time_scales, accelerator)
    (of_generator,) = state.generator.optimizer.param_groups
    (of_discriminator,) = state.discriminator.optimizer.param_groups
    assert isinstance(state.generator.optimizer, torch.optim.Adam)
    assert isinstance(state.discriminator.optimizer, torch.optim.RMSprop)
    assert (of_generator["lr"], of_discriminator["lr"]) == (1e-4, 4e-4)
    state.record(torch.zeros(state.history.shape[1]), 500)
    assert of_generator["lr"] == pytest.approx(7.5e-5, rel=1e-12)
    assert of_generator["betas"] == pytest.approx((0.0, 0.99), rel=1e-12)
    assert of_discriminator["lr"] == pytest.approx(2e-4, rel=1e-12)
    state.record(torch.zeros(state.history.shape[1]), 500)
    assert of_discriminator["lr"] == 0.0


def test_the_plain_loop_has_the_optimizers_of_the_row(two_time_scales: str, accelerator: Accelerator) -> None:
    state = float64_state(two_time_scales, accelerator)
    players = (state.generator, state.discriminator)
    plain = plain_optimizers(state.recipe, *(player.network for player in players))
    for player, optimizer in zip(players, plain, strict=True):
        assert isinstance(player.optimizer, type(optimizer))
        assert optimizer.param_groups[0]["lr"] == player.optimizer.param_groups[0]["lr"]


def test_a_record_tells_schedules_and_optimizers_apart() -> None:
    """Runs that were begun before go on: what a row does without is left out of its record."""
    row = RECIPES["r3gan"]
    rates = (2e-4, Cosine(2e-4, 0.0, 10), Linear(2e-4, 0.0, 10))
    rows = [replace(row, optimizer=replace(row.optimizer, learning_rate=rate)) for rate in rates]
    rows += [replace(row, discriminator_optimizer=other.optimizer) for other in rows]
    records = [row.to_json() for row in rows]
    assert all(record not in records[:index] for index, record in enumerate(records))
    assert records[1]["optimizer"]["learning_rate"] == {"begin": 2e-4, "end": 0.0, "images": 10}
    for row in RECIPES.values():
        assert ("discriminator_optimizer" in row.to_json()) == (row.discriminator_optimizer is not None)
