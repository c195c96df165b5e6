"""Checks of real subjects in repositories that are not ours, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.regress.record import read_record
from tests.bench.check_processes import commit, left_behind
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.multiprocess]
EXAMPLE = ROOT / "docs" / "examples" / "gate"
SUBJECT = ("--subject", "train.py:make")


@pytest.fixture
def temporary(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where checks lay out their trees. Their processes import this project."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return temporary


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The example of docs/gate.md, as a repository of one commit."""
    path = tmp_path / "repository"
    shutil.copytree(EXAMPLE, path, ignore=shutil.ignore_patterns("__pycache__"))
    commit(path)
    return path


def check(repository: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a check as a user of the repository would."""
    command = [sys.executable, "-m", "bench", "regress", *map(str, arguments)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=900, check=False)


def change(repository: Path, name: str, before: str, after: str) -> None:
    """Change a line of a file, which nothing commits."""
    path = repository / name
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def test_the_example_trains_as_a_script(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=repository, capture_output=True, text=True, timeout=200, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["50", "100", "150", "200"]


@pytest.mark.timeout(1000)
def test_the_example_passes_without_a_change_and_is_not_measured_twice(repository: Path, temporary: Path) -> None:
    done = check(repository, *SUBJECT)
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "nothing to compare"), done.stderr
    done = check(repository, *SUBJECT, "--inject", "0%", "--budget", "12m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "losses of the first 8 steps agree" in " ".join(done.stdout.split())
    assert not left_behind(repository, temporary)
    done = check(repository, *SUBJECT)  # the record of the check before is no change
    assert done.stdout.startswith("nothing to compare"), done.stdout


@pytest.mark.timeout(1000)
def test_a_slower_commit_of_the_example_is_a_regression(repository: Path, temporary: Path) -> None:
    """G draws its images twice, about 25 % of a step; no loss changes."""
    line = "            fake = self.generator(latents)\n"
    change(repository, "tinygan/step.py", line, 2 * line)
    done = check(repository, *SUBJECT, "--output", "check.json", "--budget", "14m")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
    assert "step time" in next(line for line in done.stdout.splitlines() if line.endswith("REGRESSION "))
    assert "steps agree" in " ".join(done.stdout.split())
    assert not left_behind(repository, temporary)


@pytest.mark.parametrize(
    ("name", "before", "after", "where"),
    [
        ("tinygan/losses.py", "softplus(-real).mean() +", "0.9 * softplus(-real).mean() +", "step 1: loss_d"),
        # G's loss is computed after D's update.
        (
            "tinygan/step.py",
            "discriminator.parameters(), 2e-4",
            "discriminator.parameters(), 4e-4",
            "step 1: loss_g",
        ),
    ],
    ids=["loss", "learning rate"],
)
def test_a_commit_that_trains_otherwise_is_found_by_its_losses(
    name: str, before: str, after: str, where: str, repository: Path, temporary: Path
) -> None:
    change(repository, name, before, after)
    done = check(repository, *SUBJECT, "--output", "check.json", "--budget", "1s")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"losses differ from {where}" in " ".join(done.stdout.split())
    assert not left_behind(repository, temporary)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "betas=(0.5, 0.999))\n        self.optimizer_d",
            "betas=(0.5, 0.999), fused=True)\n        self.optimizer_d",
        ),
        (
            "self.generator = Generator(shape).to(device)",
            "self.generator = torch.compile(Generator(shape).to(device), backend='aot_eager')",
        ),
    ],
    ids=["fused optimizer", "compiler"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rounding_is_no_other_loss(
    before: str, after: str, precision: str, repository: Path, temporary: Path
) -> None:
    change(repository, "tinygan/step.py", before, after)
    case = f"batch_size=16,precision={precision}"
    done = check(repository, *SUBJECT, "--case", case, "--output", "check.json", "--budget", "1s")
    assert done.returncode == 3, done.stdout + done.stderr
    (runs,) = read_record(repository / "check.json").losses.values()
    assert len(runs.base) == len(runs.head) == 8
    assert "losses of the first 8 steps agree" in " ".join(done.stdout.split())


TRAIN = """
import bench
import gan
from helper import scale

class Step:
    images_per_step = 4

    def step(self):
        self.loss = scale * gan.loss + bench.loss

    def losses(self):
        return {"loss": self.loss}

def make(setup):
    return Step()
"""


def test_each_side_runs_its_own_files_whatever_their_names(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their repository has packages `gan` and `bench`, and PYTHONPATH names its working tree."""
    repository = tmp_path / "repository"
    for name, text in (
        ("train.py", TRAIN),
        ("src/helper.py", "scale = 1.0\n"),
        ("gan/__init__.py", "loss = 1.0\n"),
        ("bench/__init__.py", "loss = 0.0\n"),
    ):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    commit(repository)
    (repository / "src" / "helper.py").write_text("scale = 2.0\n")
    (repository / "gan" / "__init__.py").write_text("loss = 3.0\n")
    (repository / "bench" / "__init__.py").write_text("loss = 1.0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, repository / "src"))))
    command = [
        sys.executable,
        "-P",
        "-m",
        "bench",
        "regress",
        *SUBJECT,
        "--output",
        "check.json",
        "--budget",
        "1s",
    ]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (runs,) = json.loads((repository / "check.json").read_text())["losses"].values()
    assert runs["base"][0] == {"loss": 1.0}
    assert runs["head"][0] == {"loss": 7.0}


def test_a_working_directory_with_a_gan_of_its_own_does_not_replace_ours(tmp_path: Path, temporary: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "gan").mkdir(parents=True)
    (repository / "gan" / "__init__.py").write_text("raise RuntimeError('theirs')\n")
    (repository / "train.py").write_text("def make(setup): ...\n")
    commit(repository)
    done = check(repository, *SUBJECT)
    assert (done.returncode, done.stdout.split(":")[0]) == (0, "nothing to compare"), done.stderr
