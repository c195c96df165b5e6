"""What measures each workload of `bench.suite.workloads.WORKLOADS`: its arms, or a function that returns facts."""

from collections.abc import Callable, Iterator

from bench.harness.windows import Arm
from bench.workloads.around import checkpoint, sampling, startup
from bench.workloads.epoch import epoch
from bench.workloads.facts import convergence, stability, time_to_quality
from bench.workloads.phases import phases
from bench.workloads.setup import Setup
from bench.workloads.step import step

MEASUREMENTS: dict[str, Callable[[Setup], Iterator[Arm]]] = {
    "step": step,
    "scaling": step,
    "phases": phases,
    "epoch": epoch,
    "sampling": sampling,
    "checkpoint": checkpoint,
    "startup": startup,
    "stability": stability,
    "convergence": convergence,
    "time_to_quality": time_to_quality,
}
