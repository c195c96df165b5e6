"""A rank is killed, stopped or hangs: all others end with a line that names it; restarts go on by themselves."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gan.training.checkpoints import load_checkpoint, newest_first
from tests.conftest import ROOT, launch_two_processes
from tests.gan.test_resume import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

TRAINING = "--recipe mlp-compact --dataset digits --batch-size 50 --steps 30 --num-threads 1 --log-every 5"
TRAINING = f"{TRAINING} --checkpoint-every 1000 --distributed-timeout 60"
LIMIT = 5


def launch(folder: Path, fault: str, *, restarts: int = 0, options: str = "") -> subprocess.CompletedProcess[str]:
    launcher = start(folder, fault, restarts=restarts, options=options)
    output, errors = launcher.communicate(timeout=280)
    return subprocess.CompletedProcess(launcher.args, launcher.returncode, output, errors)


def start(folder: Path, fault: str, *, restarts: int = 0, options: str = "") -> subprocess.Popen[str]:
    launcher = f"-m accelerate.commands.launch -q --config_file {ROOT / 'accelerate_configs' / 'cpu_ddp.yaml'}"
    worker = f"{ROOT / 'tests' / 'gan' / 'failure_worker.py'} {TRAINING} --output {folder / 'run'} {options}"
    command = f"{launcher} --main_process_port 0 --max_restarts {restarts} {worker}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAULT": fault, "TIGHT": str(LIMIT)}
    return subprocess.Popen(
        [sys.executable, *command.split()],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def error_lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^error: (.*)", done.stdout + done.stderr, re.MULTILINE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended without a fault."""
    folder = tmp_path_factory.mktemp("finished")
    done = launch(folder, "1:0:none")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


RANK_1_ENDED = r"rank 1 on \S+: ended, stopped or cannot be reached.*; rank 0 waited for it in .*step 1[67]"


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("fault", "lines"),
    [
        (
            "1:17:hang",
            [
                r"rank 1 on \S+: not done with reading the images of step 17 in 5 s \(--distributed-timeout\)$",
                r"rank 1 on \S+: not done with .* \(--distributed-timeout\); rank 0 waited for it in step 17",
            ],
        ),
        ("1:17:hang-without-python", [RANK_1_ENDED]),
        (
            "0:17:full-disk",
            [
                r"run/checkpoints: No space left on device; what was saved before is whole",
                r"rank 0 on \S+ failed in reading the images of step 17: .*No space left.*; rank 1 waited",
            ],
        ),
    ],
)
def test_the_others_end_with_one_line_that_names_the_rank(fault: str, lines: list[str], tmp_path: Path) -> None:
    done = launch(tmp_path, fault)
    assert done.returncode == 1
    said = error_lines(done)
    rank, _, _ = fault.split(":")
    assert all(f"rank {rank} on " in one or "run/checkpoints" in one for one in said), done.stdout + done.stderr
    for line in lines:
        assert [one for one in said if re.match(line, one)], said
    newest = newest_first(tmp_path / "run" / "checkpoints")[0]
    assert load_checkpoint(newest).counters["progress"]["step"] == 10


@pytest.mark.timeout(900)  # beside busy processes; half a minute on two idle cores
@pytest.mark.parametrize("exchange", ["--no-shared-memory", pytest.param("", marks=pytest.mark.nightly)])
def test_a_restarted_run_goes_on_from_its_checkpoint_to_the_same_bits(
    exchange: str, finished: Path, tmp_path: Path
) -> None:
    """With `--no-shared-memory` the other rank waits in gloo, which says that its connection broke."""
    done = launch(tmp_path, "1:17:kill", restarts=1, options=exchange)
    assert ("shared memory" in done.stdout) == (not exchange)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = error_lines(done)
    assert re.match(RANK_1_ENDED, line)
    assert "step 10" in done.stdout
    assert_same_run(finished, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 30


@pytest.mark.nightly
def test_a_run_that_was_suspended_for_longer_than_the_limit_goes_on(tmp_path: Path) -> None:
    launcher = start(tmp_path, "1:0:none", options="--steps 600")
    until = time.monotonic() + 60
    while not newest_first(tmp_path / "run" / "checkpoints"):
        assert time.monotonic() < until
        time.sleep(0.1)
    processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    time.sleep(2 * LIMIT)
    for process in processes:
        process.resume()
    output, errors = launcher.communicate(timeout=100)
    assert launcher.returncode == 0, output + errors
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 600


@pytest.mark.nightly
def test_slow_steps_are_saved_before_the_launcher_kills_their_processes(tmp_path: Path) -> None:
    """1,000 of these steps, after which the run logs, take longer than the launcher's 30 s."""
    slow = "--recipe dcgan --dataset synthetic --batch-size 48 --steps 2000 --log-every 1000"
    launcher = start(tmp_path, "1:0:none", options=slow)
    until = time.monotonic() + 60
    while not (tmp_path / "run" / "config.json").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    launcher.terminate()
    output, errors = launcher.communicate(timeout=100)
    assert "interrupted after step " in output + errors
    assert newest_first(tmp_path / "run" / "checkpoints")


@pytest.mark.nightly
def test_ranks_that_differ_end_before_the_first_step_and_write_nothing(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\n"
        "sys.argv += ['--seed', os.environ['RANK']]\n"
        "from gan.process.script import exit_code_of\n"
        "from gan.train import main\n"
        "sys.exit(exit_code_of(main))\n"
    )
    done = launch_two_processes(worker, *TRAINING.split(), "--output", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = error_lines(done)
    assert re.match(r"--seed: 1 on rank 1 \(\S+\), but 0 on rank 0 \(\S+\); give all nodes the same command", line)
    assert "exitcode  : 2" in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_launcher_that_may_restart_does_not_go_on_with_a_run_of_before(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = launch(tmp_path, "1:0:none", restarts=1, options="--steps 60")
    assert again.returncode == 1
    lines = error_lines(again)
    assert len(lines) >= 2, "of both starts"
    assert all("already holds a run; continue it with --resume" in line for line in lines), lines
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
