"""Temporary directories of measurements: locked while in use, and removed by a later session after a kill."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.harness.processes import SECONDS_TO_DIE
from gan.errors import UsageError
from gan.files.locks import DirectoryLock, LockedError

MODULES = ("bench.runner.worker", "bench.turns.side", "bench.predict.forks", "bench.predict.exchange")
"""The modules that are started as processes and measure, as command lines name them."""
COMPILER_CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""A variable that names a place in the directory of a launch pair. Whatever a subject starts inherits it."""
LOCK_NAME = ".measuring"
"""Not the name of a run's lock: a run may lie in the temporary directory, too, and its folder have any name."""
PROBE_BYTES = 2**16
UNIQUE = re.compile(r"[a-z0-9_]{8}")
"""What `mkdtemp` appends to a prefix."""


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Make a directory, and remove it at the end, after ending what still measures in it.

    If this process is killed, the next session that uses the prefix removes it: that is what this one does first.
    """
    prune(prefix)
    lock = None
    while not lock:
        root = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
        try:
            lock = DirectoryLock(root, LOCK_NAME)
        except (FileNotFoundError, LockedError):
            pass  # another session has taken it for a leftover, and removes it
        except OSError:  # the disk is full
            shutil.rmtree(root, ignore_errors=True)
            raise
    try:
        yield root
    finally:
        try:
            _remove(root)
        finally:
            lock.abandon()  # its file is gone with the directory, or marks what could not be removed


def unwritable(directory: Path) -> str:
    """Return why no file can be written into a directory; "" if one can be.

    Where the disk is full, a program often ends without a word: its log is on that disk, too.
    """
    probe = directory / "probe"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return f"{directory}: {error.strerror}; TMPDIR names another place"
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return ""


def prune(prefix: str) -> None:
    """Remove what killed sessions of this user have left in the temporary directory.

    A directory stays unless it surely is a leftover: it has a name of our making, this user's, and a lock that
    nobody holds. A process id would not tell whether its session lives: it may be of another namespace.
    """
    for root in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, UsageError):  # in use, or no lock of ours
            is_ours = UNIQUE.fullmatch(root.name.removeprefix(prefix))
            if not is_ours or root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            if not (root / LOCK_NAME).exists():
                root.rmdir()  # only if it is empty: a kill came before the lock
                continue
            lock = DirectoryLock(root, LOCK_NAME)
            try:
                if lock.enforced:
                    _remove(root.resolve())
            finally:
                lock.abandon()


def _remove(root: Path) -> None:
    """Remove a directory, and the lock's file last: where this is interrupted, a later session goes on."""
    end_processes(root)
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)


def end_processes(root: Path) -> None:
    """Kill what measures in a directory, stopped processes and orphans included, and wait until all are gone."""
    doomed = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _measures_in(root, candidate):
                candidate.kill()
                doomed.append(candidate)
    psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)


def _measures_in(root: Path, candidate: psutil.Process) -> bool:
    """Say whether a process measures in a directory, or has been started by one that does."""
    inside = f"{root}{os.sep}"
    words = candidate.cmdline()
    named = any(module in word for word in words for module in MODULES)
    if named and any(inside in f"{word}{os.sep}" for word in (*words, candidate.cwd())):
        return True
    cache: str = candidate.environ().get(COMPILER_CACHE, "")
    return cache.startswith(inside)
