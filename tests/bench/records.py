"""Records of cases whose figures are known, as a measurement would have written them."""

from copy import deepcopy
from typing import Any

from bench.harness.windows import PROBE
from bench.results.case_result import CaseResult
from bench.results.damage import KEY
from bench.results.file import OF_A_RUN, RESULTS_SCHEMA
from bench.results.warnings import doubts_of
from bench.suite.cases import Case

ENVIRONMENT = {
    "time": "2026-01-02T03:04:05+00:00",
    "command": ["pytest", "bench", "--benchmark-only"],
    "python": "3.11.7",
    "platform": "Linux",
    "packages": {"torch": "2.11.0", "numpy": "2.0.0"},
    "cpu": {"model": "A CPU", "cores": 4},
    "gpus": [],
    "gpu_driver": None,
    "load_average": 0.1,
    "git": {"revision": "0123456789abcdef", "dirty": False},
}


def arm(
    seconds: list[float], images_per_step: int = 0, steps_per_window: int = 1, every: int = 1
) -> dict[str, Any]:
    """`seconds` per step; a window takes that times the steps in it."""
    return {
        "images_per_step": images_per_step,
        "steps_per_window": steps_per_window,
        "first_step_seconds": 0.5,
        "warmup": [0.02, 0.01],
        "settled": True,
        "windows": [value * steps_per_window for value in seconds],
        "every": every,
    }


def rank(number: int = 0, **arms: dict[str, Any]) -> dict[str, Any]:
    num_rounds = max((len(measured["windows"]) for measured in arms.values()), default=0)
    return {
        "rank": number,
        "arms": {**arms, "empty": arm([1e-6] * num_rounds), PROBE: arm([0.002] * num_rounds)},
        "startup_seconds": {"launcher": 1.0, "imports": 2.0, "prepare": 0.25, "first step": 0.5},
        "compile_seconds": 0.0,
        "memory": {
            "resident_before_bytes": 500 * 2**20,
            "peak_host_bytes": 700 * 2**20,
            "peak_device_bytes": None,
        },
        "load": {"busy_cores": 2.0, "own_cores": 2.0, "stolen_cores": 0.0, "load_average": 1.0},
        "facts": {"num_parameters": {"generator": 1, "discriminator": 1}},
        "strategy": {"device": "cpu"},
        "threads": 4,
        "flags": {"float32_matmul_precision": "highest"},
    }


def record(case: Case, *launches: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "case": case.to_json(),
        "effort": {"launches": len(launches), "rounds": 10},
        "quickest_probe": None,
        "accelerate": {"config_file": "cpu.yaml", **case.launch_flags()},
        "launches": [{"ranks": ranks} for ranks in launches],
    }


