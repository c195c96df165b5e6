"""What only a CUDA device can show. Every test iterates the recipes."""

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from bench.harness.device import device_memory, gpu_uuid
from bench.harness.gpu import GpuWatch
from bench.harness.single import SingleEffort, measure_step
from bench.results.profile import StepProfile
from bench.stability.determinism import repetition
from bench.workloads.attribution import Marks, attributed
from bench.workloads.profile import profiled
from bench.workloads.trace import NO_PART
from gan.evaluate import evaluate
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.methods.optimizers import RMSprop
from gan.options import TrainOptions
from gan.quality.paper import paper_scores
from gan.quality.scores import Features
from gan.recipes import RECIPES
from gan.run_options import EvaluateOptions
from gan.session.batch_size import with_batch_size
from gan.session.run import prepare
from gan.surface import NOWHERE, MeasuredRun, whole_batches
from gan.training.checkpoints import load_checkpoint, newest_first
from gan.training.execution import Execution
from gan.training.host_copy import HostCopy
from gan.training.step import train_step
from tests.gan.reference import (
    assert_close,
    fix_dropout,
    float64_state,
    gradients,
    inputs,
    small_state,
    step_gradients,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_on_the_gpu_equal_those_on_the_cpu(name: str) -> None:
    results = []
    taken = inputs(name, 12)
    for cpu in (True, False):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=cpu)
        state = float64_state(name, accelerator)
        for player in state.players.values():
            fix_dropout(player.network, torch.arange(12))
        device = accelerator.device
        taken.to(device).train(state, 1 / 12)
        results.append({key: value.cpu() for key, value in gradients(state).items()})
    on_cpu, on_gpu = results
    assert_close(on_gpu, on_cpu, relative=1e-9)


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["wgan-gp", "sngan", "stylegan2-ada"])
def test_compiled_gradients_on_the_gpu_equal_eager_ones(name: str) -> None:
    """Second derivatives, buffers that a forward pass overwrites, augmentation with lazy penalties."""
    eager, compiled = (step_gradients(name, backend, cpu=False) for backend in ("no", "inductor"))
    assert_close(compiled, eager, relative=1e-9)


