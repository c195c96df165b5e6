"""What a killed measurement leaves, and who tidies it up."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.harness import processes as measuring
from bench.runner.leftovers import LOCK_NAME, MODULES, prune, temporary_directory
from tests.conftest import ROOT

PREFIX = "gan-bench-"
SLEEP = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(*arguments: object, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", *map(str, arguments)], cwd=cwd)


def killed(root: Path) -> Path:
    """A directory as a session leaves it that was killed: the lock's file is there, and nobody holds it."""
    root.mkdir()
    (root / LOCK_NAME).touch()
    return root


@pytest.mark.multiprocess
def test_the_next_session_ends_what_still_measures_and_nothing_else(
    temporary: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    """Stopped processes too, which cannot end by themselves."""
    left = killed(temporary / f"{PREFIX}aaaaaaa1")
    other = temporary / f"{PREFIX}leftover"
    other.mkdir()
    doomed = [
        start(SLEEP, "bench.runner.worker", left / "0" / "assignment.json"),
        start(SLEEP, "bench.turns.side", cwd=left),
        start(SLEEP, "bench.predict.forks", left / "order.json"),
        start(SLEEP, "bench.predict.exchange", left, 1),
    ]
    spared = [
        start(SLEEP, "less", left / "0" / "rank0.log"),
        start(SLEEP, "bench.runner.worker", other / "0" / "assignment.json"),
        start(SLEEP, "bench.turns.side", cwd=temporary),
        start(SLEEP, "bench.predict.exchange", f"{left}x", 1),
    ]
    processes += doomed + spared
    os.kill(doomed[0].pid, signal.SIGSTOP)
    with temporary_directory(PREFIX) as root:
        assert root.is_dir()
        assert not left.exists()
        for process in doomed:
            process.wait(60)
        assert [process.poll() for process in spared] == [None] * len(spared)
    assert not root.exists()


def test_every_module_that_is_started_as_a_process_is_known() -> None:
    """But for the commands, which people end, and nodes, which end with the connection to their owner."""
    started = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "bench").rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert started - {"bench.__main__", "bench.runner.node"} == set(MODULES)


@pytest.mark.multiprocess
def test_live_sessions_and_results_that_found_no_other_place_stay(
    temporary: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    rescued = temporary / f"{PREFIX}results-x"
    rescued.mkdir()
    (rescued / "smoke.json").touch()
    with temporary_directory(PREFIX) as live:
        processes.append(start(SLEEP, "bench.runner.worker", live / "0" / "assignment.json"))
        prune(PREFIX)
        assert live.is_dir()
        assert processes[0].poll() is None
    processes[0].wait(60)
    assert [path.name for path in temporary.iterdir()] == [rescued.name]


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
@pytest.mark.multiprocess
def test_a_process_ends_with_its_owner(reaped: bool, processes: list[subprocess.Popen[bytes]]) -> None:
    owner = start(SLEEP)
    worker = start(f"from bench.harness.processes import end_with; end_with({owner.pid}); {SLEEP}")
    processes += [owner, worker]
    assert psutil.pid_exists(owner.pid)
    owner.kill()
    if reaped:
        owner.wait()
    assert worker.wait(100) == 1


def test_what_a_user_has_made_stays(temporary: Path) -> None:
    """A run of a user's, whose lock a kill has left, and an empty folder, both by names that begin as ours."""
    for name in (f"{PREFIX}myrun", f"{PREFIX}abcdefgh"):
        (temporary / name).mkdir()
        (temporary / name / ".lock").touch()
    (temporary / f"{PREFIX}empty-of-mine").mkdir()
    (temporary / f"{PREFIX}foreign1").mkdir()
    (temporary / f"{PREFIX}foreign1" / LOCK_NAME).write_text("mine")
    prune(PREFIX)
    assert len(list(temporary.iterdir())) == 4


def test_a_removal_that_is_stopped_is_taken_up_again(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    roots = contextlib.ExitStack()
    root = roots.enter_context(temporary_directory(PREFIX))
    (root / "tree").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            roots.close()
    assert root.exists()
    prune(PREFIX)
    assert not root.exists()


def test_what_a_process_has_started_ends_with_it_although_it_has_gone(tmp_path: Path) -> None:
    """A child whose parent ends has another parent then, and is in the same session still."""
    log = tmp_path / "log"
    command = ["sh", "-c", "sleep 600 & echo $!"]
    process = measuring.start(command, cwd=tmp_path, environment=dict(os.environ), log=log)
    while not log.read_text().endswith("\n"):
        time.sleep(0.01)
    child = psutil.Process(int(log.read_text()))
    time.sleep(0.1)
    measuring.end(process)
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
