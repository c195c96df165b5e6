"""What this machine is, and which cases are possible on it."""

import os
import shutil
from dataclasses import dataclass

import torch

from bench.subjects import plain
from bench.subjects.load import PLAIN
from bench.suite.axes import sizes_of
from bench.suite.case_axes import DEFAULT_SHAPE
from bench.suite.cases import Case
from bench.suite.workloads import NUM_DIGITS, WORKLOADS
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.process.memory import free_on_host
from gan.recipe_files import file_of
from gan.recipes import RECIPES
from gan.session.strategy import obstacle_to_fp16_graphs, obstacle_to_powersgd
from gan.training.rehearsal import takes_one_image

BYTES_PER_PROCESS = {"cpu": 3 * 2**28, "cuda": 4 * 2**30}
MOST_PROCESSES = 24


@dataclass(frozen=True)
class Machine:
    """What decides which cases are possible.

    Attributes:
        num_cores: CPU cores that this process may use.
        num_gpus: CUDA devices.
        gpu_capability: Compute capability of the first.
        cpp_compiler: Whether inductor can compile for the CPU.
        processes_at_once: How many processes fit into memory.
        num_hosts: Hosts over which processes can be spread, this one included; all are taken to be like this one.
    """

    num_cores: int
    num_gpus: int
    gpu_capability: tuple[int, int] = (0, 0)
    cpp_compiler: bool = True
    processes_at_once: int = 1
    num_hosts: int = 1

    @classmethod
    def here(cls) -> "Machine":
        """Return this machine."""
        num_gpus = torch.cuda.device_count()
        return cls(
            num_cores=num_available_cores(),
            num_gpus=num_gpus,
            gpu_capability=torch.cuda.get_device_capability() if num_gpus else (0, 0),
            processes_at_once=_processes_at_once(num_gpus),
            cpp_compiler=any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))),
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The CPU, and CUDA if there is a device."""
        return ("cpu", "cuda") if self.num_gpus else ("cpu",)

    def parallel(self, device: str) -> int:
        """Return how many processes can have a GPU or a core to themselves."""
        return self.num_gpus if device == "cuda" else self.num_cores


def _processes_at_once(num_gpus: int) -> int:
    """Return how many processes fit into memory at a time, each with a model and its data."""
    fit = [free_on_host() // BYTES_PER_PROCESS["cpu"]]
    if num_gpus:
        fit.append(torch.cuda.get_device_properties(0).total_memory // BYTES_PER_PROCESS["cuda"])
    return max(1, min(MOST_PROCESSES, *fit))


def impossible(case: Case, machine: Machine) -> str | None:
    """Return why a case cannot run on a machine, or None."""
    return (
        _unfit_recipe(case)
        or _unfit_subject(case)
        or _lacking_hardware(case, machine)
        or _unfit_execution(case)
        or _lacking_parallelism(case, machine)
        or _unfit_batch(case)
    )


def _unfit_subject(case: Case) -> str | None:
    if case.is_core:
        return None
    if not WORKLOADS[case.workload].of_subjects:
        return "a workload of the core alone: all that is known of a subject is its step"
    for name, value in case.execution.items():
        return f"--{name.replace('_', '-')} {value}: how a subject's step runs, it decides itself"
    if case.subject == PLAIN:
        return plain.unfit(case.setup())
    return "a subject's micro-batches are its own: no axis sets them" if case.accumulate > 1 else None


def _unfit_recipe(case: Case) -> str | None:
    try:
        _ = case.row if case.recipe else None
    except UsageError as error:  # of a sweep: not every recipe has every field
        return str(error)
    return None


def _lacking_hardware(case: Case, machine: Machine) -> str | None:
    on_cpu = case.device == "cpu"
    if not on_cpu and not machine.num_gpus:
        return "no CUDA device on this machine"
    if on_cpu and case.precision in ("fp16", "tf32"):
        return f"{case.precision} needs a GPU"
    if case.precision == "tf32" and machine.gpu_capability < (8, 0):
        return "tf32 needs a GPU of compute capability 8.0 or newer"
    if case.compile_mode != "default" and case.compile != "inductor":
        return f"--compile-mode {case.compile_mode} is a mode of inductor"
    if on_cpu and case.compile == "inductor" and not machine.cpp_compiler:
        return "inductor on a CPU needs a C++ compiler"
    return None


def _unfit_execution(case: Case) -> str | None:
    in_one_process = case.num_processes == 1 and case.compile == "no"
    if case.cuda_graph and (case.device == "cpu" or not in_one_process):
        return "CUDA graphs of whole steps need a GPU, one process and no compiler"
    if case.cuda_graph and case.precision == "fp16" and (obstacle := obstacle_to_fp16_graphs(case.row)):
        return f"--cuda-graph: {obstacle}"
    if case.recompute and (case.cuda_graph or case.compile != "no"):
        return "--recompute takes no compiler and no CUDA graph"
    if case.cuda_graph and case.workload == "phases":
        return "the phases of a step that is one CUDA graph cannot be told apart; profile the step"
    return None


def _lacking_parallelism(case: Case, machine: Machine) -> str | None:
    if case.num_processes > 1 and not WORKLOADS[case.workload].several_processes:
        return f"{case.workload} is measured in one process"
    exchange = {"comm_hook", "bucket_size", "shared_memory"} & case.execution.keys()
    if case.num_processes == 1 and exchange:
        return f"{' and '.join(sorted(exchange))}: one process exchanges no gradients"
    if not case.shared_memory and not case.may_share_memory:
        return "--shared-memory no: only CPUs of one host, without a hook, could share memory; leave it out"
    if case.comm_hook == "powersgd" and (obstacle := obstacle_to_powersgd(case.device, case.precision)):
        return f"powersgd {obstacle}"
    if reason := _unfit_hosts(case, machine):
        return reason
    processes_per_host = case.num_processes // case.num_hosts
    if processes_per_host > (most := machine.parallel(case.device)):
        on_host = " on a host" if case.num_hosts > 1 else ""
        return f"{processes_per_host} processes{on_host}, but {most} {'cores' if case.device == 'cpu' else 'GPUs'}"
    if case.scaling == "strong" and case.batch_size % case.num_processes:
        return f"a batch of {case.batch_size} cannot be split over {case.num_processes} processes"
    if case.num_processes > 1 and case.workload == "stability" and case.precision != "fp32":
        return f"{case.precision} in several processes is not judged"
    return None


def _unfit_hosts(case: Case, machine: Machine) -> str | None:
    if case.num_hosts > machine.num_hosts:
        return f"{case.num_hosts} hosts, but --hosts names {machine.num_hosts}"
    if case.num_processes % case.num_hosts:
        return f"{case.num_processes} processes cannot be spread evenly over {case.num_hosts} hosts"
    return None


def fits_digits(case: Case) -> bool:
    """Say whether a step takes no more than the digits. Of an unknown recipe one update is counted."""
    known = case.recipe in RECIPES or file_of(case.recipe)
    return case.global_batch_size * (case.row.discriminator_steps if known else 1) <= NUM_DIGITS


def _unfit_batch(case: Case) -> str | None:
    if not case.is_core:
        return None  # it says so itself
    if WORKLOADS[case.workload].on_digits and not fits_digits(case):
        return f"{case.workload} is judged on {NUM_DIGITS} images"
    if WORKLOADS[case.workload].on_digits and case.image_shape != DEFAULT_SHAPE:
        return f"{case.workload} is judged on images of {DEFAULT_SHAPE}"
    is_single = min(case.batch_size, case.global_batch_size // case.accumulate) < 2
    if is_single and case.row.batchnorm and not _takes_one_image(case):
        return "BatchNorm needs a batch of at least 2 images"
    return None


def _takes_one_image(case: Case) -> bool:
    try:
        return takes_one_image(case.row, sizes_of(case.image_shape), case.setup().num_classes)
    except UsageError:  # it has no networks for these images, and says so itself
        return True
