import copy
import math

import pytest
import torch
from accelerate import Accelerator
from reference import IMAGE_SHAPE, assert_close, fix_dropout, float64_state, gradients, inputs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.baseline import plain_step
from gan.recipes import RECIPES
from gan.seeds import derive_seeds
from gan.state import METRICS, TrainState, build_state
from gan.step import draw_latents, train_step

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", RECIPES)
def test_three_steps_equal_the_tutorials(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    recipe = state.recipe
    players = (state.generator, state.discriminator)
    for player in players:
        fix_dropout(player.network, torch.arange(12))
    plain = [copy.deepcopy(player.network) for player in players]
    with_sigmoid = nn.Sequential(plain[1], nn.Sigmoid())
    settings = recipe.optimizer
    optimizers = (
        torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, settings.eps)
        for network in plain
    )
    optimizers = list(optimizers)
    for step in range(3):
        real, latents = inputs(name, 12, step)
        expected = plain_step(recipe, plain[0], with_sigmoid, *optimizers, real, latents)
        metrics = train_step(state, real, latents, share=1 / 12)
        assert metrics.tolist() == pytest.approx(expected, rel=1e-10)
    for player, network in zip(players, plain, strict=True):
        assert_close(player.network.state_dict(), network.state_dict(), relative=1e-8)


@pytest.mark.parametrize("name", RECIPES)
def test_each_update_leaves_the_other_network_alone(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    real, latents = inputs(name, 6)
    before = copy.deepcopy(state.discriminator.network.state_dict())
    state.generator.update(state.generator.objective(latents[0], 1 / 6).loss)
    assert all(parameter.grad is None for parameter in state.discriminator.network.parameters())
    assert_close(state.discriminator.network.state_dict(), before, relative=0)

    before = copy.deepcopy(dict(state.generator.network.named_parameters()))
    state.discriminator.update(state.discriminator.objective(real, real, 1 / 6).loss)
    assert_close(dict(state.generator.network.named_parameters()), before, relative=0)


class _NoHostReads(TorchDispatchMode):
    """Fails where a tensor's value becomes a Python number, which on a GPU would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_guard_against_host_reads_sees_one() -> None:
    with _NoHostReads(), pytest.raises(AssertionError, match="waits"):
        torch.ones(1).item()


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_never_waits_for_the_device(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    real, latents = inputs(name, 6)
    with _NoHostReads():
        state.record(train_step(state, real, latents, 1 / 6), 6)
    assert state.progress.step == 1


@pytest.mark.parametrize("name", ["mlp", "mlp-smooth"])
def test_latents_do_not_depend_on_the_number_of_processes(name: str) -> None:
    recipe = RECIPES[name]

    def draw(rank: int, num_processes: int, seed: int = 1) -> torch.Tensor:
        return draw_latents(recipe, 7, seed=seed, rank=rank, num_processes=num_processes, device=CPU)

    whole = draw(0, 1)
    assert whole.shape == (recipe.latents_per_step, 7, 100)
    assert torch.equal(torch.cat([draw(rank, 3) for rank in range(3)], dim=1), whole)
    assert not torch.equal(draw(0, 1, seed=2), whole)


def test_seeds_repeat_and_differ_by_purpose_and_position() -> None:
    seeds = derive_seeds(100, 1, "latents", 0)
    assert derive_seeds(10, 1, "latents", 0) == seeds[:10]
    others = [
        derive_seeds(100, 1, "latents", 1),
        derive_seeds(100, 1, "dropout", 0),
        derive_seeds(100, 2, "latents", 0),
    ]
    assert len({*seeds, *(seed for other in others for seed in other)}) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_steps_are_recorded_in_order(accelerator: Accelerator) -> None:
    state = build_state(RECIPES["mlp"], IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=2)
    rows = torch.rand(3, len(METRICS))
    for row in rows[:2]:
        state.record(row, 10)
    assert torch.equal(state.history, rows[:2])
    state.end_epoch()
    state.record(rows[2], 5)
    assert torch.equal(state.history[:1], rows[2:])
    progress = state.progress
    assert (progress.step, progress.epoch, progress.position, progress.images_seen) == (3, 1, 1, 25)


def test_an_overflow_in_one_network_skips_its_update_only(accelerator: Accelerator) -> None:
    """fp16's scalers: one a network, so that G's overflow neither skips D nor lowers D's scale."""
    state = build_state(RECIPES["mlp-compact"], IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=10)
    for player in (state.generator, state.discriminator):
        player.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=4.0, growth_interval=100)
    before = copy.deepcopy(state.tensors())
    real, latents = (tensor.float() for tensor in inputs("mlp-compact", 6))
    next(state.generator.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    train_step(state, real, latents, 1 / 6)
    after = state.tensors()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith("generator.network") for name in moved)
    assert {f"discriminator.network.{name}" for name in state.discriminator.network.state_dict()} <= moved
    assert (state.generator.scaler.get_scale(), state.discriminator.scaler.get_scale()) == (2.0, 4.0)
    assert next(iter(state.generator.optimizer.state.values()))["step"] == 0


def test_scaled_gradients_train_like_unscaled_ones(accelerator: Accelerator) -> None:
    real, latents = inputs("mlp-compact", 6)
    states: list[TrainState] = []
    for enabled in (False, True):
        state = float64_state("mlp-compact", accelerator)
        for player in (state.generator, state.discriminator):
            player.scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        train_step(state, real, latents, 1 / 6)
        states.append(state)
    assert_close(states[1].tensors(), states[0].tensors(), relative=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_compiled_gradients_equal_eager_ones(name: str) -> None:
    from accelerate.utils import TorchDynamoPlugin

    real, latents = inputs(name, 6)
    results = []
    for backend in ("no", "inductor"):
        torch._dynamo.reset()
        accelerator = Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend=backend))
        accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=backend)
        state = float64_state(name, accelerator)
        for network in (state.generator.network, state.discriminator.network):
            for layer in network:
                if isinstance(layer, nn.Dropout):
                    layer.p = 0.0
        train_step(state, real, latents, 1 / 6)
        results.append(gradients(state))
    assert_close(results[1], results[0], relative=1e-9)
