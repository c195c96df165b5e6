"""FLOPs and bytes of a step, counted and by hand."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bench.harness.windows import Effort
from bench.results.work import Peaks, StepWork
from bench.suite.cases import Case
from bench.workloads import step
from bench.workloads.roofline import COUNTED, recorded, step_cost
from bench.workloads.setup import CoreSetup
from gan.methods.penalties import R1
from gan.options import TrainOptions
from gan.recipes import RECIPES, Recipe
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.state import TrainState
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state

BATCH = 8


def counted(name: str, accelerator: Accelerator):
    state = small_state(name, accelerator, seed=0, steps_per_epoch=2)
    return state, step_cost(state, inputs(name, BATCH).to(torch.float32).of(state, 1 / BATCH))


def widths(recipe: Recipe) -> tuple[list[int], list[int]]:
    return [recipe.latent_dim, *recipe.generator.widths, 784], [784, *recipe.discriminator.widths, 1]


def products(sizes: list[int]) -> list[int]:
    return [2 * rows * columns for rows, columns in itertools.pairwise(sizes)]


def flops_by_hand(recipe: Recipe) -> int:
    """Per image. A layer costs one product forwards, one for its weights' gradient, one for its input's.

    G's turn: G forwards, D forwards, D's input gradients (its weights are frozen), G's weights' gradients, and
    input gradients of all of G's layers but the first. D's turn, on a real and a generated image: D forwards, its
    weights' gradients, and input gradients of all but its first layer. Where D comes first, its fakes are made
    apart.
    """
    g, d = map(products, widths(recipe))
    generator_turn = sum(g) + 2 * sum(d) + sum(g) + sum(g[1:])
    discriminator_turn = 2 * (sum(d) + sum(d) + sum(d[1:]))
    fakes = 0 if recipe.generator_first else sum(g)
    return generator_turn + discriminator_turn + fakes


@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if type(row.generator).__name__ == "MLP"])
def test_counted_flops_are_those_by_hand(name: str, accelerator: Accelerator) -> None:
    _, cost = counted(name, accelerator)
    assert cost.flops == BATCH * flops_by_hand(RECIPES[name])


def test_the_order_of_an_epoch_is_divided_among_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps are recorded: the order is drawn once, whatever is done with it."""
    options = TrainOptions(recipe="mlp-compact", dataset="digits", batch_size=100, output=NOWHERE, num_threads=1)
    run, state = prepare(options)
    setup = CoreSetup(Case(recipe="mlp-compact"), whole_batches(run), state, tmp_path, {}, Effort(1, 1))
    traffic = []
    for num_steps in (2, 4, 10**6):
        monkeypatch.setattr(step, "MOST_DATA_STEPS", num_steps)
        traffic.append(step._data_work(setup).traffic_bytes)
    assert traffic[:2] == pytest.approx([traffic[2]] * 2, rel=1e-3)


def test_an_image_of_mlp_costs_29_million(accelerator: Accelerator) -> None:
    _, cost = counted("mlp", accelerator)
    assert cost.flops / BATCH == 28_975_104


def lasting_floats(state: TrainState) -> int:
    return sum(parameter.numel() for player in state.players.values() for parameter in player.network.parameters())


def test_least_bytes_are_inputs_once_and_weights_and_moments_twice(accelerator: Accelerator) -> None:
    state, cost = counted("mlp", accelerator)
    taken = 4 * BATCH * (784 + 100)
    step_counts = 4 * sum(len(player.optimizer.state) for player in state.players.values())
    assert cost.least_bytes == taken + 2 * (3 * 4 * lasting_floats(state) + step_counts)


WITHOUT_PENALTY = [name for name, recipe in RECIPES.items() if not recipe.penalty]


