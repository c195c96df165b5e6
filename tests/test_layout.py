"""The rules that keep the packages apart."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT

MODULES = sorted((ROOT / "gan").glob("*.py"))

# What each module of gan/ may import from gan/. Leaves may use errors, seeds and each other's plain functions, but
# nothing below the loop may know it.
TOP = {"train", "sample", "evaluate", "train_extractor"}
MIDDLE = {"loop", "begin", "run", "options", "script", "display"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_core_never_imports_the_benchmarks_or_the_tests(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] in ("bench", "tests")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_downwards(path: Path) -> None:
    used = {name.removeprefix("gan.") for name in imported(path) if name.startswith("gan.")}
    assert not used & TOP
    if path.stem not in TOP | MIDDLE:
        assert not used & MIDDLE
    if path.stem in ("losses", "seeds", "errors", "networks", "repository"):
        assert used <= {"errors"}
    if path.stem == "records":
        assert used <= {"errors", "repository"}
    if path.stem == "step":
        assert used == {"recipes", "state"}


def test_one_place_builds_an_accelerator() -> None:
    builders = [path.stem for path in MODULES if "Accelerator(" in path.read_text(encoding="utf-8")]
    assert builders == ["run"]


def test_one_place_runs_git() -> None:
    """It drops a hook's environment, and lets no hook of the user's run."""
    files = [path for folder in ("gan", "bench") for path in (ROOT / folder).rglob("*.py")]
    runs = re.compile(r"""["']git["'],|["']git |^import git\b|^from git\b""", re.MULTILINE)
    assert [path.stem for path in files if runs.search(path.read_text(encoding="utf-8"))] == ["repository"]


def test_no_module_hides_another_package() -> None:
    """`accelerate launch gan/train.py` puts gan/ first on sys.path until the script moves it away."""
    names = {path.stem for path in MODULES} - {"__init__"}
    assert not names & set(sys.stdlib_module_names)
    assert not names & set(packages_distributions())
