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
from torch._dynamo.utils import calculate_time_spent, counters  # noqa: E402

from bench.harness.messages import DONE, Exchange, Wait  # noqa: E402
from bench.harness.processes import end_with  # noqa: E402
from bench.harness.windows import PROBE, Arm, Effort, Engine, Ranks, device_waiter  # noqa: E402
from bench.suite.cases import Case  # noqa: E402
from bench.suite.workloads import WORKLOADS  # noqa: E402
from bench.workloads.setup import NOWHERE, Setup, describe_networks, whole_batches  # noqa: E402
from bench.workloads.table import MEASUREMENTS  # noqa: E402
from gan.errors import UsageError  # noqa: E402
from gan.files.environment import numerical_flags  # noqa: E402
from gan.files.json_files import read_json, write_json  # noqa: E402
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
        children.pop(pid).set_exit_code(os.waitstatus_to_exitcode(status))
    return 0


def _measure_here(path: Path) -> int:
    rank = int(os.environ.get("RANK", "0"))
    exchange = Exchange(path.parent)
    with exchange.log(rank).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    lasting_streams()
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=False)
    for compiler in ("TORCHINDUCTOR", "TRITON"):
        os.environ[f"{compiler}_CACHE_DIR"] = str(exchange.root / compiler.lower())
    spec = read_json(path)
    end_with(spec["owner"])
    report = exchange.reporter(rank)
    report("importing")
    try:
        record = _measure(spec, exchange, report)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(exchange.record(rank), record)
    report(DONE)
    return 0


def _measure(spec: dict[str, Any], exchange: Exchange, report: Any) -> dict[str, Any]:
    case, effort = Case(**spec["case"]), Effort(**spec["effort"])
    imported = time.monotonic()
    turn = _Turns(exchange, report, _Load())
    turn(math.inf, False)
    began = time.monotonic()
    report("preparing")
    options = TrainOptions(
        **case.train_options(),
        dataset="synthetic",
        output=NOWHERE,
        checkpoint_every=sys.maxsize,
        num_threads=spec["num_threads"],
    )
    options.validate()
    run, state = prepare(options)
    device = run.accelerator.device
    if device.type != case.device:
        raise UsageError(f"--device {case.device}: the core took {device.type}")
    run = whole_batches(run)
    facts: dict[str, Any] = {"num_parameters": describe_networks(state)}
    setup = Setup(case, run, state, exchange.scratch(run.accelerator.process_index), facts, effort, report)
    prepared = time.monotonic()
    wait = device_waiter(device)
    wait()
    resident = psutil.Process().memory_info().rss

    engine = Engine(
        effort,
        wait=wait,
        num_compilations=lambda: counters["stats"]["unique_graphs"],
        ranks=_ranks(run.accelerator),
        on_window=report,
    )
    memory: dict[str, int | None] = {}
    startup: dict[str, float] = {}
    started = time.monotonic()
    for arm in MEASUREMENTS[case.workload](setup):
        engine.add(arm)
        if not memory:  # the case's own arm, and nothing else yet
            memory = {"resident_before_bytes": resident, **_peaks(device)}
            compile_seconds = calculate_time_spent().get("total_wall_time", 0.0)
            startup = {
                "launcher": IMPORTING - spec["launched"],
                "imports": imported - IMPORTING,
                "prepare": prepared - began,
                "first step": engine.records[arm.name].first_step_seconds,
            }
            engine.add(Arm("empty", iter(int, 1), steps_per_window=engine.records[arm.name].steps_per_window))
        report("preparing")  # what the next arm is made of may take its time
    facts["seconds"] = time.monotonic() - started
    turn.load.reset()
    if WORKLOADS[case.workload].in_windows:
        engine.measure(_probe(), turn)
    return {
        "rank": run.accelerator.process_index,
        "arms": {name: vars(record) for name, record in engine.records.items()},
        "startup_seconds": startup,
        "compile_seconds": compile_seconds,
        "memory": memory,
        "load": turn.load.total(),
        "facts": facts,
        "strategy": strategy_of(run.accelerator),
        "threads": torch.get_num_threads(),
        "flags": numerical_flags(),
    }


def _probe() -> Arm:
    """Return a fixed piece of work for all of this process's threads, some milliseconds long."""
    layer = torch.nn.Linear(256, 784).requires_grad_(requires_grad=False)
    use_onednn(layer)
    inputs = torch.randn(200, 256)

    def steps() -> Iterator[object]:
        while True:
            yield layer(inputs)

    return Arm(PROBE, steps(), steps_per_window=PROBE_STEPS, alone=True)


def _ranks(accelerator: Any) -> Ranks:
    if accelerator.num_processes == 1:
        return Ranks()

    def maximum(value: float) -> float:
        own = torch.tensor(value, dtype=torch.float64, device=accelerator.device)
        torch.distributed.all_reduce(own, op=torch.distributed.ReduceOp.MAX)
        return float(own.item())

    return Ranks(accelerator.process_index, accelerator.wait_for_everyone, maximum)


def _peaks(device: torch.device) -> dict[str, int | None]:
    """Return the most memory this process has held, on the host and allocated on the device."""
    peak = None
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        peak = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    allocated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_host_bytes": peak, "peak_device_bytes": allocated}


class _Load:
    """What the machine does besides this process, over the time between `resume` and `pause`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget, and go on from now."""
        self._sums = dict.fromkeys(("seconds", "busy_cores", "own_cores", "stolen_cores"), 0.0)
        self.resume()

    def resume(self) -> None:
        """Go on from now."""
        self._last = self._now()

    def pause(self) -> None:
        """Add what was since `resume`."""
        now = self._now()
        for name, value in now.items():
            self._sums[name] += value - self._last[name]
        self._last = now

    @staticmethod
    def _now() -> dict[str, float]:
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        busy = ("user", "nice", "system", "irq", "softirq")
        return {
            "seconds": time.monotonic(),
            "busy_cores": sum(getattr(times, name, 0.0) for name in busy),
            "own_cores": float(own.user + own.system),
            "stolen_cores": getattr(times, "steal", 0.0),
        }

    def total(self) -> dict[str, float | None]:
        """Return cores kept busy by all processes and by this one, and cores that the host took away."""
        self.pause()
        seconds = self._sums["seconds"]
        cores = {name: value / seconds for name, value in self._sums.items() if name != "seconds"}
        return {**cores, "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}


class _Turns:
    """Waits for this process's turns."""

    def __init__(self, exchange: Exchange, report: Any, load: _Load) -> None:
        self._exchange, self._report, self.load = exchange, report, load
        self._number = 0

    def __call__(self, quickest_probe: float, beyond: bool) -> float | None:
        self.load.pause()
        self._report(str(Wait(self._number, quickest_probe, beyond)))
        granted = self._exchange.wait_for(self._number)
        self._number += 1
        self.load.resume()
        return granted


if __name__ == "__main__":
    code = main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
