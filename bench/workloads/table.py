"""What measures each row of `bench.suite.workloads.WORKLOADS`: a generator of arms, or a function of facts.

Adding a workload is a row there, its function in a module beside this one, and its name here. CONTRIBUTING.md
has the steps that remain.
"""

from collections.abc import Callable, Iterator
from typing import Any

from bench.harness.windows import Arm
from bench.workloads.around import checkpoint, sampling, startup
from bench.workloads.epoch import epoch
from bench.workloads.facts import convergence, stability, time_to_quality
from bench.workloads.phases import phases
from bench.workloads.setup import Setup
from bench.workloads.step import step

ARMS: dict[str, Callable[[Setup], Iterator[Arm]]] = {
    "step": step,
    "scaling": step,
    "phases": phases,
    "epoch": epoch,
    "sampling": sampling,
    "checkpoint": checkpoint,
    "startup": startup,
}
"""The first arm that is yielded is the case's own."""
FACTS: dict[str, Callable[[Setup], dict[str, Any]]] = {
    "stability": stability,
    "convergence": convergence,
    "time_to_quality": time_to_quality,
}
