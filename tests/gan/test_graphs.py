"""Steps as CUDA graphs, simulated on the CPU: `tests/test_gpu.py` has the real ones."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn

from bench.stability.precision import precision_errors
from bench.stability.semantics import semantics
from bench.stability.steps import built_state, train_steps
from gan.errors import UsageError
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.schedules import Linear
from gan.options import TrainOptions
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.session.run import prepare
from gan.session.strategy import _require_supported
from gan.surface import NOWHERE, whole_batches
from gan.training.batch import Batch, StepInputs
from gan.training.execution import Execution
from gan.training.graphs import WARM_UP_STEPS
from gan.training.optimizers import TensorAdam, build_optimizer, set_numbers
from gan.training.run_step import run_step
from gan.training.state import TrainState
from tests.conftest import quick_or_slow
from tests.gan.graph_simulator import SimulatedGraph, simulate_graphs
from tests.gan.reference import (
    LAZY,
    SCHEDULED,
    assert_close,
    gradients,
    inputs,
    small_state,
    with_large_epsilon,
)

NUM_STEPS = 6


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_graphs(monkeypatch)


def build(name: str, *, cuda_graph: bool) -> TrainState:
    return small_state(
        name,
        Accelerator(cpu=True),
        seed=3,
        steps_per_epoch=20,
        dtype=torch.float64,
        execution=Execution(cuda_graph=cuda_graph),
    )


def step_inputs(state: TrainState, name: str, num_images: int, step: int) -> StepInputs:
    return inputs(name, num_images, step).of(state, 1 / num_images)


def train(
    state: TrainState, name: str, num_steps: int = NUM_STEPS, sizes: tuple[int, ...] = (8,)
) -> dict[str, Tensor]:
    first = state.progress.step
    for step in range(first, first + num_steps):
        torch.default_generator.manual_seed(step)
        size = sizes[step % len(sizes)]
        state.record(run_step(state, step_inputs(state, name, size, step)), 1000)
    return {name: value.clone() for name, value in state.tensors().items()}


def num_replays(state: TrainState) -> list[int]:
    assert state.graphs is not None
    graphs = [captured.graph for captured in state.graphs._captured.values()]
    assert all(isinstance(graph, SimulatedGraph) for graph in graphs)
    return [graph.num_replays for graph in graphs]


@pytest.mark.parametrize(
    "name", quick_or_slow(RECIPES, quick=["mlp-dropout", "wgan-gp"], slow=["mlp-batchnorm", "cgan", "r3gan"])
)
def test_graphs_train_as_single_kernels_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules change at every step here, and so do random numbers."""
    monkeypatch.setitem(RECIPES, name, with_large_epsilon(RECIPES[name]))
    eager = train(build(name, cuda_graph=False), name)
    state = build(name, cuda_graph=True)
    graphed = train(state, name)
    kinds = Counter(state.recipe.due(step) for step in range(NUM_STEPS))  # lazy penalties make a step another one
    assert num_replays(state) == [count - WARM_UP_STEPS for count in kinds.values() if count > WARM_UP_STEPS]
    assert_close(graphed, eager, relative=1e-12)


@pytest.mark.parametrize("name", [SCHEDULED, LAZY[2]], ids=label_of)
def test_graphs_follow_schedules_and_what_was_seen(name: str) -> None:
    """A number that a graph repeats, in place of a tensor that it reads, makes another course."""
    eager = train(build(name, cuda_graph=False), name, 18)
    state = build(name, cuda_graph=True)
    graphed = train(state, name, 18)
    kinds = {state.recipe.due(step) for step in range(18)}
    assert len(num_replays(state)) == len(kinds)
    assert_close(graphed, eager, relative=1e-12)


def test_graphs_skip_updates_that_overflow_as_single_kernels_do() -> None:
    """As in fp16. Then the scale falls. It grows after two other updates, those for lazy penalties included."""
    name = LAZY[0]
    weights = []
    counts = []
    for cuda_graph in (False, True):
        state = build(name, cuda_graph=cuda_graph)
        players = state.players.values()
        for player in players:
            player.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for step in range(18):
            taken = step_inputs(state, name, 8, step)
            if step in (12, 13, 16):  # replays with the penalties of both networks, with none, and with that of G
                taken = taken._replace(real=taken.real * math.inf)
            state.record(run_step(state, taken), 1000)
        counts.append(
            [(next(iter(one.optimizer.state.values()))["step"].item(), one.scaler.get_scale()) for one in players]
        )
        weights.append({key: value for key, value in state.tensors().items() if key != "history"})
    assert counts[1] == counts[0]
    num_taken, _ = counts[0][0]
    assert num_taken == state.recipe.num_updates("discriminator", 18) - 3
    assert_close(weights[1], weights[0], relative=1e-12)


def test_each_kind_of_steps_has_its_graph_and_gradients() -> None:
    """As the smaller last batch of an epoch."""
    eager = build("mlp", cuda_graph=False)
    state = build("mlp", cuda_graph=True)
    for _ in range(10):
        expected = train(eager, "mlp", 1, sizes=(8, 8, 4))
        assert_close(train(state, "mlp", 1, sizes=(8, 8, 4)), expected, relative=1e-12)
        assert_close(gradients(state), gradients(eager), relative=1e-12)
    assert num_replays(state) == [5, 1]


