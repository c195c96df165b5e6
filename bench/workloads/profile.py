"""Steps under PyTorch's profiler: never those that are timed, but some after them."""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.harness.device import device_waiter
from bench.harness.windows import whole_periods
from bench.results.folder import fitting_name
from bench.results.profile import OperatorTime, StepProfile
from bench.workloads.roofline import Recorder, recorded
from bench.workloads.trace import DEVICE_CATEGORIES, operators_of, read_trace

PROFILED_STEPS = 5
"""The least number; whole periods are taken."""
TRACE_SUFFIX = ".trace.json.gz"
MOST_OPERATORS = 40
"""Operators that a record has; further ones are added up."""
OTHERS = "others"


def trace_name(case: str) -> str:
    """Return the name of the file with the trace of a case; a long one is cut, and ends with a digest of it all.

    >>> trace_name("step my/gan:make-b64")
    'step_my_gan_make-b64.trace.json.gz'
    """
    return fitting_name(re.sub(r"[^\w.+=-]", "_", case)) + TRACE_SUFFIX


def profiled(steps: Iterator[object], device: torch.device, trace: Path, period: int = 1) -> dict[str, Any]:
    """Take steps under the profiler, write their trace for Chrome or Perfetto, and return the profile, JSON-ready.

    Args:
        steps: Those of the case's own arm.
        device: Where they are taken.
        trace: The file to write.
        period: Steps after which their costs repeat; whole periods are profiled.
    """
    counted = _counted(steps, period)
    num_steps = whole_periods(PROFILED_STEPS, period)
    wait = device_waiter(device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities):  # what happens once happens here
        next(steps)
        wait()
    with profile(activities=activities, record_shapes=True) as profiler:
        began = time.perf_counter()
        for _ in range(num_steps):
            next(steps)
        wait()
        seconds = time.perf_counter() - began
    profiler.export_chrome_trace(str(trace))
    events = read_trace(trace)
    operators = operators_of(events, num_steps, {name for name, _ in counted}, on_gpu=on_gpu)
    operators = [_with_work(operator, counted.get((operator.name, operator.part))) for operator in operators]
    num_kernels = sum(event.get("cat") in DEVICE_CATEGORIES for event in events)
    return StepProfile(
        trace=trace.name,
        num_steps=num_steps,
        seconds=seconds / num_steps,
        operators=_longest(operators),
        num_kernels=num_kernels / num_steps,
    ).to_json()


def unprofiled(steps: Iterator[object], period: int = 1) -> None:
    """Take as many steps as `profiled` does, in a process beside the one that is profiled."""
    for _ in range(period + 1 + whole_periods(PROFILED_STEPS, period)):
        next(steps)


def _counted(steps: Iterator[object], period: int) -> dict[tuple[str, str], OperatorTime]:
    """Return the calls, FLOPs and bytes of each operator in a step, the mean over a period; no times."""
    recorder = Recorder()
    for _ in range(period):
        recorded(lambda: next(steps), recorder)
    return {
        (name, part): OperatorTime(
            name,
            part,
            operator.calls / period,
            seconds=0.0,
            kernels=0.0,
            flops=operator.flops / period,
            traffic_bytes=operator.traffic_bytes / period,
        )
        for (name, part), operator in recorder.operators.items()
    }


def _with_work(operator: OperatorTime, counted: OperatorTime | None) -> OperatorTime:
    """Add what was counted of an operator, if it is called as often: a compiler takes some operators together."""
    if counted is None or not math.isclose(counted.calls, operator.calls):
        return operator
    return replace(operator, flops=counted.flops, traffic_bytes=counted.traffic_bytes)


def _longest(operators: list[OperatorTime]) -> list[OperatorTime]:
    kept = operators[:MOST_OPERATORS]
    if others := operators[MOST_OPERATORS:]:
        calls, seconds, kernels = (
            sum(getattr(operator, name) for operator in others) for name in ("calls", "seconds", "kernels")
        )
        kept.append(OperatorTime(OTHERS, "", calls, seconds, kernels))
    return kept
