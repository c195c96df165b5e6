"""The rules that keep the packages apart."""

import ast
import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the lowest room to the highest. A module imports from its own room and from rooms below, never from above.
ROOMS = {
    "gan": (
        *("errors", "command_line", "seeds", "images", "files", "process", "methods", "models", "data"),
        *("recipe", "rows", "recipes", "recipe_numbers", "recipe_rules", "recipe_settings", "recipes_small"),
        *("recipe_files",),
        *("training", "quality", "display", "options", "run_options", "session", "loop", "surface"),
        *("train", "sample", "evaluate", "console"),
    ),
    "bench": (
        *("harness", "subjects", "suite", "results", "stability", "workloads", "runner", "report", "turns"),
        *("regress", "race", "tune", "predict", "quality", "configs", "measure", "reference", "benchmark_options"),
        *("conftest", "measured_step", "plugin", "test_around", "test_scaling", "test_stability"),
        *("test_throughput", "__main__", "console"),
    ),
}
MODULES = [
    path
    for top in ROOMS
    for path in sorted((ROOT / top).rglob("*.py"))
    if path.relative_to(ROOT).parts[1] != "__init__.py"
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


@cache
def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES
            names |= submodules or {node.module}
    return names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    top, room, *_ = name_of(path).split(".")
    below = ROOMS[top][: ROOMS[top].index(room)]
    for name in imported(path):
        where, *rest = name.split(".")
        if where == top and rest:
            assert rest[0] == room or rest[0] in below, f"{name} is above {room}"
        elif top == "gan":
            assert where not in ("bench", "tests")
        elif room == "harness":
            assert where not in ("gan", "tests"), "the harness knows of no GAN"


def test_no_import_goes_in_a_circle() -> None:
    known = {name_of(path): path for path in MODULES}
    edges = {name: imported(path) & known.keys() - {name} for name, path in known.items()}
    while leaves := [name for name, used in edges.items() if not used]:
        edges = {name: used - set(leaves) for name, used in edges.items() if name not in leaves}
    assert not edges, f"these import each other: {sorted(edges)}"


@pytest.mark.parametrize("start", ["bench.plugin", "bench.measured_step", "bench.turns.side"])
def test_what_runs_beside_a_gan_of_somebody_else_imports_none(start: str) -> None:
    """A project under test may have a package `gan`, and the revision BASE has another one."""
    known = {name_of(path): path for path in MODULES}
    waiting = [start]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += (imported(known[name]) & known.keys()) - reached
    assert not {name for name in reached if name.split(".")[0] == "gan"}


def test_the_step_is_one_screen_of_its_own() -> None:
    assert imported(ROOT / "gan" / "training" / "step.py") & {name_of(path) for path in MODULES} == {
        "gan.training.batch",
        "gan.training.generator_loss",
        "gan.training.objectives",
        "gan.training.state",
    }


def test_one_place_builds_an_accelerator() -> None:
    builders = [name_of(path) for path in MODULES if "Accelerator(" in path.read_text(encoding="utf-8")]
    assert builders == ["gan.session.strategy"]


def test_one_place_runs_git() -> None:
    """It drops a hook's environment, and lets no hook of the user's run."""
    runs = re.compile(r"""["']git["'],|["']git |^import git\b|^from git\b""", re.MULTILINE)
    runners = [name_of(path) for path in MODULES if runs.search(path.read_text(encoding="utf-8"))]
    assert runners == ["gan.files.repository"]


def test_no_module_hides_another_package() -> None:
    """`accelerate launch gan/train.py` puts gan/ first on sys.path until the script moves it away."""
    names = {path.stem for path in (ROOT / "gan").iterdir() if path.suffix in ("", ".py")} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())
