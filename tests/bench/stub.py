"""The processes of a case without torch: they import in a tenth of a second, and their steps sleep.

`python -m tests.bench.stub NUM_PROCESSES NUM_HOSTS NODE ASSIGNMENT…` starts those of a node as `accelerate launch`
starts `bench.runner.worker`, and says how they ended as torchrun does. Each executes the statement in STUB_FAULT
at its 30th step; the statement knows its `rank` and its `case`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench.harness.exchange import Refusal
from bench.harness.rank import Rank, work
from bench.harness.windows import PROBE, Arm, Collectives, Effort, Engine
from bench.harness.world import World, worlds

FAULTY_STEP = 30


@dataclass(frozen=True)
class Assignment:
    """As `bench.runner.assignment` has it, whose cases know the core, and so torch."""

    case: dict[str, Any]
    effort: Effort
    owner: int
    launched_at_seconds: float
    num_threads: int | None
    place: str
    traces: str
    hosts: tuple[str, ...]


def sleeps() -> Iterator[None]:
    while True:
        time.sleep(0.001)
        yield


def steps(rank: int, case: dict[str, Any]) -> Iterator[None]:
    for step, _ in enumerate(sleeps(), 1):
        if step == FAULTY_STEP:
            exec(os.environ.get("STUB_FAULT", ""))
        yield


def measure(assignment: Assignment, rank: Rank) -> dict[str, Any]:
    """Measure an arm that sleeps, beside a plain loop that does; the rest of the record is made up."""
    assert "torch" not in sys.modules
    rank.take_turn(float("inf"), only_replaces=False)
    workload = assignment.case["workload"]
    engine = Engine(assignment.effort, lambda: None, collectives=Collectives(rank.world), report=rank.report)
    own_arm = "sampling" if workload == "sampling" else "step"
    record = engine.add(Arm(own_arm, steps(rank.world.rank, assignment.case), images_per_step=1))
    engine.add(Arm("empty", iter(int, 1), steps_per_window=record.steps_per_window))
    engine.add(Arm("plain", sleeps(), images_per_step=1))
    engine.measure(Arm(PROBE, sleeps(), steps_per_window=1), rank.take_turn)
    return {
        "rank": rank.world.rank,
        "arms": {name: asdict(record) for name, record in engine.records.items()},
        "startup_seconds": {"launcher": 0.1, "imports": 0.1, "prepare": 0.1, "first step": 0.1},
        "compile_seconds": 0.0,
        "memory": {"resident_before_bytes": 1, "peak_host_bytes": 1, "peak_device_bytes": None},
        "load": rank.load.total(),
        "facts": {"num_parameters": {"generator": 1, "discriminator": 1}, "seconds": 0.1},
        "strategy": {"device": "cpu", "processes": rank.world.size, "precision": "fp32", "compile": "eager"},
        "threads": 1,
        "flags": {},
        **({"host": _host(assignment.hosts[rank.world.rank])} if assignment.hosts else {}),
    }


def _host(name: str) -> dict[str, Any]:
    cpu = {"model": "made up", "cores": 2}
    hostname = os.environ.get("STUB_HOST", "")
    return {
        "name": name,
        "hostname": hostname,
        "python": "3",
        "platform": "x",
        "packages": {},
        "cpu": cpu,
        "gpus": [],
    }


def refusal(reason: str) -> Refusal:
    """Return what a rank says that measures nothing."""
    return Refusal(reason)


def command(case: Any, rendezvous: Any = None) -> list[str]:
    """Return what starts the processes of a case on a host."""
    numbers = (case.num_processes, case.num_hosts, rendezvous.node if rendezvous else 0)
    return [sys.executable, "-m", "tests.bench.stub", *map(str, numbers)]


def worlds_here(num_processes: int, num_hosts: int, node: int) -> list[World]:
    """Return the places of the processes on a host."""
    num_here = num_processes // num_hosts
    here = slice(node * num_here, (node + 1) * num_here)
    return [replace(world, first_here=here.start, size_here=num_here) for world in worlds(num_processes)[here]]


def launch(places: Sequence[World], assignments: Sequence[str]) -> int:
    """Run each process, and end all as soon as one has failed, which is named."""
    processes = [
        psutil.Popen(
            [sys.executable, "-m", "tests.bench.stub", "rank", *assignments],
            env={**os.environ, **world.variables},
            stdin=subprocess.DEVNULL,
        )
        for world in places
    ]
    while (codes := [process.poll() for process in processes]) and not all(code == 0 for code in codes):
        for world, code in zip(places, codes, strict=True):
            if code:
                print(
                    f"Root Cause (first observed failure):\n  rank : {world.rank}\n  exitcode : {code}", flush=True
                )
                for process in processes:
                    process.kill()
                return 1
        time.sleep(0.01)
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        sys.exit(work(list(map(Path, sys.argv[2:])), Assignment, measure))
    sys.exit(launch(worlds_here(*map(int, sys.argv[1:4])), sys.argv[4:]))
