"""The image files below a directory, the classes that they are in, and what was left out."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gan.data.decoding import IMAGE_SUFFIXES, has_frames
from gan.errors import UsageError
from gan.files.text import printable

OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Directories that systems put beside pictures, and hide."""
MOST_NAMES_SHOWN = 3
MOST_CLASSES_SHOWN = 5
CHECK_SECONDS = 10.0
"""Reading a header takes 0.1 to 0.3 ms from a local disk."""


@dataclass(frozen=True)
class Listing:
    """Image files in the order of their paths.

    Attributes:
        root: The directory that was searched.
        paths: Of the images.
        class_names: As in torchvision's `ImageFolder`, the directories right below the root, sorted, where every
            image is in one of at least two.
        labels: Of each image the place of its class among `class_names`; empty without them.
        left_out: Why something below the root is no image, and how often.
        folders: How many images each directory right below the root has.
    """

    root: Path
    paths: list[Path]
    class_names: tuple[str, ...] | None
    labels: list[int]
    left_out: Counter[str]
    folders: Counter[str]

    def __str__(self) -> str:
        """Return what there is in one line."""
        images = _counted(len(self.paths), "image")
        return printable(f"data root {self.root}: {images} {self.arrangement()}{self.omissions()}")

    def omissions(self) -> str:
        """Say what was left out and why, as the end of a line."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"; left out: {reasons}" if reasons else ""

    def arrangement(self) -> str:
        """Say what the classes are or, where there are none, why."""
        names = sorted(self.folders)
        if self.class_names is not None:
            sizes = [f"{name} {self.folders[name]:,}" for name in names]
            return f"in {len(names):,} classes ({_first(sizes, MOST_CLASSES_SHOWN)})"
        beside = len(self.paths) - self.folders.total()
        where = f"{_counted(len(names), 'folder')} ({_first(names, MOST_CLASSES_SHOWN)})"
        if not names:
            return "in no folders, so without classes"
        if beside:
            return f"without classes, because {beside:,} {'lies' if beside == 1 else 'lie'} beside {where}"
        return f"without classes, because all are in {where}"


def list_images(root: Path) -> Listing:
    """Find the image files below a directory, links followed.

    Hidden entries, and what is not a file, are left out; each directory is read once a class.

    Raises:
        UsageError: There is none, or a directory cannot be read.
    """
    left_out: Counter[str] = Counter()
    others: Counter[str] = Counter()
    directories: list[Path] = []
    paths = sorted(_files_below(root, left_out, others, directories))
    if others:
        kinds = [
            suffix or "no suffix" for suffix, _ in sorted(others.items(), key=lambda item: (-item[1], item[0]))
        ]
        left_out[f"of other types ({_first(kinds)})"] = others.total()
    with_images = {root}
    for directory in {path.parent for path in paths}:
        with_images |= {directory, *directory.parents}
    empty = [path for path in directories if path not in with_images and path.parent in with_images]
    if empty:
        names = _first(sorted(path.name for path in empty))
        left_out[f"{'folder' if len(empty) == 1 else 'folders'} without images ({names})"] = len(empty)
    tops = [path.relative_to(root).parts[0] if path.parent != root else None for path in paths]
    folders = Counter(top for top in tops if top is not None)
    classed = len(folders) > 1 and None not in tops
    class_names = tuple(sorted(folders)) if classed else None
    places = {name: place for place, name in enumerate(class_names or ())}
    labels = [places[top] for top in tops if top is not None] if classed else []
    listing = Listing(root, paths, class_names, labels, left_out, folders)
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(
            f"--data-root {root}: no images for --dataset folder; it takes {suffixes}{listing.omissions()}"
        )
    return listing


def _files_below(
    root: Path, left_out: Counter[str], others: Counter[str], directories: list[Path]
) -> Iterator[Path]:
    """Yield image files; count what is left out, the suffixes of other files, and collect directories."""
    waiting = [(root, {_identity(root)})]
    while waiting:
        directory, seen = waiting.pop()
        for entry in _entries(directory):
            path = directory / entry.name
            if entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                left_out["hidden"] += 1
            elif (kind := _kind(entry)) == "directory":
                below = {*seen} if directory == root else seen
                identity = _identity(path)
                if identity in below:
                    left_out["linked to a folder that is read already"] += 1
                    continue
                below.add(identity)
                directories.append(path)
                waiting.append((path, below))
            elif kind != "file":
                left_out[kind] += 1
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                yield path
            else:
                others[path.suffix.lower()] += 1


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; make it readable, or move it elsewhere") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Return directory, file, or why it is neither; of a link what it leads to."""
    try:
        if entry.is_dir():
            return "directory"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself, for one
        return "linked to nothing"
    return "linked to nothing" if entry.is_symlink() and not Path(entry.path).exists() else "not a regular file"


def _identity(directory: Path) -> tuple[int, int]:
    status = directory.stat()
    return status.st_dev, status.st_ino


def check_headers(paths: Sequence[Path], seconds: float = CHECK_SECONDS) -> str:
    """Read the headers of image files for at most so long, and say what is to be known of them; "" for nothing.

    Raises:
        UsageError: Some are no readable images; it names the first, and tells how many.
    """
    end = time.monotonic() + seconds
    damaged: list[UsageError] = []
    num_checked = num_animated = 0
    for path in paths:
        if time.monotonic() > end:
            break
        try:
            num_animated += has_frames(path)
        except UsageError as error:
            damaged.append(error)
        num_checked += 1
    if damaged:
        more = (
            f" (and {len(damaged) - 1:,} more of {num_checked:,} that were looked at)" if len(damaged) > 1 else ""
        )
        raise UsageError(f"{damaged[0]}{more}")
    said = [f"of {num_animated:,} with several frames or pages the first is taken"] if num_animated else []
    if num_checked < len(paths):
        said.append(f"the headers of {num_checked:,} were checked in {seconds:.0f} s")
    return "; ".join(said)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _first(names: Sequence[str], most: int = MOST_NAMES_SHOWN) -> str:
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
