"""Profiles: what a trace says of operators, kernels and the host, and what limits each."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.report.tables import tables
from bench.report.time_bars import time_bars
from bench.results.case_result import CaseResult
from bench.results.damage import damage
from bench.results.profile import OperatorTime, StepProfile
from bench.results.storage import ResultsStorage
from bench.results.work import Peaks
from bench.suite.cases import Case
from bench.workloads.profile import PROFILED_STEPS, profiled, trace_name
from bench.workloads.trace import operators_of, read_trace
from tests.bench.records import marked_phases_record, results_file, step_record

PEAKS = Peaks(flops=100e9, traffic_bytes=10e9)


def host(name: str, ts: float, dur: float, external_id: int, tid: int = 1, cat: str = "cpu_op") -> dict[str, Any]:
    return {
        "ph": "X",
        "cat": cat,
        "name": name,
        "pid": 9,
        "tid": tid,
        "ts": ts,
        "dur": dur,
        "args": {"External id": external_id},
    }


def kernel(name: str, ts: float, dur: float, external_id: int | None = None) -> dict[str, Any]:
    args = {} if external_id is None else {"External id": external_id}
    return {"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": dur, "args": args}


TRACE = [
    host("aten::linear", 0, 30, 1),
    host("aten::addmm", 5, 20, 2),
    host("aten::copy_", 6, 2, 3),
    host("autograd::engine::evaluate_function: AddmmBackward0", 40, 30, 4, tid=2),
    host("aten::mm", 45, 10, 5, tid=2),
    host("aten::mm", 56, 10, 6, tid=2),
    host("Optimizer.step#Adam.step", 80, 50, 7, cat="user_annotation"),
    host("aten::_fused_adam_", 90, 30, 8),
    {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 9, "tid": 1, "ts": 91, "dur": 3},
    {"ph": "M", "name": "process_name", "pid": 9},
    kernel("gemm", 100, 400, 2),
    kernel("void at::native::copy<4>(float*)", 500, 8, 3),
    kernel("gemm", 600, 300, 5),
    kernel("gemm", 900, 300, 6),
    kernel("adam", 1200, 100, 8),
    kernel("void at::native::vectorized<4, float>(int)", 1300, 60),
]
COUNTED = ("aten::addmm", "aten::mm", "aten::_fused_adam_")


def by_name(operators: list[OperatorTime]) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {(one.name, one.part): (one.calls, round(1e6 * one.seconds, 6), one.kernels) for one in operators}


def test_operators_of_a_cpu_are_the_outermost_counted_ones_with_all_they_call() -> None:
    assert by_name(operators_of(TRACE[:10], 1, COUNTED, on_gpu=False)) == {
        ("aten::_fused_adam_", "optimizer"): (1, 30, 0),
        ("aten::addmm", "forward"): (1, 20, 0),
        ("aten::mm", "backward"): (2, 20, 0),
    }


def test_what_was_not_counted_is_what_calls_nothing() -> None:
    operators = by_name(operators_of(TRACE[:10], 2, (), on_gpu=False))
    assert operators["aten::copy_", "forward"] == (0.5, 1, 0)
    assert ("aten::addmm", "forward") not in operators


def test_time_on_a_gpu_is_that_of_kernels_and_those_of_a_graph_stand_for_themselves() -> None:
    assert by_name(operators_of(TRACE, 1, COUNTED, on_gpu=True)) == {
        ("aten::mm", "backward"): (2, 600, 2),
        ("aten::addmm", "forward"): (1, 408, 2),
        ("aten::_fused_adam_", "optimizer"): (1, 100, 1),
        ("at::native::vectorized", "graph"): (1, 60, 1),
    }


@pytest.mark.parametrize(
    ("device", "operator", "limit", "fraction"),
    [
        ("cpu", {"calls": 1, "seconds": 1e-3, "flops": 90e6, "traffic_bytes": 1e6}, "compute", 0.9),
        ("cpu", {"calls": 1, "seconds": 1e-3, "flops": 1e6, "traffic_bytes": 8e6}, "memory", 0.8),
        ("cpu", {"calls": 1, "seconds": 1e-3, "flops": 1e6, "traffic_bytes": 1e6}, "memory", 0.1),
        ("cpu", {"calls": 100, "seconds": 1e-3, "flops": 1e6, "traffic_bytes": 1e6}, "host", None),
        ("cpu", {"calls": 100, "seconds": 1e-3, "flops": 90e6, "traffic_bytes": 1e6}, "compute", 0.9),
        ("cpu", {"calls": 1, "seconds": 1e-3, "flops": 0.0, "traffic_bytes": 1e3}, "neither", None),
        ("cpu", {"calls": 1, "seconds": 1e-3}, "", None),
        ("cuda", {"calls": 1, "seconds": 1e-3, "kernels": 1}, "", None),
        ("cuda", {"calls": 1, "seconds": 1e-3, "kernels": 500}, "launch", None),
        (
            "cuda",
            {"calls": 100, "seconds": 1e-3, "kernels": 10, "flops": 60e6, "traffic_bytes": 0.0},
            "compute",
            0.6,
        ),
    ],
)
def test_the_bound_is_the_peak_that_is_hit_or_what_calls_take(
    device: str, operator: dict[str, Any], limit: str, fraction: float | None
) -> None:
    found = OperatorTime("a", "forward", **operator).bound(device, PEAKS)
    assert found == (limit, fraction if fraction is None else pytest.approx(fraction))


def small_steps() -> Iterator[None]:
    layer = nn.Linear(256, 128)
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    inputs = torch.randn(64, 256)
    while True:
        optimizer.zero_grad()
        layer(inputs).relu().sum().backward()
        optimizer.step()
        yield


def test_a_real_profile_knows_the_work_of_its_operators(tmp_path: Path) -> None:
    steps = small_steps()
    next(steps)  # which gives the optimizer its moments
    data = profiled(steps, torch.device("cpu"), tmp_path / "a.trace.json.gz")
    profile = StepProfile.of(json.loads(json.dumps(data)))
    operators = {(one.name, one.part): one for one in profile.operators}
    forward, backward = operators["aten::addmm", "forward"], operators["aten::mm", "backward"]
    assert forward.flops == backward.flops == 2 * 64 * 256 * 128
    assert operators["aten::relu", "forward"].traffic_bytes == 2 * 4 * 64 * 128
    adam = operators["aten::_fused_adam_", "optimizer"]
    num_weights = 256 * 128 + 128
    assert adam.traffic_bytes == pytest.approx(7 * 4 * num_weights, rel=1e-3)
    assert (adam.calls, adam.kernels, profile.num_kernels) == (1, 0, 0)
    assert 0 < profile.busy_seconds < profile.seconds
    assert profile.num_steps == PROFILED_STEPS
    names = [event["name"] for event in read_trace(tmp_path / "a.trace.json.gz")]
    assert names.count("aten::_fused_adam_") == PROFILED_STEPS


def with_profile(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    operators = [
        OperatorTime("aten::mm", "backward", 4, 0.004, flops=760e6, traffic_bytes=1e6),
        OperatorTime("aten::addmm", "forward", 2, 0.002, flops=40e6, traffic_bytes=19e6),
        OperatorTime("aten::add_", "forward", 900, 0.001, flops=0.0, traffic_bytes=1e3),
        *(OperatorTime(f"aten::op{index}", "forward", 1, 1e-4) for index in range(12)),
    ]
    profile = StepProfile("step-mlp.trace.json.gz", 5, 0.010, operators).to_json()
    record["launches"][0]["ranks"][0]["facts"]["profile"] = {**profile, **changes}
    return record


def test_the_table_of_operators_adds_up_and_says_what_limits_each() -> None:
    _, table = tables([CaseResult.of(with_profile(step_record()))])
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert table.title == "Operators of step mlp-cpu-fp32-eager-b64-p1, 5 steps under the profiler"
    assert rows["aten::mm"] == {
        "operator": "aten::mm",
        "in": "backward",
        "ms": "4.00",
        "of the step": "40.0%",
        "calls": "4",
        "GFLOP/s": "190",
        "GB/s": "0.2",
        "limited by": "compute 95.0%",
    }
    assert rows["aten::addmm"]["limited by"] == "memory 95.0%"
    assert rows["aten::add_"]["limited by"] == "host"
    assert rows["between operators"]["limited by"] == "host"
    assert len(table.rows) == 12 + 3
    shares = [float(row["of the step"].rstrip("%")) for name, row in rows.items() if name != "step"]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_what_a_lazy_penalty_calls_once_in_a_period_is_called() -> None:
    record = with_profile(step_record())
    operators = record["launches"][0]["ranks"][0]["facts"]["profile"]["operators"]
    operators[0]["calls"], operators[1]["calls"] = 0.0625, 2.25
    _, table = tables([CaseResult.of(record)])
    calls = {row[0]: row[table.columns.index("calls")] for row in table.rows}
    assert (calls["aten::mm"], calls["aten::addmm"], calls["aten::add_"]) == ("0.0625", "2.25", "900")


def test_a_case_has_a_bar_if_it_has_phases_or_a_profile() -> None:
    assert time_bars([CaseResult.of(step_record())]) is None
    cases = [with_profile(step_record()), marked_phases_record(), with_profile(marked_phases_record())]
    figure = time_bars(list(map(CaseResult.of, cases)))
    assert figure is not None
    (axes,) = figure.axes
    ends = sorted({round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches})
    assert ends[-1] == pytest.approx(100)
    heights = {bar.get_y() for bar in axes.patches}
    assert len(heights) == 2 + 1 + 2
    assert "mm" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"seconds": 0.0}, "seconds"),
        ({"num_steps": 0}, "num_steps"),
        ({"operators": [{"name": "a"}]}, "'part' is a required property"),
        ({"more": 1}, "'more' was unexpected"),
    ],
)
def test_a_profile_in_a_file_can_be_shown_or_is_damaged(changes: dict[str, Any], complaint: str | None) -> None:
    line = damage(results_file(with_profile(step_record(), **changes)))
    assert line is None if complaint is None else complaint in (line or "")


def test_traces_of_cases_with_long_names_are_files(tmp_path: Path) -> None:
    settings = [f"generator.widths={size},{size},{size}" for size in range(100, 112)]
    cases = [Case(set=(*settings, f"latent_dim={dim}")) for dim in (7, 8)]
    names = [trace_name(f"{case.workload}-{case.id}") for case in cases]
    assert len(set(names)) == 2
    for name in names:
        (tmp_path / name).touch()
    assert trace_name(f"step-{Case().id}") == "step-mlp-cpu-fp32-eager-b64-p1.trace.json.gz"


def test_traces_are_kept_beside_the_results_file(tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    with gzip.open(traces / "step.trace.json.gz", "wt") as file:
        file.write("{}")
    (traces / ".measuring").touch()
    storage = ResultsStorage(tmp_path / "results", None, "machine")
    storage.traces = traces
    storage.save({"a": 1}, "smoke")
    assert storage.saved == storage.path / "machine" / "0001_smoke.json"
    kept = list(storage.saved.with_suffix(".traces").iterdir())
    assert [path.name for path in kept] == ["step.trace.json.gz"]
    assert not list(traces.glob("*.gz"))
    storage.save({"a": 1}, "smoke")
    assert not storage.saved.with_suffix(".traces").exists()
