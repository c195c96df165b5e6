"""One step by itself, measured without pytest."""

import math
import time

import numpy as np
import pytest
import torch

from bench.harness import single
from bench.harness.single import SingleEffort, StepError, finite, measure_step


def test_a_window_ends_when_the_device_has_done_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[float] = []

    def wait() -> None:
        time.sleep(sum(queued))
        queued.clear()

    monkeypatch.setattr(single, "wait_for_what_was_used", wait)
    figures = measure_step(lambda: queued.append(0.001), 0, SingleEffort(rounds=5))
    assert 0.001 < min(figures.seconds) < 0.01
    assert not queued


def test_the_peak_of_any_gpu_is_that_since_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that is not the current GPU, here 0. It takes more memory in its first steps than later."""
    peaks = {0: 1000, 1: 0}
    num_steps = 0

    def step() -> None:
        nonlocal num_steps
        peaks[1] = max(peaks[1], 100 if num_steps < 3 else 10)
        num_steps += 1

    def reset(device: torch.device | None) -> None:
        peaks[device.index if device else 0] = 0

    for name, double in {
        "is_initialized": lambda: True,
        "synchronize": lambda _device: None,
        "reset_peak_memory_stats": reset,
        "max_memory_allocated": lambda device: peaks[device.index],
        "get_device_name": lambda _device: "a GPU",
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)
    effort = SingleEffort(rounds=2, window_seconds=1e-4, warmup_seconds=0.05)
    figures = measure_step(step, 0, effort, torch.device("cuda:1"))
    assert (figures.peak_device_bytes, peaks[0]) == (10, 1000)


@pytest.mark.slow
def test_a_real_compiler_inside_a_window_fails() -> None:
    @torch.compile(backend="eager", dynamic=False)
    def double(values: torch.Tensor) -> torch.Tensor:
        return 2 * values

    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        time.sleep(0.002)
        double(torch.ones(1 + len(steps) // 101))  # a compiler gives up after a few sizes

    with pytest.raises(StepError, match="compiled again inside window"):
        measure_step(step, 0, SingleEffort(rounds=300, warmup_seconds=0.2))


def test_windows_hold_whole_periods() -> None:
    effort = SingleEffort(rounds=3, window_seconds=0.002, warmup_seconds=0.1)
    figures = measure_step(lambda: time.sleep(0.0005), 0, effort, period=16)
    assert (figures.steps_per_window, figures.period) == (16, 16)


def test_figures_of_a_step() -> None:
    figures = single.StepFigures(
        seconds=tuple(map(float, range(101))),
        steps_per_window=1,
        images_per_step=100,
        first_step_seconds=0.0,
        compile_seconds=0.0,
        warmup_seconds=0.0,
        settled=True,
        peak_host_bytes=0,
        peak_device_bytes=None,
        device="cpu",
    )
    assert [figures.percentile_seconds(percent) for percent in (5, 95, 99)] == [5.0, 95.0, 99.0]
    assert (figures.median_seconds, figures.images_per_second) == (50.0, 2.0)


@pytest.mark.parametrize("value", [1.0, 3, "nan", None, {"a": [1.0, (2.0,)]}, object()], ids=str)
def test_what_has_no_number_that_is_not_finite_passes(value: object) -> None:
    assert finite(value)


def test_tensors_that_are_not_finite_are_seen() -> None:
    assert finite({"loss": torch.ones(2, requires_grad=True), "labels": torch.ones(2, dtype=torch.int64)})
    assert not finite((torch.tensor([0.0, math.nan]),))
    assert not finite(np.float32("nan"))
    assert not finite(np.array([0.0, math.inf]))
    assert finite([np.array([1, 2]), np.array(["text"]), np.ones(2)])


def test_tensors_that_pytorch_cannot_look_into_are_no_failure() -> None:
    assert finite(torch.ones(2, device="meta"))
    assert finite(torch.ones(2).to(torch.float8_e4m3fn))
    assert finite(torch.ones(2).to_sparse())
