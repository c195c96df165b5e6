"""The image files below a directory, their classes, and what was left out."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gan.data.decoding import IMAGE_SUFFIXES
from gan.errors import UsageError
from gan.files.text import counted, printable

SYSTEM_DIRECTORIES = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Directories that operating systems put beside pictures, and hide."""
MOST_NAMES_SHOWN = 3
"""Most names in a line that lists some, except those of classes."""
MOST_CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Listing:
    """Image files in the order of their paths.

    Attributes:
        root: The directory that was searched, or the archive.
        paths: The image files.
        class_names: The directories right below the root, sorted, as in torchvision's `ImageFolder`. None unless
            there are at least two and every image is in one of them.
        labels: The class of each image, as an index of `class_names`; empty without classes.
        left_out: The number of entries that are no images, by reason.
        folders: The number of images in each directory right below the root.
    """

    root: Path
    paths: list[Path]
    class_names: tuple[str, ...] | None
    labels: list[int]
    left_out: Counter[str]
    folders: Counter[str]

    def __str__(self) -> str:
        """Return one line: how many images there are, in which classes, and what was left out."""
        images = counted(len(self.paths), "image")
        return printable(f"data root {self.root}: {images} {self.arrangement()}{self.omissions()}")

    def omissions(self) -> str:
        """Say what was left out and why, as the end of a line."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"; left out: {reasons}" if reasons else ""

    def arrangement(self) -> str:
        """Say what the classes are, or why there are none."""
        names = sorted(self.folders)
        if self.class_names is not None:
            sizes = [f"{name} {self.folders[name]:,}" for name in names]
            return f"in {len(names):,} classes ({_first(sizes, MOST_CLASSES_SHOWN)})"
        num_beside = len(self.paths) - self.folders.total()
        where = f"{counted(len(names), 'folder')} ({_first(names, MOST_CLASSES_SHOWN)})"
        if not names:
            return "in no folders, so without classes"
        if num_beside:
            return f"without classes, because {num_beside:,} {'lies' if num_beside == 1 else 'lie'} beside {where}"
        return f"without classes, because all are in {where}"


def list_images(root: Path) -> Listing:
    """Find the image files below a directory, links followed.

    Hidden entries and what is not a file are left out. A directory that several links lead to is read once for
    each class.

    Raises:
        UsageError: There are no images, or a directory cannot be read.
    """
    search = _Search()
    search.run(root)
    return arrange(root, search.paths, search.reasons(root))


def arrange(root: Path, paths: Sequence[Path], left_out: Counter[str]) -> Listing:
    """Sort image files, and divide them into classes.

    Args:
        root: The directory that all of them are below, or the archive.
        paths: The image files.
        left_out: The number of entries that are no images, by reason.

    Raises:
        UsageError: There are no images.
    """
    paths = sorted(paths)
    tops = [path.relative_to(root).parts[0] if path.parent != root else None for path in paths]
    folders = Counter(top for top in tops if top is not None)
    class_names = tuple(sorted(folders)) if len(folders) > 1 and None not in tops else None
    number_of_class = {name: number for number, name in enumerate(class_names or ())}
    labels = [number_of_class[top] for top in tops if top is not None] if class_names else []
    listing = Listing(root, paths, class_names, labels, left_out, folders)
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"--data-root {root}: no images; their names must end in {suffixes}{listing.omissions()}")
    return listing


@dataclass
class _Search:
    """What a search below a directory comes across.

    Attributes:
        paths: Image files.
        directories: All directories, but for the one that is searched.
        left_out: The number of other entries, by the reason why they are no images.
        other_suffixes: The number of files that are no images, by suffix.
    """

    paths: list[Path] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    other_suffixes: Counter[str] = field(default_factory=Counter)

    def run(self, root: Path) -> None:
        """Read a directory and all below it."""
        waiting = [(root, {_identity(root)})]
        while waiting:
            directory, seen = waiting.pop()
            for entry in _entries(directory):
                path = directory / entry.name
                if not self._record(entry, path):
                    continue
                seen_below = {*seen} if directory == root else seen  # of this class
                identity = _identity(path)
                if identity in seen_below:
                    self.left_out["linked to a folder that is read already"] += 1
                    continue
                seen_below.add(identity)
                self.directories.append(path)
                waiting.append((path, seen_below))

    def _record(self, entry: os.DirEntry[str], path: Path) -> bool:
        """Record an entry, unless it is a directory to be read; return whether it is one."""
        if is_hidden(entry.name):
            self.left_out["hidden"] += 1
            return False
        kind = _kind(entry)
        if kind == "file" and path.suffix.lower() in IMAGE_SUFFIXES:
            self.paths.append(path)
        elif kind == "file":
            self.other_suffixes[path.suffix.lower()] += 1
        elif kind != "directory":
            self.left_out[kind] += 1
        return kind == "directory"

    def reasons(self, root: Path) -> Counter[str]:
        """Return the number of entries that were left out, by reason; directories without images among them."""
        reasons = Counter(self.left_out)
        reasons.update(reason_of_suffixes(self.other_suffixes))
        with_images = {root}
        for directory in {path.parent for path in self.paths}:
            with_images |= {directory, *directory.parents}
        # Only the topmost directory without images is counted, not those below it.
        empty = [path for path in self.directories if path not in with_images and path.parent in with_images]
        if empty:
            names = _first(sorted(path.name for path in empty))
            reasons[f"{'folder' if len(empty) == 1 else 'folders'} without images ({names})"] = len(empty)
        return reasons


def is_hidden(name: str) -> bool:
    """Say whether an entry of a directory is hidden, or of the operating system."""
    return name.startswith(".") or name in SYSTEM_DIRECTORIES


def reason_of_suffixes(other_suffixes: Counter[str]) -> Counter[str]:
    """Return the number of files that are no images by their suffix, with the reason; empty if there are none."""
    commonest = sorted(other_suffixes.items(), key=lambda item: (-item[1], item[0]))
    kinds = [suffix or "no suffix" for suffix, _ in commonest]
    return Counter({f"of other types ({_first(kinds)})": other_suffixes.total()} if kinds else {})


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}; make it readable, or move it elsewhere") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "directory", "file", or why an entry is neither; a link is what it leads to."""
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


def _first(names: Sequence[str], most: int = MOST_NAMES_SHOWN) -> str:
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
