"""A lock on a directory, which the kernel releases when its holder dies."""

import contextlib
import errno
import json
import os
import shlex
import socket
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from gan.errors import UsageError

if sys.platform != "win32":
    import fcntl

DEFAULT_LOCK_NAME = ".lock"
MOST_COMMAND_CHARACTERS = 200
SECONDS_TO_WRITE_HOLDER = 0.1
"""Another session takes the lock before it writes its name into the file; who is refused waits for the name."""
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
"""Errors of `flock` on file systems that have no locks."""

_descriptors: set[int] = set()


def _forget_in_child() -> None:
    """Close a fork's copies of the locks' files, or a worker that outlives its parent would keep the lock."""
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


class LockedError(UsageError):
    """Another session holds the directory; the message says which: host, process, since when, its command."""


class DirectoryLock:
    """Exclusive use of a directory, from construction to `release` or the end of the process, however it ends.

    The lock is `flock` on a file in the directory. Forked children do not inherit it, and hosts that share the
    directory over NFS see it. The file names its holder and is removed on release; one that a kill has left locks
    nothing. Windows and some file systems have no `flock`: `enforced` is then False, and two sessions are not kept
    apart.

    Args:
        directory: A directory that exists.
        name: The name of the lock's file.

    Raises:
        LockedError: Another session holds the directory.
        UsageError: There is something of that name that is no lock's file.
        OSError: The lock's file cannot be written.
    """

    def __init__(self, directory: Path, name: str = DEFAULT_LOCK_NAME) -> None:
        self.directory = directory
        self.path = directory / name
        while True:
            self._descriptor = _open(self.path)
            try:
                self.enforced = self._lock()
                if not self.enforced or self._is_file():
                    self._write_holder()
                    break
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)  # the holder removed the file after it was opened here: try again
        _descriptors.add(self._descriptor)

    def _lock(self) -> bool:
        """Lock the file, and return whether the system can."""
        if sys.platform == "win32":
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(SECONDS_TO_WRITE_HOLDER)
            raise LockedError(f"{self.directory}: in use by {_holder(self.path)}") from None
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return False
            error.filename = str(self.path)
            raise
        return True

    def _is_file(self) -> bool:
        """Say whether the open file is still the one at `path`."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        return False

    def _write_holder(self) -> None:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:MOST_COMMAND_CHARACTERS],
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode() + b"\n", 0)
        os.fsync(self._descriptor)  # an NFS client sends it no sooner, while the file is open

    def require_directory(self) -> None:
        """Raise OSError if the directory has been removed, moved or replaced since it was locked."""
        if not self._is_file():
            reason = "the directory was removed, moved or replaced while it was in use"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.directory))

    def release(self) -> bool:
        """Unlock the directory and remove the lock's file.

        Returns:
            Whether the directory was still the one that was locked; False if it was released before.
        """
        if self._descriptor not in _descriptors:
            return False
        same_directory = self._is_file()
        if same_directory:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.abandon()
        return same_directory

    def abandon(self) -> None:
        """Unlock the directory but leave the lock's file, as a kill does."""
        _descriptors.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _open(path: Path) -> int:
    """Open or make a lock's file; raise UsageError if it is a link, no file, or holds something else."""
    complaint = f"{path}: not a lock's file, and one is needed there; rename or remove it"
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise UsageError(complaint) from error
        raise
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_file or os.pread(descriptor, 2, 0) not in (b"", b'{"'):
        os.close(descriptor)
        raise UsageError(complaint)
    return descriptor


def _holder(path: Path) -> str:
    """Return the session that wrote a lock's file, in words."""
    try:
        holder = json.loads(path.read_bytes())
        host, pid, since, command = (str(holder[name]) for name in ("host", "pid", "since", "command"))
    except (OSError, ValueError, KeyError, TypeError):
        return "another session"
    words = f"process {pid} on {host} since {since} ({command})"
    return "".join(character if character.isprintable() else "?" for character in words)
