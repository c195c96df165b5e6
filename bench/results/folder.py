"""Where results files are, and whether files can be written there."""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.results.damage import KEY
from gan.errors import UsageError
from gan.files.json_files import read_json
from gan.process.program import command_of

RESULTS = Path("results")
"""The folder in the project's root; results_folder() returns it relative to the working directory."""
MOST_NAME_BYTES = 200
"""Of the name of a file without its suffix: a file system takes 255, and a lock and unfinished files have more."""


def try_writing(folder: Path) -> None:
    """Raise OSError now, not after minutes of measuring, if files cannot be written to a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0" * 2**16)
        file.flush()


def results_folder() -> Path:
    """Return where results are, relative to the working directory: in the project's root, from below it too.

    The root is the nearest directory upwards that holds a `pyproject.toml`; without one, the working directory.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
    return Path(os.path.relpath(root, here)) / RESULTS


def fitting_name(name: str) -> str:
    """Return the name of a file without its suffix; a long one is cut, and ends with a digest of it all."""
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    beginning = name.encode()[:MOST_NAME_BYTES].decode(errors="ignore")
    return f"{beginning}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def stamped(folder: Path, kind: str, *more: str) -> Path:
    """Return the path of a new file: its kind, the time of day in UTC, and what else tells it apart."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = "-".join([kind, now, *more])
    of_the_same_second = (f"{name}-{number}.json" for number in itertools.count(2))
    names = itertools.chain([f"{name}.json"], of_the_same_second)
    return next(path for path in map(folder.joinpath, names) if not path.exists())


def find(names: Sequence[str], root: Path | None = None) -> list[Path]:
    """Return the files that names stand for: paths, directories, or the beginnings of names in `results/`.

    Without names, the newest file, and those that cannot be read: any of them may be newer.

    Raises:
        UsageError: A name stands for nothing.
    """
    root = root or results_folder()
    stored = sorted(root.glob("*/[0-9]*.json"), key=lambda path: path.name)
    if not names:
        if not stored:
            raise UsageError(f"{root}: holds no results; make some with: {command_of('bench')} measure")
        last_of_folder = {path.parent: path for path in stored}  # each has numbers of its own
        began = {path: _began(path) for path in last_of_folder.values()}
        newest = max(began, key=began.__getitem__)
        return [path for path, time in began.items() if not time or path == newest]
    return [path for name in names for path in _named(name, stored, root)]


def _began(path: Path) -> str:
    """Return when the session of a results file began; empty if it does not say so."""
    try:
        return str(read_json(path, nonfinite=True)[KEY]["run"]["time"])
    except (UsageError, KeyError, TypeError):
        return ""


def _named(name: str, stored: Sequence[Path], root: Path) -> Iterator[Path]:
    path = Path(name)
    if path.is_dir():
        paths = [file for file in sorted(path.rglob("*.json")) if file.name[0].isdecimal() or _began(file)]
        if not paths:
            raise UsageError(f"{name}: has no results; name another directory, or a file")
    elif path.exists():
        paths = [path]
    else:
        paths = [file for file in stored if file.name.startswith(name)]
    if not paths:
        raise UsageError(f"{name}: no such results; name a file, a directory, or how a name in {root}/ begins")
    yield from paths
