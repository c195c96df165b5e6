"""The wheel: what is in it, and all programs from another directory, where nothing of the repository is."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from gan.process.program import CONSOLE_SCRIPTS
from tests.bench.check_processes import commit
from tests.conftest import ROOT, slow_or_nightly
from tests.documents import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
UNAVAILABLE = re.compile(r"No matching distribution found for \w+")
PLUGIN = "gan_bench_plugin.py"
"""The one module of the wheel beside its packages: pytest's plugin, which is bench/plugin.py in a checkout."""


def tracked(*folders: str) -> set[str]:
    """Return the files that git has or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("the tests are in no git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@dataclass(frozen=True)
class Built:
    """What hatchling made of the repository."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist and the wheel; skip without pip, or without hatchling and a registry."""
    if find_spec("pip") is None:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("build")
    python = virtual_environment(folder / "builder")
    pip(python, "hatchling")
    done = subprocess.run(
        [python, "-m", "hatchling", "build", "--directory", str(folder / "dist")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


def virtual_environment(folder: Path) -> Path:
    """Make an environment without packages and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def pip(python: Path, *arguments: str) -> None:
    """Install with this environment's pip into another; skip what no registry has for us."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if unavailable := UNAVAILABLE.search(done.stderr):
        pytest.skip(unavailable[0])
    assert done.returncode == 0, done.stderr


class Installation:
    """The wheel in an environment of its own, and a directory of its user.

    Args:
        folder: For the environment and the directory.
        wheel: Is installed. What it depends on is that of the environment of the tests.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.python = virtual_environment(folder / "environment")
        self.user = folder / "user"
        self.user.mkdir()
        pip(self.python, "--no-deps", "--no-index", str(wheel))
        (packages,) = (folder / "environment").glob("lib/python*/site-packages")
        self.packages = packages
        others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "dependencies.pth").write_text("\n".join(others))  # of which no *.pth is read
        launcher = self.python.with_name("accelerate")
        launcher.write_text(f"#!{self.python}\nfrom accelerate.commands.accelerate_cli import main\nmain()\n")
        launcher.chmod(0o755)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of the shell in the user's directory."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.user,
            env={**kept, "PATH": path, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def output(self, command: str) -> str:
        """Return what a line that succeeds prints."""
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def installation(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    return Installation(tmp_path_factory.mktemp("installation"), built.wheel)


def test_the_wheel_has_both_packages_and_what_they_read_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    data = {"accelerate_configs": "gan/accelerate_configs", "results/reference": "bench/stability/reference"}
    expected = tracked("gan", "bench") - {"bench/plugin.py"} | {PLUGIN}
    for source, target in data.items():
        expected |= {name.replace(source, target) for name in tracked(source)}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_sdist_has_all_that_the_tests_read(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert tracked() - names == set()


@pytest.mark.nightly
@pytest.mark.timeout(900)  # beside busy processes; a minute on two idle cores
def test_the_documented_commands_work_in_another_directory(installation: Installation) -> None:
    """Those of the page on training, in their order, as they stand."""
    lines = [line for line in blocks_of(ROOT / "docs" / "training.md") if re.search(r"^gan-|-m gan\.", line)]
    assert {line.split()[0] for line in lines} == {*CONSOLE_SCRIPTS.values(), "accelerate"}
    said = [installation.output(line) for line in lines]
    runs = installation.user / "runs"
    assert "more pictures: gan-sample runs/mlp-compact" in said[0]
    assert (runs / "mlp-compact" / "pictures" / "grid.png").is_file()
    assert (runs / "mlp-compact" / "evaluation.json").is_file()
    (launched,) = (text for line, text in zip(lines, said, strict=True) if line.startswith("accelerate"))
    assert "2 process(es)" in launched
    assert "more pictures: python -m gan.sample runs/" in launched
    (results,) = (installation.user / "results").glob("*/0001_smoke.json")
    assert "look again with: gan-bench report results/" in "".join(said)
    assert '"fullname": "bench/test_throughput.py::test_step[mlp-compact-' in results.read_text()
    assert {path.name for path in installation.user.iterdir()} <= {"runs", "results", ".pytest_cache"}


def test_its_code_is_the_installed_one(installation: Installation) -> None:
    found = installation.output("python -c 'import bench, gan; print(bench.__file__, gan.__file__)'").split()
    assert found == [str(installation.packages / name / "__init__.py") for name in ("bench", "gan")]


PROGRAMS = ("gan-train", "gan-bench", "python -m gan.sample", "python -m bench")


@pytest.mark.parametrize("program", slow_or_nightly(PROGRAMS, slow=("gan-train",)))
def test_help_and_errors_name_the_program_as_it_was_started(program: str, installation: Installation) -> None:
    command = f"{program} report" if "bench" in program else program
    assert f"usage: {command} " in installation.output(f"{command} --help")
    refused = installation.run(f"{command} --no-such-option")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert f"(see {command} --help)" in refused.stderr


@pytest.mark.nightly
def test_the_suite_is_collected_and_lists_its_options(installation: Installation) -> None:
    collected = installation.output("gan-bench measure --collect-only -q")
    assert "bench/test_throughput.py::test_step[mlp-" in collected
    assert "Warning" not in collected
    assert "--suite=" in installation.output("python -m bench measure --help")
    refused = installation.run("gan-bench measure --precision fp33")
    assert refused.returncode == 4
    assert "fp33" in refused.stderr


@pytest.mark.nightly
def test_the_configurations_and_references_are_there(installation: Installation) -> None:
    shown = [Path(line) for line in installation.output("gan-bench configs").splitlines()]
    assert {path.name for path in shown} == {path.name for path in (ROOT / "accelerate_configs").glob("*.yaml")}
    for path in shown:
        assert path.read_bytes() == (ROOT / "accelerate_configs" / path.name).read_bytes()
    code = "from bench.stability.references import *; print(read_reference(reference_path('quickstart', 64)))"
    assert "fid" in installation.output(f'python -c "{code}"')
    refused = installation.run("gan-bench reference --recipe mlp-compact --batch-size 7")
    path = installation.user / "results" / "reference" / "mlp-compact-b7.json"
    assert refused.stderr == (
        f"error: {path}: not found; make it with: gan-bench reference --recipe mlp-compact --batch-size 7 --make\n"
    )
    assert refused.returncode == 2


@pytest.mark.nightly
def test_several_processes_where_accelerate_starts_one_are_sent_to_the_installed_file(
    installation: Installation,
) -> None:
    refused = installation.run("accelerate launch -q --cpu --num_processes 2 -m gan.train --steps 1")
    assert refused.returncode != 0
    (config,) = re.findall(r"--config_file (\S+),", refused.stderr)
    assert Path(config).is_file()


@pytest.mark.nightly
def test_another_repository_is_checked(installation: Installation) -> None:
    """Its code measures the example of docs/gate.md, whose working tree has another loss."""
    repository = installation.user / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "docs" / "examples" / "gate", repository, ignore=ignored)
    commit(repository)
    losses = repository / "tinygan" / "losses.py"
    losses.write_text(losses.read_text().replace("softplus(-real).mean()", "0.9 * softplus(-real).mean()"))
    command = "gan-bench regress --subject train.py:make --case batch_size=8 --budget 1s"
    done = installation.run(f"cd repository && {command}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "losses differ from step 1: loss_d" in done.stdout


def test_nothing_was_written_beside_the_code(built: Built, installation: Installation) -> None:
    """Runs last: results, caches and pictures went to the user's directory."""
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    files = {
        path.relative_to(installation.packages) for path in installation.packages.rglob("*") if path.is_file()
    }
    of_code = {str(path) for path in files if path.parts[0] in ("gan", "bench") and path.suffix != ".pyc"}
    assert of_code - names == set()
    tops = {path.parts[0] for path in files if path.suffix != ".pyc"} - {
        "gan",
        "bench",
        PLUGIN,
        "dependencies.pth",
    }
    assert all(top.startswith("gan_bench-") for top in tops)
