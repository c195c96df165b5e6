"""What each process of a case runs, as `accelerate launch -m bench.runner.worker SPEC…`: measure, record."""

import time

IMPORTING = time.monotonic()  # which the launching process shares

import faulthandler  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import psutil  # noqa: E402
import torch  # noqa: E402
from torch._dynamo.utils import calculate_time_spent  # noqa: E402

from bench.harness.device import device_waiter, num_compilations  # noqa: E402
from bench.harness.exchange import Exchange, Phase, StatusFile, Wait  # noqa: E402
from bench.harness.host import Load  # noqa: E402
from bench.harness.memory import peak_device_bytes, peak_resident_bytes  # noqa: E402
from bench.harness.messages import decode  # noqa: E402
from bench.harness.processes import end_with  # noqa: E402
from bench.harness.windows import PROBE, Arm, Engine, Ranks  # noqa: E402
from bench.harness.world import World  # noqa: E402
from bench.runner.assignment import Assignment  # noqa: E402
from bench.suite.workloads import WORKLOADS  # noqa: E402
from bench.workloads.setup import NOWHERE, Setup, describe_networks, whole_batches  # noqa: E402
from bench.workloads.table import ARMS, FACTS  # noqa: E402
from gan.errors import UsageError  # noqa: E402
from gan.files.environment import numerical_flags  # noqa: E402
from gan.files.json_files import write_json  # noqa: E402
from gan.models.onednn import use_onednn  # noqa: E402
from gan.options import TrainOptions  # noqa: E402
from gan.process.output import lasting_streams  # noqa: E402
from gan.run import prepare, strategy_of  # noqa: E402

PROBE_STEPS = 5


def main() -> int:
    """Measure the cases that the files named on the command line describe; return an exit code."""
    specs = [Path(argument) for argument in sys.argv[1:]]
    return _measure_forked(specs) if len(specs) > 1 else _measure_here(specs[0])


def _measure_forked(specs: list[Path]) -> int:
    """Measure each case in a fork of this process, which has done the imports for all of them."""
    children: dict[int, Exchange] = {}
    for spec in specs:
        pid = os.fork()
        if pid:
            children[pid] = Exchange(spec.parent)
            continue
        code = 1
        try:
            code = _measure_here(spec)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    while children:
        pid, status = os.wait()
        children.pop(pid).set_ended(os.waitstatus_to_exitcode(status))
    return 0


def _measure_here(path: Path) -> int:
    world = World.here()
    exchange = Exchange(path.parent)
    with exchange.log(world.rank).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    lasting_streams()
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=False)
    for compiler in ("TORCHINDUCTOR", "TRITON"):
        os.environ[f"{compiler}_CACHE_DIR"] = str(exchange.root / compiler.lower())
    assignment = decode(path.read_bytes(), Assignment)
    end_with(assignment.owner)
    report = exchange.status_file(world.rank)
    report("importing", Phase.PREPARING)
    try:
        record = _measure(assignment, world, exchange, report)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(exchange.record(world.rank), record)
    report("done", Phase.DONE)
    return 0


def _measure(assignment: Assignment, world: World, exchange: Exchange, report: StatusFile) -> dict[str, Any]:
    case = assignment.case
    imported = time.monotonic()
    turn = _Turns(exchange, report, Load())
    turn(math.inf, False)
    began = time.monotonic()
    report("preparing", Phase.PREPARING)
    options = TrainOptions(
        **case.train_options(),
        dataset="synthetic",
        output=NOWHERE,
        checkpoint_every=sys.maxsize,
        num_threads=assignment.num_threads,
    )
    options.validate()
    run, state = prepare(options)
    device = run.accelerator.device
    if device.type != case.device:
        raise UsageError(f"--device {case.device}: the core took {device.type}")
    run = whole_batches(run)
    facts: dict[str, Any] = {"num_parameters": describe_networks(state)}
    setup = Setup(case, run, state, exchange.scratch(world.rank), facts, assignment.effort, report)
    prepared = time.monotonic()
    wait = device_waiter(device)
    wait()
    resident = psutil.Process().memory_info().rss

    engine = Engine(
        assignment.effort,
        wait=wait,
        num_compilations=num_compilations,
        ranks=_ranks(world, run.accelerator),
        report=report,
    )
    startup = {
        "launcher": IMPORTING - assignment.launched_at_seconds,
        "imports": imported - IMPORTING,
        "prepare": prepared - began,
    }
    memory: dict[str, int | None] = {}
    started = time.monotonic()
    if case.workload in FACTS:
        facts |= FACTS[case.workload](setup)
        memory = _peaks(device)
        compile_seconds = calculate_time_spent().get("total_wall_time", 0.0)
    for arm in ARMS[case.workload](setup) if case.workload in ARMS else ():
        engine.add(arm)
        if not memory:  # the case's own arm, and nothing else yet
            memory = _peaks(device)
            compile_seconds = calculate_time_spent().get("total_wall_time", 0.0)
            startup["first step"] = engine.records[arm.name].first_step_seconds
            engine.add(Arm("empty", iter(int, 1), steps_per_window=engine.records[arm.name].steps_per_window))
        report("preparing", Phase.PREPARING)  # what the next arm is made of may take its time
    facts["seconds"] = time.monotonic() - started
    turn.load.reset()
    if WORKLOADS[case.workload].in_windows:
        engine.measure(_probe(), turn)
    return {
        "rank": world.rank,
        "arms": {name: vars(record) for name, record in engine.records.items()},
        "startup_seconds": startup,
        "compile_seconds": compile_seconds,
        "memory": {"resident_before_bytes": resident, **memory},
        "load": turn.load.total(),
        "facts": facts,
        "strategy": strategy_of(run.accelerator),
        "threads": torch.get_num_threads(),
        "flags": numerical_flags(),
    }


def _peaks(device: torch.device) -> dict[str, int | None]:
    return {"peak_host_bytes": peak_resident_bytes(), "peak_device_bytes": peak_device_bytes(device)}


def _probe() -> Arm:
    """Return a fixed piece of work for all of this process's threads, some milliseconds long."""
    layer = torch.nn.Linear(256, 784).requires_grad_(requires_grad=False)
    use_onednn(layer)
    inputs = torch.randn(200, 256)

    def steps() -> Iterator[object]:
        while True:
            yield layer(inputs)

    return Arm(PROBE, steps(), steps_per_window=PROBE_STEPS, alone=True)


def _ranks(world: World, accelerator: Any) -> Ranks:
    if world.size == 1:
        return Ranks()

    def maximum(value: float) -> float:
        largest = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
        return float(largest.item())

    return Ranks(world, accelerator.wait_for_everyone, maximum)


class _Turns:
    """Waits for this process's turns."""

    def __init__(self, exchange: Exchange, report: StatusFile, load: Load) -> None:
        self._exchange = exchange
        self._report = report
        self.load = load
        self._number = 0

    def __call__(self, quickest_probe: float, only_replaces: bool) -> float | None:
        self.load.pause()
        self._report("waiting", Phase.WAITING, Wait(self._number, quickest_probe, only_replaces))
        grant = self._exchange.wait_for(self._number)
        self._number += 1
        self.load.resume()
        return None if grant.finish else grant.quickest_probe


if __name__ == "__main__":
    code = main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
