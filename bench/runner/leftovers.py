"""Temporary directories of measurements: locked while in use, and removed by a later one after a kill."""

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

MODULES = ("bench.runner.worker", "bench.regress.side")
"""What measures, as command lines name it."""
LOCK_NAME = ".measuring"
"""Other than a run's, whose folder may lie in the temporary directory and have any name."""
UNIQUE = re.compile(r"[a-z0-9_]{8}")
"""What `mkdtemp` makes of a prefix."""


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Make a directory that is removed at the end, or by another session where this process is killed.

    What still measures in it is ended before. Those that killed sessions left under the prefix are removed first.
    """
    prune(prefix)
    lock = None
    while not lock:
        root = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
        try:
            lock = DirectoryLock(root, LOCK_NAME)
        except (FileNotFoundError, LockedError):
            pass  # another session came first, and removes it
        except OSError:  # the disk is full
            shutil.rmtree(root, ignore_errors=True)
            raise
    try:
        yield root
    finally:
        try:
            _remove(root)
        finally:
            lock.abandon()  # its file went with the rest, or says that something is left


def prune(prefix: str) -> None:
    """Remove what killed sessions of this user left in the temporary directory; what is not surely that stays.

    A session lives while its directory is locked: the kernel knows, and a PID may be another namespace's.
    """
    for root in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, UsageError):  # in use, or no lock of ours
            is_made_so = UNIQUE.fullmatch(root.name.removeprefix(prefix))
            if not is_made_so or root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            if not (root / LOCK_NAME).exists():
                root.rmdir()  # if it is empty: killed before it was locked
                continue
            lock = DirectoryLock(root, LOCK_NAME)
            try:
                if lock.enforced:
                    _remove(root.resolve())
            finally:
                lock.abandon()


def _remove(root: Path) -> None:
    """Remove the lock's file last, so that a later session goes on where this one is stopped in between."""
    end_processes(root)
    for path in root.iterdir() if root.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)


def end_processes(root: Path) -> None:
    """Kill whatever measures in a directory, stopped processes and orphans included, and wait for it."""
    doomed = []
    for candidate in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(candidate.cmdline())
            measures = any(module in command for module in MODULES)
            if measures and f"{root}{os.sep}" in f"{command} {candidate.cwd()}{os.sep}":
                candidate.kill()
                doomed.append(candidate)
    psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)