@pytest.mark.parametrize(
    "name",
    quick_or_slow(WITHOUT_PENALTY, quick=("mlp-batchnorm", "cgan", "sngan"), slow=("mlp", "wgan", "biggan")),
)
def test_the_products_taken_again_are_all_of_the_step(name: str, accelerator: Accelerator) -> None:
    """The counter around the step itself finds as much; a penalty's gradient it cannot be put around."""
    from torch.utils.flop_counter import FlopCounterMode

    state, cost = counted(name, accelerator)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as around:
        inputs(name, BATCH).to(torch.float32).train(state, 1 / BATCH)
    assert around.get_total_flops() == cost.flops


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.penalty])
def test_a_penalty_costs_more_than_none(
    name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, with_penalty = counted(name, accelerator)
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], penalty=None))
    _, without = counted(name, accelerator)
    assert 1.2 * without.flops < with_penalty.flops < 3 * without.flops


def all_work(name: str, accelerator: Accelerator) -> tuple[TrainState, dict[str, StepWork]]:
    state, _ = counted(name, accelerator)  # whose step gave the optimizers their moments
    return state, dict(step_cost(state, inputs(name, BATCH).to(torch.float32).of(state, 1 / BATCH)).work)


@pytest.mark.parametrize(("name", "floats_a_weight"), [("mlp", 7), ("sngan", 7), ("wgan", 5)])
def test_an_update_moves_seven_floats_a_weight_with_adam_and_five_with_rmsprop(
    name: str, floats_a_weight: int, accelerator: Accelerator
) -> None:
    state, work = all_work(name, accelerator)
    updates = {"D": state.recipe.discriminator_steps, "G": 1}
    for letter, player in zip("GD", (state.generator, state.discriminator), strict=True):
        num_weights = sum(parameter.numel() for parameter in player.network.parameters())
        moved = updates[letter] * floats_a_weight * 4 * num_weights
        assert work[f"{letter} optimizer"].optimizer_traffic_bytes == moved
    assert sum(value.optimizer_traffic_bytes for value in work.values()) == sum(
        work[f"{letter} optimizer"].optimizer_traffic_bytes for letter in "GD"
    )


@pytest.mark.parametrize(
    ("optimizer", "floats_a_weight"),
    [
        (partial(torch.optim.SGD, lr=0.1), 3),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9), 5),
        (partial(torch.optim.RMSprop, lr=0.1), 5),
        (partial(torch.optim.RMSprop, lr=0.1, centered=True, momentum=0.9), 9),
        (partial(torch.optim.Adam, lr=0.1, fused=True), 7),
        (partial(torch.optim.AdamW, lr=0.1, foreach=True), 7),
        (partial(torch.optim.Adam, lr=0.1, amsgrad=True), 9),
    ],
)
def test_any_optimizer_counts_by_its_moments(
    optimizer: Callable[..., torch.optim.Optimizer], floats_a_weight: int
) -> None:
    layer, idle = nn.Linear(3, 5), nn.Linear(3, 5)
    built = optimizer([*layer.parameters(), *idle.parameters()])

    def step() -> None:
        built.zero_grad()
        layer(torch.ones(2, 3)).sum().backward()
        built.step()

    step()
    assert sum(recorded(step).work.values(), StepWork()).optimizer_traffic_bytes == floats_a_weight * 4 * 20


ROWS = torch.tensor([2, 0])