def test_micro_batches_are_of_another_kind() -> None:
    eager = build("mlp", cuda_graph=False)
    state = build("mlp", cuda_graph=True)
    for number in range(6):
        for one in (eager, state):
            taken = step_inputs(one, "mlp", 8, number)._replace(num_micro_batches=1 + number % 2)
            one.record(run_step(one, taken), 8)
    assert num_replays(state) == [1, 1]
    assert_close(state.tensors(), eager.tensors(), relative=1e-12)


def test_a_graph_does_not_outlive_what_it_reads() -> None:
    state = build("mlp", cuda_graph=True)
    begun = train(state, "mlp", 4)
    counters = state.counters()
    expected = train(state, "mlp", 6)
    state.load({**begun, "history": begun["history"]}, counters, 0)
    assert_close(train(state, "mlp", 6), expected, relative=1e-12)


def test_a_run_with_graphs_goes_on_without_and_the_other_way_round() -> None:
    """RMSprop counts its steps on the host, unless a graph counts them."""
    expected = train(build("wgan", cuda_graph=False), "wgan", 8)
    for first in (False, True):
        begun = build("wgan", cuda_graph=first)
        train(begun, "wgan", 4)
        state = build("wgan", cuda_graph=not first)
        state.load(begun.tensors(), begun.counters(), 0)
        assert_close(train(state, "wgan", 4), expected, relative=1e-12)


def test_a_step_that_asks_the_host_is_refused_in_one_line() -> None:
    state = build("mlp", cuda_graph=True)
    objective = state.discriminator.objective

    def asking(batch: Batch, fake: Tensor) -> Any:
        output = objective(batch, fake)
        assert float(output.loss.detach()) < 1e9
        return output

    state.discriminator.objective = asking
    train(state, "mlp", WARM_UP_STEPS)
    with pytest.raises(UsageError, match=r"--cuda-graph: .*operation not permitted.*; use --no-cuda-graph"):
        train(state, "mlp", 1)


@pytest.mark.parametrize(
    ("settings", "is_tensor"),
    [
        (RMSprop(Linear(1e-3, 1e-4, images=3000)), False),
        (Adam(Linear(1e-3, 1e-4, images=3000), betas=(0.5, Linear(0.9, 0.99, images=3000))), True),
        (Adam(1e-3, betas=(0.0, Linear(0.9, 0.99, images=3000))), True),
    ],
)
def test_optimizers_of_graphs_do_as_pytorch_s_do(settings: Adam | RMSprop, is_tensor: bool) -> None:
    networks = []
    for capturable in (False, True):
        torch.manual_seed(0)
        network = nn.Linear(5, 3, dtype=torch.float64)
        optimizer = build_optimizer(settings, network, torch.device("cpu"), capturable=capturable)
        assert isinstance(optimizer, TensorAdam) is (is_tensor and capturable)
        numbers = [number for number in optimizer.param_groups[0].values() if isinstance(number, Tensor)]
        for step in range(5):
            network(torch.ones(2, 5, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
            set_numbers(optimizer, settings.after(1000 * step))
        assert all(number is optimizer.param_groups[0]["lr"] for number in numbers)
        networks.append(dict(network.named_parameters()))
    assert_close(networks[1], networks[0], relative=1e-13)


@pytest.mark.parametrize(
    ("device", "processes", "backend", "precision", "obstacle"),
    [
        ("cpu", 1, DynamoBackend.NO, "no", "needs an NVIDIA GPU, and this is cpu"),
        ("cuda", 2, DynamoBackend.NO, "no", "takes one process, and these are 2"),
        ("cuda", 1, DynamoBackend.INDUCTOR, "no", "takes no compiler, and --dynamo_backend is inductor"),
        ("cuda", 1, DynamoBackend.NO, "fp16", "fp16 needs a fused optimizer without a schedule"),
    ],
)
def test_what_no_graph_can_hold_is_refused(
    device: str, processes: int, backend: DynamoBackend, precision: str, obstacle: str
) -> None:
    accelerator: Any = SimpleNamespace(
        device=torch.device(device),
        num_processes=processes,
        mixed_precision=precision,
        distributed_type="NO",
        state=SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=backend, fullgraph=False, mode="default")),
    )
    for recipe in ("wgan", "r3gan"):
        with pytest.raises(UsageError, match=f"^--cuda-graph: {obstacle}.*; use --no-cuda-graph$"):
            _require_supported(accelerator, TrainOptions(recipe=recipe, cuda_graph=True))


@pytest.mark.parametrize("name", quick_or_slow(["mlp", "wgan", "r3gan"], quick=["r3gan"]))
def test_optimizers_of_graphs_pass_their_tiers(name: str) -> None:
    """Also after steps in which a schedule has changed their numbers."""
    run, _ = prepare(TrainOptions(recipe=name, dataset="digits", batch_size=8, output=NOWHERE))
    run = whole_batches(replace(run, options=replace(run.options, cuda_graph=True)))
    state = built_state(run, run.steps_per_epoch, torch.float32)
    train_steps(run, state, 3)
    checks = [*semantics(run), *precision_errors(run, state, "fp32")]
    assert [check for check in checks if not check.passed] == []
