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
from bench.workloads.setup import CoreSetup
from bench.workloads.step import step
from bench.workloads.subject import SubjectSetup, subject_stability, subject_startup, subject_step

ARMS: dict[str, Callable[[CoreSetup], Iterator[Arm]]] = {
    "step": step,
    "scaling": step,
    "phases": phases,
    "epoch": epoch,
    "sampling": sampling,
    "checkpoint": checkpoint,
    "startup": startup,
}
"""The first arm that is yielded is the case's own."""
SUBJECT_ARMS: dict[str, Callable[[SubjectSetup], Iterator[Arm]]] = {
    "step": subject_step,
    "scaling": subject_step,
    "startup": subject_startup,
}
"""The same of a subject that is not the core."""
FACTS: dict[str, Callable[[CoreSetup], dict[str, Any]]] = {
    "stability": stability,
    "convergence": convergence,
    "time_to_quality": time_to_quality,
}
SUBJECT_FACTS: dict[str, Callable[[SubjectSetup], dict[str, Any]]] = {"stability": subject_stability}
