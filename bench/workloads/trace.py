"""A profiler's trace in Chrome's format, read into the operators of a step.

Events lie inside one another: an operator calls others, and an optimizer's step and the nodes of a backward pass
are events, too. An operator here is the outermost event of a name that the step was counted by, with all that it
calls; where nothing was counted, an event that calls nothing. On a GPU its time is that of the kernels that it
launched.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.results.profile import OperatorTime

BACKWARD = "autograd::engine::evaluate_function"
OPTIMIZER = "Optimizer.step#"
HOST_CATEGORIES = ("cpu_op", "user_annotation")
DEVICE_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")
NO_PART = "graph"
"""The part of kernels that no operator launched: those of a CUDA graph."""


@dataclass
class _Total:
    calls: int = 0
    microseconds: float = 0.0
    kernels: int = 0


@dataclass
class _Event:
    """An event on the host and what it calls."""

    name: str
    start: float
    end: float
    external_id: int | None
    inner: list["_Event"] = field(default_factory=list)


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Return the events of a gzipped trace."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def operators_of(
    events: Sequence[Mapping[str, Any]], num_steps: int, counted: Collection[str], *, on_gpu: bool
) -> list[OperatorTime]:
    """Return the operators of a step, the longest first.

    Args:
        events: Of the trace.
        num_steps: Over which times are averaged.
        counted: Names of operators whose work is known.
        on_gpu: Whether kernels are what takes time.
    """
    totals: dict[tuple[str, str], _Total] = defaultdict(_Total)
    owners: dict[int, tuple[str, str]] = {}
    for name, part, event in _outermost(_nested(events), frozenset(counted)):
        total = totals[name, part]
        total.calls += 1
        total.microseconds += 0.0 if on_gpu else event.end - event.start
        for external_id in _external_ids(event):
            owners[external_id] = (name, part)
    for kernel in (event for event in events if event.get("cat") in DEVICE_CATEGORIES):
        owner = owners.get(kernel.get("args", {}).get("External id"), (_short(kernel["name"]), NO_PART))
        total = totals[owner]
        total.calls += owner[1] == NO_PART
        total.kernels += 1
        total.microseconds += float(kernel["dur"])
    times = [
        OperatorTime(
            name, part, total.calls / num_steps, total.microseconds / 1e6 / num_steps, total.kernels / num_steps
        )
        for (name, part), total in totals.items()
        if total.microseconds
    ]
    return sorted(times, key=lambda operator: -operator.seconds)


def _nested(events: Sequence[Mapping[str, Any]]) -> list[_Event]:
    """Return the outermost events of all threads of the host."""
    by_thread: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in HOST_CATEGORIES:
            by_thread[event["pid"], event["tid"]].append(event)
    outermost: list[_Event] = []
    for of_thread in by_thread.values():
        stack: list[_Event] = []
        for data in sorted(of_thread, key=lambda event: (float(event["ts"]), -float(event["dur"]))):
            start = float(data["ts"])
            external_id = data.get("args", {}).get("External id")
            inner = _Event(data["name"], start, start + float(data["dur"]), external_id)
            while stack and stack[-1].end <= start:
                stack.pop()
            (stack[-1].inner if stack else outermost).append(inner)
            stack.append(inner)
    return outermost


def _outermost(events: Sequence[_Event], counted: frozenset[str]) -> Iterator[tuple[str, str, _Event]]:
    """Yield name, part and event of each operator."""
    waiting = [(event, "forward") for event in events]
    while waiting:
        event, part = waiting.pop()
        if event.name.startswith(OPTIMIZER):
            part = "optimizer"
        elif event.name.startswith(BACKWARD):
            part = "backward"
        if event.name in counted or not event.inner:
            yield event.name, part, event
        else:
            waiting += [(inner, part) for inner in event.inner]


def _external_ids(event: _Event) -> Iterator[int]:
    waiting = [event]
    while waiting:
        event = waiting.pop()
        if event.external_id is not None:
            yield event.external_id
        waiting += event.inner


def _short(kernel: str) -> str:
    """Return the name of a kernel without its template and its arguments."""
    return kernel.removeprefix("void ").split("<")[0].split("(")[0]
