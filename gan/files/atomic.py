"""Files that appear whole or not at all, and checks of paths before they are read or written."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gan.errors import UsageError

UNFINISHED = ".tmp"
"""How the name of a file ends while it is being written."""


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Add the file's name to an error of the operating system; errors of writing come without."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def require_other_files(outputs: Mapping[str, Path | None], inputs: Sequence[Path] = ()) -> None:
    """Check that no file is written over an input, or by two options.

    Args:
        outputs: The file of each option, by flag; None if the option was not given.
        inputs: Files that are read.

    Raises:
        UsageError: A file is an input too, or another option's. Devices and directories may be named twice.
    """
    taken = {path.resolve(): "is read" for path in inputs}
    for flag, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        if path.resolve() in taken:
            raise UsageError(f"{flag} {path}: the same file {taken[path.resolve()]}; name another")
        taken[path.resolve()] = f"is {flag}'s"


def require_regular(path: Path) -> None:
    """Raise UsageError if a path leads to a pipe, a device or a directory: reading it could wait for ever."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file")


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, parents: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under `path` complete and on disk, or not at all.

    The bytes go to a hidden file beside it, which is flushed to disk and renamed. If `path` is a link, the file
    that it leads to is replaced. A device or a pipe is written to directly.

    Args:
        path: The file.
        overwrite: Replace a file that exists.
        parents: Make the directory. A run turns this off: if its directory was removed, it does not make it again.

    Raises:
        FileExistsError: Not to be overwritten, and there is a file, which another process may have made meanwhile.
        IsADirectoryError: The path is a directory.
        OSError: The file could not be written; it carries the name of a file.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if overwrite and path.exists() and not path.is_file():
        with naming_file(path), path.open("wb") as device:
            yield device
        return
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with naming_file(path):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                aside.replace(path)
            else:
                _rename_to_new(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _rename_to_new(aside: Path, path: Path) -> None:
    """Give a finished file its name; raise FileExistsError if there is one of that name."""
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, as of many USB disks
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        aside.rename(path)
    else:
        aside.unlink()


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