@pytest.mark.parametrize(
    ("call", "floats"),
    [
        (lambda x, y: x.relu(), 2 * 24),
        (lambda x, y: x + y, 3 * 24),
        (lambda x, y: x.add_(y), 3 * 24),
        (lambda x, y: x.copy_(y), 2 * 24),
        (lambda x, y: x.zero_(), 24),
        (lambda x, y: x.view(24).t(), 0),
        (lambda x, y: torch.empty_like(x), 0),
        (lambda x, y: torch.cat([x, y]), 2 * 48),
        (lambda x, y: x.sum(), 25),
        (lambda x, y: x[:1].expand(100, 6) + 1.0, 6 + 600),
        (lambda x, y: torch._foreach_add_([x, y], [y, x]), 6 * 24),
        (lambda x, y: x @ y.T, 0),
        (lambda x, y: x[ROWS], 2 * 12 + 4),  # the rest of x is not read; an index takes as much as two floats
        (lambda x, y: torch.nn.functional.embedding(ROWS, x), 2 * 12 + 4),
    ],
)
def test_elementwise_operations_read_their_inputs_and_write_their_outputs(
    call: Callable[[Tensor, Tensor], object], floats: int
) -> None:
    x, y = torch.randn(4, 6), torch.randn(4, 6)
    work = sum(recorded(lambda: call(x, y)).work.values(), StepWork())
    assert work.elementwise_traffic_bytes == 4 * floats


def test_work_by_phase_adds_up_to_that_of_the_step(accelerator: Accelerator) -> None:
    _, work = all_work("sngan", accelerator)
    _, cost = counted("sngan", accelerator)
    assert sum(value.flops for value in work.values()) == cost.flops
    assert work["D backward"].flops > work["D forward"].flops > work["G forward"].flops > 0
    assert work["D optimizer"].flops == work["D optimizer"].elementwise_traffic_bytes == 0


def test_a_floor_in_sequence_is_a_sum() -> None:
    work = StepWork(flops=400, optimizer_traffic_bytes=30, elementwise_traffic_bytes=20)
    assert work.floor_seconds(Peaks(flops=100, traffic_bytes=10)) == 4 + 3 + 2
    assert StepWork.of(work.to_json()) == work
    assert work + work == work.times(2)


def test_a_fused_update_without_its_optimizer_counts_as_one() -> None:
    """As a hook of a parameter takes it in the backward pass."""
    weight, gradient, mean, square = (torch.rand(10, 7) for _ in range(4))
    settings = {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.0, "eps": 1e-8}

    def update() -> None:
        torch._fused_adam_(
            [weight], [gradient], [mean], [square], [], [torch.ones(())], amsgrad=False, maximize=False, **settings
        )

    work = sum(recorded(update).work.values(), StepWork())
    assert work.optimizer_traffic_bytes == 7 * 4 * 70 + 4  # and the number of the step


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_and_each_of_its_gradients_cost_the_same(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], groups: int
) -> None:
    """Also where a penalty differentiates again: the gradients of its gradient cost as much."""
    layer = kind(8, 16, 3, stride=2, padding=1, groups=groups)
    images = torch.randn(2, 8, 12, 10)
    places = 6 * 5 if kind is nn.Conv2d else 12 * 10
    each = 2 * len(images) * places * (8 * 16 // groups) * 3 * 3
    assert recorded(lambda: layer(images)).flops == each
    assert recorded(lambda: layer(images).sum().backward()).flops == 2 * each
    assert recorded(lambda: layer(images.clone().requires_grad_()).sum().backward()).flops == 3 * each

    def penalised() -> None:
        R1(1.0)(lambda x: layer(x).square().sum((1, 2, 3)), images, images).sum().backward()

    # the convolution and its gradient, the gradients of that, and of the convolution that the slope goes through
    assert recorded(penalised).flops == (2 + 2 + 2) * each


def test_products_that_are_alike_share_their_inputs() -> None:
    """The second derivative of a grouped convolution takes products of slices that are as long as the tensor."""
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, padding=1, groups=16)
    images = torch.randn(4, 64, 16, 16, requires_grad=True)

    def penalised() -> None:
        (slope,) = torch.autograd.grad(layer(images).sum(), images, create_graph=True)
        slope.square().sum().backward()

    recorders = [recorded(penalised) for _ in range(2)]
    inputs: dict = {}
    for recorder in recorders:
        for call in recorder.calls(inputs):
            call()
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in inputs.values())
    assert num_bytes < 16 * images.untyped_storage().nbytes()
