import copy
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan.process.place import Place
from gan.recipe_files import label_of, recipe_named
from gan.recipes import RECIPES
from gan.seeds import derive_seeds
from gan.session.inputs import draw_latents
from gan.training.average import AveragedTensors
from gan.training.metrics import METRICS
from gan.training.state import TrainState, build_state
from gan.training.step import train_step
from tests.conftest import quick_or_slow
from tests.gan.reference import (
    AUGMENTED,
    IMAGE_SHAPE,
    LAZY,
    NEAR,
    OF_CLASSES,
    OF_FILES,
    OPTIONAL,
    OWN_RECIPE,
    ROWS,
    SHARED,
    assert_close,
    assert_steps_of_the_tutorial,
    fix_dropout,
    float64_state,
    inputs,
    step_gradients,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ROWS)
def test_three_steps_equal_the_tutorials(name: str, accelerator: Accelerator) -> None:
    assert_steps_of_the_tutorial(name, float64_state(name, accelerator), num_images=12, num_steps=3)


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, *OF_FILES],
        quick=("mlp", "cgan", "wgan-gp", "sngan", "r3gan", "acgan", "biggan", "stylegan2", OWN_RECIPE, OPTIONAL),
        slow=(),
    ),
    ids=label_of,
)
def test_each_update_leaves_the_other_network_alone(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    batch = inputs(name, 6).first_batch(state, 1 / 6)
    before = copy.deepcopy(dict(state.discriminator.network.named_parameters()))
    for _ in state.generator.update([None]):
        state.generator.backward(state.generator.objective(batch).loss)
    assert all(parameter.grad is None for parameter in state.discriminator.network.parameters())
    assert_close(dict(state.discriminator.network.named_parameters()), before, relative=0)

    before = copy.deepcopy(dict(state.generator.network.named_parameters()))
    for _ in state.discriminator.update([None]):
        state.discriminator.backward(state.discriminator.objective(batch, batch.real.flip(0)).loss)
    assert_close(dict(state.generator.network.named_parameters()), before, relative=0)


class _NoHostReads(TorchDispatchMode):
    """Fails where a tensor's value becomes a Python number, which on a GPU would wait for it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the step waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_guard_against_host_reads_sees_one() -> None:
    with _NoHostReads(), pytest.raises(AssertionError, match="waits"):
        torch.ones(1).item()


@pytest.mark.parametrize("name", ROWS)
def test_a_step_never_waits_for_the_device(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    taken = inputs(name, 6)
    with _NoHostReads():
        state.record(taken.train(state, 1 / 6), 6)
    assert state.progress.step == 1


@pytest.mark.parametrize("name", ["mlp", "mlp-smooth"])
def test_latents_do_not_depend_on_the_number_of_processes(name: str) -> None:
    recipe = recipe_named(name)

    def draw(rank: int, world_size: int, seed: int = 1) -> torch.Tensor:
        return draw_latents(recipe, 7, seed, Place(rank, world_size, CPU))

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
    next(state.generator.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    inputs("mlp-compact", 6).to(torch.float32).train(state, 1 / 6)
    after = state.tensors()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert not any(name.startswith("generator.network") for name in moved)
    assert {f"discriminator.network.{name}" for name in state.discriminator.network.state_dict()} <= moved
    assert (state.generator.scaler.get_scale(), state.discriminator.scaler.get_scale()) == (2.0, 4.0)
    assert next(iter(state.generator.optimizer.state.values()))["step"] == 0


def test_scaled_gradients_train_like_unscaled_ones(accelerator: Accelerator) -> None:
    taken = inputs("mlp-compact", 6)
    states: list[TrainState] = []
    for enabled in (False, True):
        state = float64_state("mlp-compact", accelerator)
        for player in (state.generator, state.discriminator):
            player.scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        taken.train(state, 1 / 6)
        states.append(state)
    assert_close(states[1].tensors(), states[0].tensors(), relative=1e-12)


COMPILED_TO_CODE = (
    *{bool(recipe.penalty): name for name, recipe in reversed(RECIPES.items())}.values(),
    *("sngan", "biggan-cifar", "stylegan2", "stylegan2-ada", NEAR),
)
"""The first row without a penalty and the first with one; spectral norm, BatchNorm conditioned on classes, lazy
penalties of both networks, augmentation that adapts, images of near latents. Inductor takes up to 40 s a row,
`aot_eager`, which traces and differentiates as it does but runs eagerly, 2. With an empty cache, inductor tries in
another Python process whether the code that it has compiled can be loaded."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, "aot_eager", marks=() if name in ("r3gan", LAZY[0]) else pytest.mark.nightly)
        for name in (*RECIPES, OWN_RECIPE, *SHARED, *OF_CLASSES, *LAZY, AUGMENTED, NEAR)
    ]
    + [
        pytest.param(
            name,
            "inductor",
            marks=[pytest.mark.multiprocess, *(() if name == "wgan-gp" else (pytest.mark.nightly,))],
        )
        for name in COMPILED_TO_CODE
    ],
)
def test_compiled_gradients_equal_eager_ones(name: str, backend: str) -> None:
    """The last gradients are of a lazy penalty where that is due; Adam's moments have those of every update."""
    results = [step_gradients(name, used, cpu=True) for used in ("no", backend)]
    assert_close(results[1], results[0], relative=1e-9)