def step_record(case: Case | None = None, scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A step of 10 ms beside a plain loop of 25 ms, at batch 64."""
    case = case or Case()
    step = arm([0.010 * scale] * 12, 64, 3)
    first = rank(
        step=step,
        plain=arm([0.025] * 12, 64, 2),
        peak_product=arm([0.004] * 3, every=4),
        peak_copy=arm([0.02] * 3, every=4),
    )
    first["facts"] |= {
        "flops_per_step": 400_000_000,
        "least_bytes_per_step": 10_000_000,
        "work": {"peak_product": {"flops": 800_000_000}, "peak_copy": {"bytes": 200_000_000}},
    }
    return record(case, [{**first, **changes}])


def scaling_record(scaling: str = "weak") -> dict[str, Any]:
    case = Case(workload="scaling", num_processes=2, scaling=scaling)
    step = arm([0.025] * 4, case.global_batch_size)
    no_sync = arm([0.020] * 4, case.global_batch_size)
    solo = arm([0.020] * 4, 64)
    data = record(case, [rank(number, step=step, no_sync=no_sync, solo=solo) for number in (0, 1)])
    del data["case"]["shared_memory"]  # as in a file from before there was the axis
    return data


def explained_record(scale: float = 1.0) -> dict[str, Any]:
    """A step of 25 ms in two processes, of which rank 0 waits 8 ms for rank 1; its parts times a factor."""
    data = scaling_record()
    sums = {"discriminator 1 exposed": 0.003, "discriminator 1 waiting": 1e-9, "BatchNorm exposed": 0.004}
    seconds = (
        {"compute": 0.010, **sums, "BatchNorm waiting": 0.008},
        {"compute": 0.018, **sums, "BatchNorm waiting": 1e-9},
    )
    messages = [
        {"name": name, "count": count, "num_bytes": num_bytes, "ready_seconds": ready, "seconds": taken}
        for name, count, num_bytes, ready, taken in (
            ("discriminator 1", 1, 4000, 0.005, 0.003),
            ("BatchNorm", 6, 1200, 0.006, 0.004),
        )
    ]
    for number, of_rank in enumerate(data["launches"][0]["ranks"]):
        arms = of_rank["arms"]
        arms["explained"] = arm([0.025] * 4, arms["step"]["images_per_step"])
        for name, value in seconds[number].items():
            arms[name] = {**arm([value * scale] * 4), "part_of": "explained"}
        of_rank["facts"] |= {"messages": deepcopy(messages), "clock_error_seconds": 0.0}
    return data


def phases_record() -> dict[str, Any]:
    parts = {"step": 0.010, "data": 0.001, "discriminator": 0.003, "generator": 0.004, "optimizer": 0.001}
    arms = {name: arm([seconds] * 4, 64) for name, seconds in parts.items()}
    return record(Case(workload="phases"), [rank(**arms, plain=arm([0.025] * 4, 64))])


def marked_phases_record(marked_seconds: float = 0.010) -> dict[str, Any]:
    """A step of 10 ms, of which phases cover 9.9 ms, beside copies at 10 GB/s and products at 200 GFLOP/s."""
    phases = {"data": 0.0003, "D forward": 0.006, "D optimizer": 0.003, "record": 0.0003, "rest": 0.0003}
    parts = {name: {**arm([seconds] * 12), "part_of": "attributed"} for name, seconds in phases.items()}
    first = rank(
        step=arm([0.010] * 12, 64),
        attributed=arm([marked_seconds] * 12, 64),
        plain=arm([0.025] * 12, 64),
        peak_product=arm([0.004] * 3, every=4),
        peak_copy=arm([0.02] * 3, every=4),
        **parts,
    )
    nothing = {"flops": 0, "optimizer_traffic_bytes": 0, "elementwise_traffic_bytes": 0}
    first["facts"] |= {
        "flops_per_step": 400_000_000,
        "least_bytes_per_step": 10_000_000,
        "work": {"peak_product": {"flops": 800_000_000}, "peak_copy": {"bytes": 200_000_000}},
        "sequence": {**nothing, "flops": 400_000_000, "optimizer_traffic_bytes": 20_000_000},
        "phases": {
            "data": nothing,
            "D forward": {**nothing, "flops": 400_000_000},
            "D optimizer": {**nothing, "optimizer_traffic_bytes": 20_000_000},
        },
    }
    return record(Case(workload="phases"), [first])


def checkpoint_record() -> dict[str, Any]:
    one = rank(checkpoint=arm([0.1] * 4), load=arm([0.02] * 4), plain=arm([0.05] * 4))
    one["facts"]["checkpoint_bytes"] = 20 * 2**20
    return record(Case(workload="checkpoint"), [one])


def results_file(*records: dict[str, Any], **environment: Any) -> dict[str, Any]:
    stats = {"min": 0.01, "max": 0.01, "mean": 0.01, "median": 0.01, "iqr": 0.0, "rounds": 12}
    environment = {**ENVIRONMENT, **environment}
    run = {name: environment.pop(name) for name in OF_A_RUN}
    return deepcopy(
        {
            KEY: {
                "schema": RESULTS_SCHEMA,
                "suite": "smoke",
                "complete": True,
                "failed": [],
                "skipped": [],
                "run": run,
            },
            "machine_info": {KEY: environment},
            "commit_info": {},
            "benchmarks": [
                {"name": "test", "fullname": "test", "stats": stats, "extra_info": {KEY: item}} for item in records
            ],
            "datetime": "2026-01-02T03:04:05+00:00",
            "version": "5.3.1",
        }
    )


def doubt_lines(result: CaseResult) -> list[str]:
    """What is doubtful of a case, a line each."""
    return [f"{doubt.kind} ({doubt.amount}): {doubt.advice}" for doubt in doubts_of(result)]
