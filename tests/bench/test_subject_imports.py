"""Where a subject's modules come from: its own tree, whatever is installed and what the harness has imported."""

import importlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.harness.world import World
from bench.runner.targets import build_again
from bench.subjects.imports import import_from, imported_from_a_copy, imported_from_elsewhere
from bench.subjects.load import build_subject
from bench.subjects.process import accelerate_variables, forget_accelerator, seed_everything, settle
from bench.subjects.subject import Setup
from bench.suite.cases import Case


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave no path, no module and no seed behind."""
    modules = dict(sys.modules)
    state = torch.get_rng_state()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    torch.set_rng_state(state)
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
    sys.modules.update(modules)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """A working tree in which a package lies under src, and a revision of it."""
    for name in ("work", "base"):
        package = tmp_path / name / "src" / "theirs_of_test"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"where = {name!r}\n")
    return tmp_path / "work", tmp_path / "base"


def test_what_would_come_from_the_working_tree_comes_from_the_revision(trees: tuple[Path, Path]) -> None:
    """As for a project that is installed with pip install -e, whose .pth file names src."""
    work, base = trees
    packages = work / ".venv" / "site-packages"  # which no revision has
    packages.mkdir(parents=True)
    sys.path += [str(work / "src"), str(packages)]
    import_from(base, work)
    assert sys.path[0] == str(base)
    assert str(base / "src") in sys.path
    assert str(work / "src") not in sys.path
    assert str(packages) in sys.path
    assert importlib.import_module("theirs_of_test").where == "base"
    assert imported_from_elsewhere(base, work) is None


def test_a_module_of_the_working_tree_is_noticed(trees: tuple[Path, Path]) -> None:
    work, base = trees
    sys.path.append(str(work / "src"))
    importlib.import_module("theirs_of_test")
    line = f"theirs_of_test is imported from {work}/src/theirs_of_test/__init__.py"
    assert imported_from_elsewhere(base, work) == line
    (base / "src" / "theirs_of_test" / "__init__.py").unlink()  # nothing of the tree could have been imported
    assert imported_from_elsewhere(base, work) is None


def test_a_copy_that_pip_installed_is_noticed(trees: tuple[Path, Path], tmp_path: Path) -> None:
    """As `pip install .` makes it of a package below src: both revisions would import it."""
    work, base = trees
    packages = tmp_path / "site-packages"
    facts = packages / "theirs-1.dist-info"
    facts.mkdir(parents=True)
    copy = packages / "theirs_of_test" / "__init__.py"
    copy.parent.mkdir()
    copy.write_bytes((work / "src" / "theirs_of_test" / "__init__.py").read_bytes())
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (facts / "RECORD").write_text("theirs_of_test/__init__.py,,\n")
    (facts / "direct_url.json").write_text(json.dumps({"url": work.as_uri(), "dir_info": {}}))
    sys.path.append(str(packages))
    import_from(base, work)
    importlib.import_module("theirs_of_test")
    assert imported_from_elsewhere(base, work) is None
    assert imported_from_a_copy(base, work) == f"theirs_of_test is imported from {copy}"
    assert imported_from_a_copy(work, work) is None  # the copy is as the tree has it
    (base / "lib").mkdir()
    (base / "src").rename(base / "lib" / "python")
    assert imported_from_a_copy(base, work) == f"theirs_of_test is imported from {copy}", "however deep it lies"
    (facts / "direct_url.json").write_text(json.dumps({"url": "https://example.org/theirs.whl"}))
    assert imported_from_a_copy(base, work) is None


def test_a_package_bench_of_theirs_is_imported_as_such(tmp_path: Path) -> None:
    before = sys.modules["bench"]
    import_from(tmp_path)
    assert sys.modules["bench"] is before
    (tmp_path / "bench").mkdir()  # scripts that nobody imports
    import_from(tmp_path)
    assert sys.modules["bench"] is before
    (tmp_path / "bench" / "__init__.py").write_text("whose = 'theirs'\n")
    import_from(tmp_path)
    assert importlib.import_module("bench").whose == "theirs"
    assert before.__name__ == "bench"


def test_everything_random_starts_from_the_seed(tmp_path: Path) -> None:
    """Also what a module draws as it is imported, however much that is."""
    text = """
import random
import numpy
import torch

at_import = (random.random(), numpy.random.rand(), torch.rand(()).item())
torch.rand({draws})

class Step:
    images_per_step = 1
    drawn = None

    def step(self): ...

def make(setup):
    step = Step()
    step.drawn = (random.random(), numpy.random.rand(), torch.rand(()).item())
    step.at_import = at_import
    return step
"""
    drawn = []
    for draws in (1, 5):
        (tmp_path / f"random{draws}.py").write_text(text.format(draws=draws))
        step = build_subject(f"random{draws}.py:make", Setup(seed=3), tmp_path)
        drawn.append((step.at_import, step.drawn))  # type: ignore[attr-defined]
    assert drawn[0] == drawn[1]
    seed_everything(3)
    assert drawn[0][0] == (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: NPY002


def test_a_subject_has_the_gpu_of_its_place_on_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four processes on two hosts, the last has the second GPU of the second host."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    monkeypatch.chdir(tmp_path)
    last = World(rank=3, size=4, first_here=2, size_here=2)
    settle("train.py:make", Setup(device="cuda", rank=3, world_size=4), tmp_path, local_rank=last.local_rank)
    assert chosen == [1]


def test_a_process_gives_a_subject_what_the_core_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Denormals slow the training of GANs many times over, so a subject that kept them would lose each race."""
    monkeypatch.setattr(sys, "argv", ["pytest", "--a-flag"])
    monkeypatch.chdir(tmp_path)
    num_threads = torch.get_num_threads()
    torch.set_flush_denormal(False)
    (tmp_path / "theirs").mkdir()
    try:
        settle("train.py:make", Setup(), tmp_path / "theirs", num_threads=1, local_rank=0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(num_threads)
    assert float(torch.tensor(1e-39) * 1.0) == 0.0
    assert Path.cwd() == tmp_path / "theirs"
    assert sys.path[0] == str(tmp_path / "theirs")
    assert sys.argv == ["train.py:make"]


WITH_ACCELERATE = """
from accelerate import Accelerator

class Step:
    images_per_step = 1

    def __init__(self):
        self.precision = Accelerator().mixed_precision

    def step(self):
        pass

def make(setup):
    return Step()
"""


def test_accelerate_is_told_of_each_precision_that_a_tier_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1 asks the process of a case in bf16 for fp32, and T2 for bf16 again."""
    (tmp_path / "train.py").write_text(WITH_ACCELERATE)
    case = Case(subject=f"{tmp_path}/train.py:make", precision="bf16", recipe="")
    with monkeypatch.context() as patch:
        for name in accelerate_variables("no", "no"):
            patch.setenv(name, "")  # as before afterwards
        asked = case.setup()
        setups = [asked, replace(asked, precision="fp32"), asked]
        subjects: list[Any] = [build_again(case, tmp_path, setup).subject for setup in setups]
        assert [subject.precision for subject in subjects] == ["bf16", "no", "bf16"]
    forget_accelerator()
