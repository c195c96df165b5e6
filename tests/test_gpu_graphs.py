"""Steps as CUDA graphs on a GPU: they must train as steps without do."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from bench.stability.determinism import deterministic_algorithms, repetition
from bench.stability.precision import precision_errors
from bench.stability.semantics import semantics
from bench.stability.steps import train_steps
from gan.options import TrainOptions
from gan.recipe_files import label_of
from gan.recipes import RECIPES
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from gan.training.checkpoints import load_checkpoint, newest_first
from gan.training.execution import Execution
from gan.training.graphs import WARM_UP_STEPS
from gan.training.run_step import run_step
from gan.training.state import TrainState
from tests.gan.reference import AUGMENTED, LAZY, NEAR, OPTIONAL, SCHEDULED, assert_close, inputs, small_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
NUM_STEPS = 20


def is_last(step: int) -> bool:
    """Whether a step's batch is the last one of an epoch, which is smaller."""
    return step % 5 == 4


def trained(
    name: str, dtype: torch.dtype, precision: str, *, cuda_graph: bool
) -> tuple[TrainState, dict[str, Tensor]]:
    AcceleratorState._reset_state(reset_partial_state=True)
    state = small_state(
        name,
        Accelerator(mixed_precision=precision),
        seed=3,
        steps_per_epoch=NUM_STEPS,
        dtype=dtype,
        execution=Execution(cuda_graph=cuda_graph),
    )
    with deterministic_algorithms():
        for step in range(NUM_STEPS):
            size = 6 if is_last(step) else 8
            taken = inputs(name, size, step).to("cuda", dtype).of(state, 1 / size)
            torch.cuda.manual_seed(step)
            state.record(run_step(state, taken), 5000)
    return state, {key: value.cpu() for key, value in state.tensors().items()}


@pytest.mark.parametrize("name", [*RECIPES, *LAZY, SCHEDULED, OPTIONAL, AUGMENTED, NEAR], ids=label_of)
def test_graphs_train_in_float64_as_single_kernels_do(name: str) -> None:
    """Schedules change from step to step, and dropout draws."""
    _, eager = trained(name, torch.float64, "no", cuda_graph=False)
    state, graphed = trained(name, torch.float64, "no", cuda_graph=True)
    assert state.graphs is not None
    kinds = Counter((state.recipe.due(step), is_last(step)) for step in range(NUM_STEPS))
    assert len(state.graphs._captured) == sum(count > WARM_UP_STEPS for count in kinds.values())
    assert_close(graphed, eager, relative=1e-7)


@pytest.mark.parametrize(("name", "precision"), [("mlp-dropout", "no"), ("dcgan", "bf16"), ("mlp", "fp16")])
def test_graphs_train_the_same_bits_as_single_kernels(name: str, precision: str) -> None:
    _, eager = trained(name, torch.float32, precision, cuda_graph=False)
    _, graphed = trained(name, torch.float32, precision, cuda_graph=True)
    different = [key for key in eager if not torch.equal(eager[key], graphed[key])]
    assert not different


@pytest.mark.parametrize("name", ["mlp-dropout", "r3gan"])
def test_steps_of_a_graph_repeat_and_resume(name: str, tmp_path: Path) -> None:
    options = TrainOptions(recipe=name, dataset="digits", batch_size=16, output=NOWHERE, cuda_graph=True)
    run, state = prepare(options)
    checks = repetition(whole_batches(run), state, tmp_path)
    assert [check.value for check in checks] == [0, 0]


@pytest.mark.parametrize("name", ["mlp", "wgan", "r3gan"])
def test_updates_of_optimizers_for_graphs_pass_their_tiers(name: str) -> None:
    options = TrainOptions(recipe=name, dataset="digits", batch_size=16, output=NOWHERE, cuda_graph=True)
    run, state = prepare(options)
    run = whole_batches(run)
    train_steps(run, state, 5)
    assert [check for check in [*semantics(run), *precision_errors(run, state, "fp32")] if not check.passed] == []


def test_a_run_of_graphs_resumes(run_training) -> None:
    settings = {"recipe": "mlp-dropout", "dataset": "digits", "batch_size": 200, "cuda_graph": True}
    whole = run_training("whole", steps=16, **settings)
    run_training("parts", steps=5, **settings)
    parts = run_training("parts", **{**settings, "steps": 16, "resume": True})
    expected, resumed = (load_checkpoint(newest_first(run / "checkpoints")[0]).tensors for run in (whole, parts))
    different = [key for key in expected if not torch.equal(expected[key], resumed[key])]
    assert not different


def test_a_replayed_step_never_synchronises() -> None:
    state, _ = trained("r3gan", torch.float32, "bf16", cuda_graph=True)
    state.end_epoch()
    taken = inputs("r3gan", 8).to("cuda", torch.float32).of(state, 1 / 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(WARM_UP_STEPS):
            state.record(run_step(state, taken), 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.history[:WARM_UP_STEPS].isfinite().all()