@pytest.mark.parametrize("num_micro_batches", [1, 2])
@pytest.mark.parametrize("name", quick_or_slow(["dcgan", *SHARED], quick=("dcgan", SHARED[0])), ids=label_of)
def test_networks_share_the_fakes_of_ds_last_update(
    name: str, num_micro_batches: int, accelerator: Accelerator
) -> None:
    """The very numbers; without a gradient of G in D's turn; G runs once unless micro-batches save memory."""
    state = float64_state(name, accelerator)
    network = state.generator.network
    num_updates = state.recipe.discriminator_steps
    runs: list[torch.Tensor] = []
    seen: dict[str, list[torch.Tensor]] = {"generator": [], "discriminator": []}
    network.register_forward_hook(lambda module, taken, images: runs.append(images.detach().clone()))
    if isinstance(network, nn.Sequential):
        fix_dropout(network, torch.arange(6 // num_micro_batches))

    def see(player: str, function):
        def seeing(batch, fake):
            seen[player].append(fake.detach().clone())
            if player == "discriminator":
                assert not fake.requires_grad
            return function(batch, fake)

        return seeing

    state.discriminator.objective = see("discriminator", state.discriminator.objective)
    of_fakes = state.generator.objective.loss_of
    of_fakes.forward = see("generator", of_fakes.forward)
    state.generator_loss = see("generator", state.generator_loss)
    train_step(state, inputs(name, 6).of(state, 1 / 6)._replace(num_micro_batches=num_micro_batches))
    last = seen["discriminator"][-num_micro_batches:]
    assert all(map(torch.equal, seen["generator"], last))
    assert len(seen["generator"]) == num_micro_batches
    assert len(runs) == num_micro_batches * (num_updates + (num_micro_batches > 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.discriminator_steps > 1])
def test_each_update_of_d_takes_images_and_latents_of_its_own(name: str, accelerator: Accelerator) -> None:
    """Changing what the last update takes leaves the gradients of the others alone; those of the first do not."""
    taken = inputs(name, 6)
    last = taken._replace(real=taken.real.clone())
    last.real[-1] = last.real[-1].flip(0) * 0.5
    losses = []
    for step_inputs in (taken, last):
        state = float64_state(name, accelerator)
        seen: list[tuple[float, float]] = []
        objective = state.discriminator.objective

        def noting(*arguments, seen=seen, objective=objective):
            out = objective(*arguments)
            seen.append((out.loss.item(), out.p_real.item()))  # hinge may be 0 for all real images
            return out

        state.discriminator.objective = noting
        step_inputs.train(state, 1 / 6)
        losses.append(seen)
    assert len(losses[0]) == state.recipe.discriminator_steps
    assert losses[0][:-1] == losses[1][:-1]
    assert losses[0][-1] != losses[1][-1]
    assert len(set(losses[0])) == len(losses[0])


def test_the_moving_average_counts_half_after_its_half_life(accelerator: Accelerator) -> None:
    recipe = replace(RECIPES["mlp-batchnorm"], ema_half_life=100)
    state = build_state(recipe, IMAGE_SHAPE, accelerator, seed=0, steps_per_epoch=3, dtype=torch.float64)
    assert state.average is not None
    before = copy.deepcopy(state.average.state_dict())
    with torch.no_grad():
        for value in state.generator.network.state_dict().values():
            if value.is_floating_point():
                value.add_(1.0)
    for _ in range(2):
        state.record(torch.zeros(len(METRICS)), 50)
    buffers = {name for name, _ in state.generator.network.named_buffers()}
    for name, value in state.average.state_dict().items():
        if name in buffers:
            assert torch.equal(value, state.generator.network.state_dict()[name])
        else:
            torch.testing.assert_close(value, before[name] + 0.5)
    other = build_state(recipe, IMAGE_SHAPE, accelerator, seed=1, steps_per_epoch=3, dtype=torch.float64)
    other.load(state.tensors(), state.counters(), 0)
    assert other.average is not None
    assert_close(other.average.state_dict(), state.average.state_dict(), relative=0)


class Following(nn.Module):
    """Replaces its buffer in each pass, and does not change it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = self.mean + x.detach().mean()
        return x * self.weight


def test_the_average_has_buffers_that_a_layer_replaces() -> None:
    network = nn.Sequential(Following(), nn.Tanh())
    average = copy.deepcopy(network)
    averaged = AveragedTensors(average, network)
    for expected in (2.0, 4.0):
        network(torch.full((3, 1), 2.0))
        averaged.move(0.5)
        assert average[0].mean.item() == expected


def test_weights_of_several_layers_are_averaged_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    network[2].weight = network[0].weight
    average = copy.deepcopy(network)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.add_(1.0)
        network[1].running_mean.add_(1.0)
    AveragedTensors(average, network).move(0.25)
    for layer in (average[0], average[2]):
        torch.testing.assert_close(layer.weight.detach(), before + 0.25)
    assert average[1].running_mean.tolist() == [1.0, 1.0]
