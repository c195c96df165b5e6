"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gan.errors import UsageError

UNFINISHED = ".tmp"


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of the file, which it lacks when writing fails."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def require_other_files(outputs: Mapping[str, Path | None], inputs: Sequence[Path] = ()) -> None:
    """Raise UsageError where an option's file is one that is read, or another option's."""
    taken = {path.resolve(): "is read" for path in inputs}
    for flag, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        if path.resolve() in taken:
            raise UsageError(f"{flag} {path}: the same file {taken[path.resolve()]}; name another")
        taken[path.resolve()] = f"is {flag}'s"


def require_regular(path: Path) -> None:
    """Raise UsageError for a pipe, a device or a directory, of which reading could wait for ever."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file")


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, parents: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears under `path` complete and on disk, or not at all.

    The bytes go to a hidden neighbour, which is flushed to disk and renamed. With `overwrite` off, FileExistsError
    is raised where `path` has come to exist, also by another process. With `parents` off, its directory must
    exist: a run whose directory was removed does not make it again. A link stays one, and what it leads to is
    replaced; a device or a pipe is written to as it is.
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
                path.hardlink_to(aside)
                aside.unlink()
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
