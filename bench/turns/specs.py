"""What a side is told of a case."""

from dataclasses import asdict, replace

from bench.subjects.process import accelerate_variables
from bench.suite.cases import Case
from bench.turns import messages as m
from gan.files.environment import num_available_cores
from gan.process.launcher import num_threads_asked
from gan.recipe_files import located


def spec_of(case: Case) -> m.CaseSpec:
    """Return what a side is told of a case."""
    case = replace(case, recipe=located(case.recipe))  # the side works in another directory
    flags = case.launch_flags()
    num_threads, _ = num_threads_asked() or (None, "")
    environment = {
        "ACCELERATE_USE_CPU": str(case.device == "cpu"),
        **accelerate_variables(flags["mixed_precision"], flags["dynamo_backend"]),
    }
    if case.is_core:
        return m.CaseSpec(case.workload, {**case.train_options(), "num_threads": num_threads}, environment)
    threads = num_threads or max(1, num_available_cores() // case.num_processes)  # as many as the core takes
    setup = {name: value for name, value in asdict(case.setup()).items() if name not in ("rank", "world_size")}
    return m.CaseSpec(case.workload, {"num_threads": threads}, environment, case.subject, setup)