def test_the_copy_of_a_save_waits_for_nothing_and_has_the_values_of_its_moment() -> None:
    weights = torch.ones(2**24, device="cuda")
    filters = torch.ones(64, 3, 4, 4, device="cuda").to(memory_format=torch.channels_last)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = HostCopy({"weights": weights, "filters": filters, "step": torch.tensor(1.0)})
        weights.zero_()
        filters.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    copies = copy.tensors()
    assert copies["weights"].is_pinned()
    assert all(tensor.is_contiguous() and bool((tensor == 1).all()) for tensor in copies.values())


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_never_synchronises(name: str, precision: str) -> None:
    if precision == "fp16" and isinstance(RECIPES[name].optimizer, RMSprop):
        pytest.skip("PyTorch has no fused RMSprop: its loss scaler reads on the host whether a step overflowed")
    accelerator = Accelerator(mixed_precision=precision)
    state = small_state(name, accelerator, seed=0, steps_per_epoch=10)
    device = accelerator.device
    taken = inputs(name, 16).to(device, torch.float32)
    for _ in range(2):  # which set the optimizer and the scaler up
        state.record(taken.train(state, 1 / 16), 16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            state.record(taken.train(state, 1 / 16), 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.history[:4].isfinite().all()


@pytest.mark.parametrize("precision", ["no", "fp16"])
@pytest.mark.parametrize("name", ["mlp", "wgan-gp", "r3gan"])
def test_a_step_of_micro_batches_never_synchronises(name: str, precision: str) -> None:
    state = small_state(name, Accelerator(mixed_precision=precision), seed=0, steps_per_epoch=10)
    taken = inputs(name, 16).to("cuda", torch.float32).of(state, 1 / 16)._replace(num_micro_batches=4)
    for _ in range(2):  # which set the optimizer and the scaler up
        state.record(train_step(state, taken), 16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        state.record(train_step(state, taken), 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.history[:3].isfinite().all()


def test_memory_is_that_of_a_micro_batch() -> None:
    def peak_bytes(num_images: int, num_micro_batches: int) -> int:
        state = small_state("r3gan", Accelerator(), seed=0, steps_per_epoch=10)
        taken = inputs("r3gan", num_images).to("cuda", torch.float32).of(state, 1 / num_images)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train_step(state, taken._replace(num_micro_batches=num_micro_batches)).tolist()
        return torch.cuda.max_memory_allocated() - before

    whole, part, parts = peak_bytes(1024, 1), peak_bytes(128, 1), peak_bytes(1024, 8)
    assert part < 0.3 * whole
    assert parts < 1.3 * part


def test_the_largest_batch_fits_and_twice_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    """With little memory for this process, it is soon found."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.mem_get_info()[1])
    options = TrainOptions(
        recipe="dcgan", dataset="synthetic", image_shape=(3, 64, 64), batch_size=16, find_batch_size=True
    )
    try:
        found = with_batch_size(options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.batch_size is not None
    assert f"{2 * found.batch_size:>12,}  no: out of memory" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_resumes_on_the_gpu(precision: str, run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    settings = {"recipe": "mlp-dropout", "dataset": "digits", "batch_size": 200}
    run = run_training(steps=5, **settings)
    run_training(steps=12, resume=True, **settings)
    progress = load_checkpoint(newest_first(run / "checkpoints")[0]).counters["progress"]
    assert progress["step"] == 12
    lines = read_json_lines(RunFolder(run).metrics)
    assert ("skipped_steps_generator" in lines[-1]) is (precision == "fp16")


@pytest.mark.parametrize("name", ["mlp-dropout", "sngan", "stylegan2"])
def test_activations_are_the_same_when_they_are_computed_again(name: str) -> None:
    """A thread of the GPU does so; masks, noise and spectral norm's vectors are those of the first time."""
    trained = []
    for recompute in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        state = float64_state(name, Accelerator(), execution=Execution(recompute=recompute))
        for step in range(2):
            torch.cuda.manual_seed(step)
            state.record(inputs(name, 6, step).to("cuda").train(state, 1 / 6), 6)
        trained.append({key: value.cpu() for key, value in state.tensors().items()})
    assert_close(trained[1], trained[0], relative=1e-9)


def test_a_run_is_scored_on_the_gpu_as_it_is_afterwards(run_training) -> None:
    settings = {"recipe": "mlp-batchnorm", "dataset": "digits", "batch_size": 200, "epochs": 2}
    run = run_training(evaluate_every=1797, keep_best="fid", **settings)
    lines = read_json_lines(RunFolder(run).metrics)
    scores = evaluate(EvaluateOptions(run, num_images=898))["scores"]
    assert scores == pytest.approx({name: lines[-1][name] for name in scores})


def test_scores_of_features_on_the_gpu_are_those_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.quality.paper.KID_SUBSET_SIZE", 100)
    source = torch.Generator().manual_seed(0)
    numbers = torch.randn(2, 300, 16, generator=source, dtype=torch.float64)
    probabilities = torch.rand(300, 5, generator=source, dtype=torch.float64).softmax(1)

    def scores(device: str) -> dict[str, float]:
        return paper_scores(*(Features(features.to(device), probabilities) for features in numbers))

    assert scores("cuda") == pytest.approx(scores("cpu"), rel=1e-9)


def test_convolutions_repeat_themselves_with_deterministic_algorithms(tmp_path: Path) -> None:
    run, state = prepare(TrainOptions(recipe="dcgan", dataset="digits", batch_size=16, output=NOWHERE))
    checks = repetition(whole_batches(run), state, tmp_path)
    assert [check.value for check in checks] == [0, 0]


def test_a_measured_step_takes_as_long_as_the_gpu_does() -> None:
    """Launching 20 products takes a small part of the time that they take."""
    matrix = torch.randn(4096, 4096, device="cuda")

    def step() -> None:
        for _ in range(20):
            matrix @ matrix

    figures = measure_step(step, 1, SingleEffort(rounds=10))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    assert figures.median_seconds == pytest.approx(start.elapsed_time(end) / 1000, rel=0.3)
    assert figures.device.startswith("cuda:0 ")
    assert figures.peak_device_bytes is not None
    assert figures.peak_device_bytes > 4 * matrix.numel()


def test_the_gpu_says_what_a_second_of_products_takes() -> None:
    pytest.importorskip("pynvml")
    matrix = torch.randn(4096, 4096, device="cuda")
    watch = GpuWatch.of(gpu_uuid(matrix.device), os.getpid())
    if "absent" in watch.facts:
        pytest.skip(watch.facts["absent"])
    watch.before()

    def steps(half_way: Callable[[], None]) -> int:
        for action in (half_way, torch.cuda.synchronize):
            for _ in itertools.repeat(None, 200):
                matrix @ matrix
            action()
        return 400

    watch.count_energy(steps, 1)
    watch.after()
    facts = watch.facts
    assert facts["busy"]["sm_mhz"] <= facts["limits"]["most_sm_mhz"]
    assert facts["busy"]["power_watts"] <= 1.2 * facts["limits"]["power_limit_watts"]
    energy = facts["energy"]
    idle_watts, most_watts = 10, 1.2 * facts["limits"]["power_limit_watts"]
    assert idle_watts < energy["joules"] / energy["seconds"] < most_watts
    assert facts["busy"]["used_bytes"] > 4 * matrix.numel()


def test_the_device_holds_at_least_what_is_reserved_and_that_what_is_allocated() -> None:
    tensor = torch.ones(2**26, device="cuda")
    memory = device_memory(tensor.device)
    assert memory
    assert 4 * tensor.numel() <= torch.cuda.memory_reserved() <= memory["used_bytes"] <= memory["total_bytes"]
    assert memory["peak_reserved_bytes"] >= torch.cuda.memory_reserved()


@pytest.mark.parametrize("name", ["mlp", "dcgan", "sngan"])
def test_phases_add_up_to_the_step_and_marks_wait_for_nothing(name: str) -> None:
    run, state = prepare(TrainOptions(recipe=name, dataset="synthetic", batch_size=16, output=NOWHERE))
    steps = MeasuredRun(whole_batches(run), state).steps()
    marks = Marks(run.place.device)
    for _ in range(5):
        with attributed(state, marks.mark):
            next(steps)
    torch.cuda.synchronize()
    marks.seconds()
    torch.cuda.set_sync_debug_mode("error")
    try:
        began = time.perf_counter()
        for _ in range(20):
            with attributed(state, marks.mark):
                next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    by_phase = marks.seconds()
    assert sum(by_phase.values()) == pytest.approx(seconds, rel=0.02)
    assert min(by_phase[phase] for phase in ("data", "D forward", "D backward", "G backward", "D optimizer")) > 0


def test_a_profile_has_kernels_of_every_part_of_the_step(tmp_path: Path) -> None:
    run, state = prepare(TrainOptions(recipe="mlp", dataset="synthetic", batch_size=64, output=NOWHERE))
    steps = MeasuredRun(whole_batches(run), state).steps()
    next(steps)
    profile = StepProfile.of(profiled(steps, run.place.device, tmp_path / "a.trace.json.gz"))
    assert profile.num_kernels > 20
    assert 0 < profile.busy_seconds < profile.seconds
    with_kernels = [operator for operator in profile.operators if operator.kernels]
    assert {"forward", "backward", "optimizer"} <= {operator.part for operator in with_kernels}
    assert sum(operator.kernels for operator in with_kernels) == pytest.approx(profile.num_kernels)
    products = [operator for operator in with_kernels if operator.flops]
    assert {operator.name for operator in products} >= {"aten::addmm", "aten::mm"}
    launched = [operator for operator in with_kernels if operator.part != NO_PART]
    assert sum(operator.kernels for operator in launched) > 0.9 * profile.num_kernels
