"""What a side is told of a case."""

from typing import Any

from bench.subjects.load import CORE
from bench.suite.cases import Case
from bench.turns import messages as m
from gan.data.datasets import SYNTHETIC_NUM_CLASSES
from gan.files.environment import num_available_cores
from gan.process.launcher import num_threads_asked
from gan.recipes import RECIPES


def spec_of(case: Case, subject: str = CORE) -> m.CaseSpec:
    """Return what a side is told of a case, and of the subject whose steps it takes."""
    flags = case.launch_flags()
    num_threads, _ = num_threads_asked() or (None, "")
    environment = {
        "ACCELERATE_USE_CPU": str(case.device == "cpu"),
        "ACCELERATE_MIXED_PRECISION": flags["mixed_precision"],
        "ACCELERATE_DYNAMO_BACKEND": flags["dynamo_backend"].upper(),
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
        "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    }
    if subject == CORE:
        return m.CaseSpec(case.workload, {**case.train_options(), "num_threads": num_threads}, environment)
    threads = num_threads or max(1, num_available_cores() // case.num_processes)  # as many as the core takes
    return m.CaseSpec(case.workload, {"num_threads": threads}, environment, subject, setup_of(case))


def setup_of(case: Case) -> dict[str, Any]:
    """Return the fields of a subject's Setup; the rank and the world size are known to its process."""
    recipe = RECIPES.get(case.recipe)
    return {
        "device": case.device,
        "precision": case.precision,
        "compile": case.compile,
        "batch_size": case.batch_per_process,
        "num_classes": SYNTHETIC_NUM_CLASSES if recipe and recipe.conditional else 0,
        "recipe": case.recipe,
    }
