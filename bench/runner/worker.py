"""What each process of a case runs, as `accelerate launch -m bench.runner.worker ASSIGNMENT…`: measure, record."""

import time

IMPORTING_AT_SECONDS = time.monotonic()  # which the launching process shares

import math  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import psutil  # noqa: E402
import torch  # noqa: E402
from torch._dynamo.utils import calculate_time_spent  # noqa: E402

from bench.harness.device import (  # noqa: E402
    device_memory,
    device_waiter,
    gpu_uuid,
    num_compilations,
    peak_device_bytes,
    peak_resident_bytes,
)
from bench.harness.exchange import Grant, Phase, Refusal  # noqa: E402
from bench.harness.gpu import GpuWatch  # noqa: E402
from bench.harness.host import machine_identity  # noqa: E402
from bench.harness.rank import Rank, RankRefusedError, work  # noqa: E402
from bench.harness.windows import PROBE, Arm, Engine  # noqa: E402
from bench.runner.assignment import Assignment  # noqa: E402
from bench.runner.targets import Target, target_of  # noqa: E402
from bench.subjects.subject import SetupRefusedError, SubjectError  # noqa: E402
from bench.suite.workloads import WORKLOADS  # noqa: E402
from bench.workloads.profile import profiled, trace_name, unprofiled  # noqa: E402
from gan.errors import UsageError  # noqa: E402
from gan.files.environment import describe_machine  # noqa: E402
from gan.models.cpu_layers import use_cpu_layers  # noqa: E402
from gan.process.output import lasting_streams  # noqa: E402
from gan.process.spinning import spinning  # noqa: E402
from gan.session.strategy import process_flags  # noqa: E402

PROBE_STEPS = 5
GPU_PROBE_SIZE = 2048
GPU_PROBE_PRODUCTS = 8
GPU_PROBE_LAUNCHES = 64
ENERGY_SECONDS = 1.0
"""Of the steps whose energy is counted: NVML's counter moves some ten times a second."""


def measure_rank(assignment: Assignment, rank: Rank) -> dict[str, Any]:
    """Measure a case and return this rank's record, JSON-ready."""
    lasting_streams()
    for compiler in ("TORCHINDUCTOR", "TRITON"):
        os.environ[f"{compiler}_CACHE_DIR"] = str(rank.exchange.root / compiler.lower())
    imported_at_seconds = time.monotonic()
    rank.take_turn(math.inf, only_replaces=False)
    try:
        return _measure(assignment, rank, imported_at_seconds - IMPORTING_AT_SECONDS)
    except (UsageError, SubjectError) as error:
        refusal = Refusal(str(error), is_possible=not isinstance(error, SetupRefusedError))
        raise RankRefusedError(refusal) from error


def _measure(assignment: Assignment, rank: Rank, import_seconds: float) -> dict[str, Any]:
    case = assignment.case
    began = time.monotonic()
    rank.report("preparing", Phase.PREPARING)
    target = target_of(assignment, rank)
    startup_seconds = {
        "launcher": IMPORTING_AT_SECONDS - assignment.launched_at_seconds,
        "imports": import_seconds,
        "prepare": time.monotonic() - began,
    }
    wait = device_waiter(target.device)
    wait()
    resident_before_bytes = psutil.Process().memory_info().rss
    engine = Engine(assignment.effort, wait, num_compilations, target.collectives, rank.report)
    started = time.monotonic()
    if WORKLOADS[case.workload].kind == "facts":
        target.facts.update(target.further_facts())
        costs = _costs(target.device, resident_before_bytes)
    else:
        arms = target.arms()
        own_arm = next(arms)
        record = engine.add(own_arm)
        costs = _costs(target.device, resident_before_bytes)
        startup_seconds["first step"] = record.first_step_seconds
        engine.add(Arm("empty", iter(int, 1), steps_per_window=record.steps_per_window))
        rank.report("preparing", Phase.PREPARING)  # what the next arm is made of may take its time
        for arm in arms:
            engine.add(arm)
            rank.report("preparing", Phase.PREPARING)
    target.facts["seconds"] = time.monotonic() - started
    rank.load.reset()
    gpu = None
    if WORKLOADS[case.workload].in_windows:
        gpu = _gpu(target.device, assignment.owner)
        alone = _measure_windows(engine, rank, target, gpu)
        if alone and assignment.traces and WORKLOADS[case.workload].profiled:
            _profile(own_arm, assignment, rank, target)
    return {
        "rank": rank.world.rank,
        "arms": {name: vars(record) for name, record in engine.records.items()},
        "startup_seconds": startup_seconds,
        **costs,
        "load": rank.load.total(),
        "facts": target.facts,
        **({"gpu": gpu.facts} if gpu else {}),
        **({"host": _host(assignment.hosts[rank.world.rank])} if assignment.hosts else {}),
        "strategy": target.strategy,
        "threads": torch.get_num_threads(),
        "spinning": spinning(),
        "flags": process_flags(),
    }


