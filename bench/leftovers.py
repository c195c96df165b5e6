"""Temporary directories of measurements: locked while in use, and removed by a later one after a kill."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gan.locks import LOCK_NAME, DirectoryLock, LockedError

MODULES = ("bench.worker", "bench.side")
"""What measures, as command lines name it."""
SECONDS_TO_DIE = 10


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
            lock = DirectoryLock(root)
        except (FileNotFoundError, LockedError):
            pass  # another session came first, and removes it
        except OSError:  # the disk is full
            shutil.rmtree(root, ignore_errors=True)
            raise
    with lock:
        try:
            yield root
        finally:
            _remove(root)


def prune(prefix: str) -> None:
    """Remove what killed sessions of this user left in the temporary directory; what is not surely that stays.

    A session lives while its directory is locked: the kernel knows, and a PID may be another namespace's.
    """
    for root in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError, LockedError):
            if root.is_symlink() or root.stat().st_uid != os.geteuid():
                continue
            if not (root / LOCK_NAME).exists():
                root.rmdir()  # if it is empty: killed before it was locked
                continue
            with DirectoryLock(root) as lock:
                if lock.enforced:
                    _remove(root.resolve())


def _remove(root: Path) -> None:
    end_processes(root)
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
