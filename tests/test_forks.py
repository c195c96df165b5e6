"""The two processes of the tests themselves: what they print and how they fail."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests import conftest
from tests.forks import Forks


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.end()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_process_that_fails_ends_the_other_and_its_error_is_told(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import os, time\ntime.sleep(60 * (os.environ['RANK'] == '0')) or 1 / 0\n")
    (tmp_path / "prints.py").write_text("import os, sys\nprint(os.environ['RANK'], sys.argv[1])\n")
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(600)\n")
    ended = forks.run(tmp_path / "prints.py", "word", cwd=tmp_path)
    assert ended.returncode == 0
    assert sorted(ended.stdout.splitlines()) == ["0 word", "1 word"]
    began = time.monotonic()
    failed = forks.run(tmp_path / "fails.py", cwd=tmp_path)
    assert time.monotonic() - began < 50
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stderr
    assert forks.run(tmp_path / "sleeps.py", cwd=tmp_path, seconds=0).returncode < 0
    assert forks.run(tmp_path / "prints.py", "word", cwd=tmp_path).returncode == 0


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.nightly
def test_each_run_has_the_environment_of_its_time_and_a_server_that_ended_is_started_again(
    forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prints.py").write_text("import os\nprint(os.environ.get('A_TEST_SETS'))\n")
    (tmp_path / "kills.py").write_text("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(0.5)\n")
    for value in ("first", "second"):
        monkeypatch.setenv("A_TEST_SETS", value)
        assert forks.run(tmp_path / "prints.py", cwd=tmp_path).stdout.split() == [value] * 2
    monkeypatch.delenv("A_TEST_SETS")
    with pytest.raises(RuntimeError, match=f"ended with exit code {-signal.SIGKILL}"):
        forks.run(tmp_path / "kills.py", cwd=tmp_path)
    assert forks.run(tmp_path / "prints.py", cwd=tmp_path).stdout.split() == ["None"] * 2


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_single_process_has_no_rank(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text("import os\nprint(os.environ.get('RANK'))\n")
    assert forks.run(tmp_path / "prints.py", cwd=tmp_path, world_size=1).stdout == "None\n"


def test_each_run_counts_as_a_start_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        def run(self, *arguments: object, **_: object) -> CompletedProcess[str]:
            return CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(conftest, "_forks", Server())
    conftest.run_two_processes("worker.py", cwd=tmp_path)
    conftest.run_imported(tmp_path / "script.py", cwd=tmp_path)
    assert conftest._started == ["forks"] * 2
    conftest._started.clear()  # or this test would have to be marked