def _host(name: str) -> dict[str, Any]:
    return {"name": name, "hostname": socket.gethostname(), **machine_identity(), **describe_machine()}


def _profile(arm: Arm, assignment: Assignment, rank: Rank, target: Target) -> None:
    """Take further steps of the case's own arm, with rank 0 under the profiler."""
    rank.report("profiling", Phase.PREPARING)
    if rank.world.rank:
        unprofiled(arm.steps, arm.period)
        return
    case = assignment.case
    trace = Path(assignment.traces, trace_name(f"{case.workload}-{case.id}"))
    target.facts["profile"] = profiled(arm.steps, target.device, trace, arm.period)


def _gpu(device: torch.device, owner: int) -> GpuWatch | None:
    return GpuWatch.of(gpu_uuid(device), owner) if device.type == "cuda" else None


def _measure_windows(engine: Engine, rank: Rank, target: Target, gpu: GpuWatch | None) -> bool:
    """Measure all arms; read the GPU at the edges of the turns, and count the energy of the case's own arm.

    Returns:
        Whether no other case ends at the same time, so that more can be measured.
    """
    probe = _probe(target.device)
    num_turns = 0
    alone = True

    def take_turn(quickest_probe: float, only_replaces: bool) -> Grant:
        nonlocal num_turns, alone
        if num_turns and gpu:
            gpu.during()
        num_turns += 1
        grant = rank.take_turn(quickest_probe, only_replaces)
        alone = not grant.beside_others
        return grant

    if gpu is None:
        engine.measure(probe, take_turn)
        rank.report("recording", Phase.BETWEEN_STEPS)
        target.end()
        return alone
    gpu.before()
    engine.measure(probe, take_turn)
    rank.report("reading the GPU", Phase.BETWEEN_STEPS)
    gpu.during()
    name, record = next(iter(engine.records.items()))
    if alone and record.images_per_step:
        gpu.count_energy(
            lambda half_way: engine.keep_busy(name, ENERGY_SECONDS, half_way),
            record.images_per_step,
        )
    target.end()
    gpu.after()
    return alone


def _costs(device: torch.device, resident_before_bytes: int) -> dict[str, Any]:
    """Return what the case has taken so far: seconds of a compiler, and memory."""
    return {
        "compile_seconds": calculate_time_spent().get("total_wall_time", 0.0),
        "memory": {
            "resident_before_bytes": resident_before_bytes,
            "peak_host_bytes": peak_resident_bytes(),
            "peak_device_bytes": peak_device_bytes(device),
            **({"device": memory} if (memory := device_memory(device)) else {}),
        },
    }


def _probe(device: torch.device) -> Arm:
    """Return a fixed piece of work for the device that is measured, some milliseconds long.

    On a CPU it takes all of this process's threads. On a GPU it is short work, which takes the time of the host
    that starts it, and then a product of matrices, which takes that of the device.
    """
    if device.type == "cuda":
        return Arm(PROBE, _gpu_work(device), steps_per_window=PROBE_STEPS, alone=True, on_every_host=True)
    layer = torch.nn.Linear(256, 784).requires_grad_(requires_grad=False)
    use_cpu_layers(layer)
    inputs = torch.randn(200, 256)

    def steps() -> Iterator[object]:
        while True:
            yield layer(inputs)

    return Arm(PROBE, steps(), steps_per_window=PROBE_STEPS, alone=True, on_every_host=True)


def _gpu_work(device: torch.device) -> Iterator[None]:
    # fp16: the settings of a case change products in fp32, and every GPU is quick at these
    left, right = torch.randn(2, GPU_PROBE_SIZE, GPU_PROBE_SIZE, device=device, dtype=torch.float16)
    product = torch.empty_like(left)
    small = torch.zeros(1, device=device)
    wait = device_waiter(device)
    while True:
        for _ in range(GPU_PROBE_LAUNCHES):
            small.add_(1)
        wait()
        for _ in range(GPU_PROBE_PRODUCTS):
            torch.mm(left, right, out=product)
        yield


if __name__ == "__main__":
    code = work([Path(argument) for argument in sys.argv[1:]], Assignment, measure_rank)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
