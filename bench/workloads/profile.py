"""Steps under PyTorch's profiler: never those that are timed, but some after them."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.harness.device import device_waiter
from bench.results.profile import OperatorTime, StepProfile
from bench.workloads.roofline import CountedOperator, recorded
from bench.workloads.trace import DEVICE_CATEGORIES, operators_of, read_trace

PROFILED_STEPS = 5
TRACE_SUFFIX = ".trace.json.gz"
MOST_OPERATORS = 40
"""Operators that a record has; further ones are added up."""
OTHERS = "others"


def profiled(steps: Iterator[object], device: torch.device, trace: Path) -> dict[str, Any]:
    """Take steps under the profiler, write their trace for Chrome or Perfetto, and return the profile, JSON-ready.

    Args:
        steps: Those of the case's own arm.
        device: Where they are taken.
        trace: The file to write.
    """
    counted = recorded(lambda: next(steps)).operators
    wait = device_waiter(device)
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities):  # what happens once happens here
        next(steps)
        wait()
    with profile(activities=activities, record_shapes=True) as profiler:
        began = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            next(steps)
        wait()
        seconds = time.perf_counter() - began
    profiler.export_chrome_trace(str(trace))
    events = read_trace(trace)
    operators = operators_of(events, PROFILED_STEPS, {name for name, _ in counted}, on_gpu=on_gpu)
    operators = [_with_work(operator, counted.get((operator.name, operator.part))) for operator in operators]
    num_kernels = sum(event.get("cat") in DEVICE_CATEGORIES for event in events)
    return StepProfile(
        trace=trace.name,
        num_steps=PROFILED_STEPS,
        seconds=seconds / PROFILED_STEPS,
        operators=_longest(operators),
        num_kernels=num_kernels / PROFILED_STEPS,
    ).to_json()


def unprofiled(steps: Iterator[object]) -> None:
    """Take as many steps as `profiled` does, in a process beside the one that is profiled."""
    for _ in range(PROFILED_STEPS + 2):
        next(steps)


def _with_work(operator: OperatorTime, counted: CountedOperator | None) -> OperatorTime:
    """Add what was counted of an operator, if it is called as often: a compiler takes some operators together."""
    if counted is None or counted.calls != operator.calls:
        return operator
    return replace(operator, flops=float(counted.flops), traffic_bytes=float(counted.traffic_bytes))


def _longest(operators: list[OperatorTime]) -> list[OperatorTime]:
    kept = operators[:MOST_OPERATORS]
    if others := operators[MOST_OPERATORS:]:
        calls, seconds, kernels = (
            sum(getattr(operator, name) for operator in others) for name in ("calls", "seconds", "kernels")
        )
        kept.append(OperatorTime(OTHERS, "", calls, seconds, kernels))
    return kept
