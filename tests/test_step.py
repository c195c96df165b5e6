import copy
import math

import pytest
import torch
from accelerate import Accelerator
from reference import IMAGE_SHAPE, assert_close, fix_dropout, float64_state, gradients, inputs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan.recipes import RECIPES, Recipe
from gan.state import METRICS, NEVER, TrainState, build_state
from gan.step import draw_latents, train_step

CPU = torch.device("cpu")


def tutorial_step(
    recipe: Recipe,
    generator: nn.Module,
    discriminator: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    real: torch.Tensor,
    latents: torch.Tensor,
) -> list[float]:
    """One step as tutorials write it: BCELoss on a sigmoid, D trainable in G's turn, a D pass for each half."""
    bce = nn.BCELoss()
    optimizer_g, optimizer_d = optimizers
    n = len(real)
    ones, zeros = torch.ones(n, dtype=real.dtype), torch.zeros(n, dtype=real.dtype)
    smooth = ones * recipe.loss.real_label

    def update_g(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        optimizer_g.zero_grad()
        fake = generator(z)
        loss = bce(torch.sigmoid(discriminator(fake)), ones)
        loss.backward()
        optimizer_g.step()
        return loss, fake

    def update_d(fake: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        optimizer_d.zero_grad()
        p_real, p_fake = torch.sigmoid(discriminator(real)), torch.sigmoid(discriminator(fake.detach()))
        loss = recipe.loss.scale * (bce(p_real, smooth) + bce(p_fake, zeros))
        loss.backward()
        optimizer_d.step()
        return loss, p_real.mean(), p_fake.mean()

    if recipe.generator_first:
        loss_g, fake = update_g(latents[0])
        loss_d, p_real, p_fake = update_d(fake)
    else:
        loss_d, p_real, p_fake = update_d(generator(latents[0]))
        loss_g, _ = update_g(latents[1])
    return [loss_d.item(), loss_g.item(), p_real.item(), p_fake.item()]


@pytest.mark.parametrize("name", RECIPES)
def test_three_steps_equal_the_tutorials(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    recipe = state.recipe
    plain = [copy.deepcopy(player.network) for player in (state.generator, state.discriminator)]
    for network in (*plain, state.generator.network, state.discriminator.network):
        fix_dropout(network, torch.arange(12))
    settings = recipe.optimizer
    optimizers = tuple(
        torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, settings.eps)
        for network in plain
    )
    for step in range(3):
        real, latents = inputs(name, 12, step)
        expected = tutorial_step(recipe, *plain, optimizers, real, latents)
        metrics = train_step(state, real, latents, share=1 / 12)
        assert metrics.tolist() == pytest.approx(expected, rel=1e-10)
    for player, network in zip((state.generator, state.discriminator), plain, strict=True):
        assert_close(player.network.state_dict(), network.state_dict(), relative=1e-9)


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
def test_latents_do_not_depend_on_the_number_of_processes(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)

    def draw(rank: int, num_processes: int) -> torch.Tensor:
        return draw_latents(state, 7, seed=1, rank=rank, num_processes=num_processes, device=CPU)

    whole = draw(0, 1)
    assert whole.shape == (state.recipe.latents_per_step, 7, 100)
    assert torch.equal(torch.cat([draw(rank, 3) for rank in range(3)], dim=1), whole)
    state.progress.step += 1
    assert not torch.equal(draw(0, 1), whole)


def test_dropout_masks_differ_between_ranks_and_steps_and_repeat_otherwise(accelerator: Accelerator) -> None:
    state = float64_state("mlp-dropout", accelerator)

    def mask(rank: int, step: int) -> torch.Tensor:
        state.progress.step = step
        draw_latents(state, 4, seed=1, rank=rank, num_processes=2, device=CPU)
        return nn.functional.dropout(torch.ones(1000), 0.5)

    assert torch.equal(mask(0, 0), mask(0, 0))
    assert not torch.equal(mask(0, 0), mask(1, 0))
    assert not torch.equal(mask(0, 0), mask(0, 1))


def test_totals_are_sums_over_images_and_remember_the_first_bad_step(accelerator: Accelerator) -> None:
    state = build_state(RECIPES["mlp"], IMAGE_SHAPE, accelerator, seed=0)
    state.record(torch.tensor([1.0, 2.0, 0.5, 0.25]), 10)
    state.record(torch.tensor([3.0, 4.0, 1.0, 0.75]), 30)
    means = dict(zip(METRICS, (state.totals / state.progress.epoch_images).tolist(), strict=True))
    assert means == {"loss_d": 2.5, "loss_g": 3.5, "p_real": 0.875, "p_fake": 0.625}
    assert state.first_nonfinite.tolist() == [NEVER, NEVER]
    for loss_d in (1.0, math.inf, math.nan, 1.0):
        state.record(torch.tensor([loss_d, 1.0, 0.5, 0.5]), 1)
    assert state.first_nonfinite.tolist() == [4, NEVER]


def test_an_overflow_in_one_network_skips_its_update_only(accelerator: Accelerator) -> None:
    """fp16's scalers: one a network, so that G's overflow neither skips D nor lowers D's scale."""
    state = build_state(RECIPES["mlp-compact"], IMAGE_SHAPE, accelerator, seed=0)
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
