"""Two sessions never share a run: one has it, the other is refused, and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan.files.json_files import read_json_lines
from gan.files.locks import DirectoryLock
from gan.files.run_folder import RunFolder, default_output
from gan.training.checkpoints import load_generator, newest_first
from tests.conftest import ROOT, launch_two_processes
from tests.gan.small_run import FLAGS, TRAIN, contents, train_main


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_in_use_is_refused_with_its_holder_and_left_alone(resume: bool, run: Path, script) -> None:
    output = run if resume else run.parent / "new"
    output.mkdir(exist_ok=True)
    before = contents(output)
    with DirectoryLock(output):
        code, _, errors = script(train_main, *FLAGS, "--output", output, "--steps", 9, *["--resume"] * resume)
    assert code == 2
    assert errors.startswith(f"error: --output {output}: in use by process {os.getpid()} on ")
    assert errors.count("\n") == 1
    assert contents(output) == before


def test_a_second_start_without_an_output_gets_the_next_directory(tmp_path: Path, monkeypatch, script) -> None:
    monkeypatch.chdir(tmp_path)
    taken = []

    def quicker(recipe: str) -> Path:
        """Name a directory that another session takes before this one does."""
        path = default_output(recipe)
        if not taken:
            path.mkdir(parents=True)
            taken.append(DirectoryLock(path))
        return path

    monkeypatch.setattr("gan.session.run.default_output", quicker)
    code, _, errors = script(train_main, *FLAGS, "--steps", 1)
    assert (code, errors) == (0, "")
    assert [path.name for path in Path("runs/mlp-compact").iterdir()] == [".lock"]
    assert RunFolder(Path("runs/mlp-compact-2")).summary.exists()
    taken[0].release()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_all_processes_end_with_one_line_when_the_run_is_in_use(tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    with DirectoryLock(output):
        done = launch_two_processes(TRAIN, *FLAGS, "--steps", 1, "--output", output, cwd=tmp_path)
    assert done.returncode != 0
    complaints = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert f"in use by process {os.getpid()}" in complaints[0]
    assert "done" not in done.stdout
    assert list(output.iterdir()) == []


def start(*arguments: object, cwd: Path, launcher: bool = False) -> subprocess.Popen[str]:
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu") if launcher else ()
    return subprocess.Popen(
        [sys.executable, *launch, str(TRAIN), *map(str, (*FLAGS, *arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_training_that_outlives_its_launcher_keeps_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script
) -> None:
    launcher = start("--output", "run", "--epochs", 10_000, cwd=tmp_path, launcher=True)
    lock = tmp_path / "run" / ".lock"
    deadline = time.monotonic() + 120
    while not newest_first(tmp_path / "run" / "checkpoints"):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = json.loads(lock.read_bytes())["pid"]
    launcher.kill()
    launcher.wait()
    try:
        monkeypatch.chdir(tmp_path)
        code, _, errors = script(train_main, "--resume", "--output", "run", "--epochs", 10_001)
        assert code == 2
        assert f"in use by process {pid} on " in errors
        assert errors.count("\n") == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        launcher.communicate()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_of_two_sessions_one_is_refused_and_the_other_is_whole(tmp_path: Path) -> None:
    """GAN_TEST_PAIRS sets how many of each kind: one --output, none, and --resume."""
    for pair in range(int(os.environ.get("GAN_TEST_PAIRS", "1"))):
        cwd = tmp_path / str(pair)
        cwd.mkdir()
        for kind in (("--output", "run"), (), ("--output", "run", "--resume")):
            epochs = 60 if "--resume" in kind else 30
            sessions = [start(*kind, "--epochs", epochs, "--seed", 0, cwd=cwd) for _ in range(2)]
            ends = [(process.communicate(timeout=240)[1], process.returncode) for process in sessions]
            codes = sorted(code for _, code in ends)
            runs = [cwd / "run"] if kind else [cwd / "runs/mlp-compact", cwd / "runs/mlp-compact-2"]
            assert codes == ([0, 2] if kind else [0, 0]), ends
            for errors, code in ends:
                # one that comes when the other is done is told of the run, and may resume it
                told = "in use by process" in errors or "already holds a run" in errors
                assert errors == "" if code == 0 else told
                assert errors.count("\n") == (code != 0)
            for output in map(RunFolder, runs):
                assert [line["epoch"] for line in read_json_lines(output.metrics)] == list(range(1, epochs + 1))
                assert json.loads(output.summary.read_bytes())["steps"] == 3 * epochs
                load_generator(output.generator, output.generator_config)
