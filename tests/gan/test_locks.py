"""One session a directory, whoever dies, forks or removes what it stands on."""

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gan.errors import UsageError
from gan.files.locks import DirectoryLock, LockedError
from tests.conftest import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from gan.files.locks import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
child = os.fork() if "fork" in sys.argv else None
if child is None:
    print(os.getpid(), None, flush=True)
if child == 0:  # it has closed what it inherited
    print(os.getppid(), os.getpid(), flush=True)
time.sleep(60)
"""


def hold(directory: Path, *arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()


@pytest.mark.multiprocess
def test_the_second_session_is_told_who_the_first_is_until_that_one_dies(tmp_path: Path) -> None:
    process, (pid, _) = hold(tmp_path, "two\nlines")
    with process:
        with pytest.raises(LockedError) as refused:
            DirectoryLock(tmp_path)
        words = rf"{re.escape(str(tmp_path))}: in use by process {pid} on {socket.gethostname()} since \S+ \(.+\)"
        assert re.fullmatch(words, str(refused.value)), "in one line"
        process.kill()
        process.wait()
        with DirectoryLock(tmp_path) as lock:
            assert lock.enforced
            with pytest.raises(LockedError, match=f"process {os.getpid()} "):
                DirectoryLock(tmp_path)
    assert list(tmp_path.iterdir()) == []
    DirectoryLock(tmp_path).release()


@pytest.mark.multiprocess
def test_a_child_that_outlives_the_holder_holds_nothing(tmp_path: Path) -> None:
    process, (_, child) = hold(tmp_path, "fork")
    with process:
        process.kill()
        process.wait()
        try:
            DirectoryLock(tmp_path).release()
        finally:
            os.kill(int(child), signal.SIGKILL)


@pytest.mark.multiprocess
def test_a_child_that_ends_leaves_the_lock_with_its_parent(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path):
        if not (child := os.fork()):
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(LockedError):
            DirectoryLock(tmp_path)


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_directory_that_is_no_longer_there_is_noticed(how: str, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    with DirectoryLock(directory) as lock:
        lock.require_directory()
        directory.rename(tmp_path / "elsewhere")
        if how == "replaced":
            directory.mkdir()
            other = DirectoryLock(directory)
        elif how == "removed":
            (tmp_path / "elsewhere" / ".lock").unlink()
        with pytest.raises(FileNotFoundError, match="removed, moved or replaced"):
            lock.require_directory()
    if how == "replaced":
        other.require_directory()
        other.release()


def test_a_file_system_without_locks_is_worked_on_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with DirectoryLock(tmp_path) as lock:
        assert not lock.enforced
        lock.require_directory()


def test_a_file_that_its_holder_removes_before_it_is_locked_is_not_the_lock(tmp_path: Path, monkeypatch) -> None:
    flock = fcntl.flock
    calls = []

    def late(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with DirectoryLock(tmp_path) as lock:
        lock.require_directory()
        with pytest.raises(LockedError):
            DirectoryLock(tmp_path)


@pytest.mark.multiprocess
def test_many_sessions_take_turns(tmp_path: Path) -> None:
    """The file is removed and made again all the time, and never two hold it."""
    code = """
import sys
from pathlib import Path
from gan.files.locks import DirectoryLock, LockedError
import gan.files.locks
gan.files.locks.SECONDS_TO_WRITE_HOLDER = 0
directory, count = Path(sys.argv[1]), 0
while count < 100:
    try:
        with DirectoryLock(directory):
            (directory / "inside").mkdir()
            (directory / "inside").rmdir()
            count += 1
    except LockedError:
        pass
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(4)]
    assert [process.wait(timeout=200) for process in processes] == [0] * 4


def test_a_file_that_is_no_lock_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for make in (
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to("precious"),
        lambda path: path.mkdir(),
        os.mkfifo,
    ):
        make(tmp_path / ".lock")
        with pytest.raises(UsageError, match="not a lock's file"):
            DirectoryLock(tmp_path)
        assert (tmp_path / "precious").read_text() == "mine"
        assert (tmp_path / ".lock").exists()
        (tmp_path / ".lock").rename(tmp_path / f"kept{len(list(tmp_path.iterdir()))}")
    assert sum(path.is_file() and path.read_text() == "mine" for path in tmp_path.iterdir()) == 3


def test_the_holder_is_sent_to_the_disk_while_the_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other nodes compare it, and an NFS client would keep it for as long as the file is open."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.pread(descriptor, 1000, 0)))
    with DirectoryLock(tmp_path) as lock:
        assert synced == [lock.path.read_bytes()]
        assert synced[0]
