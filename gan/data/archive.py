"""Image files in a zip, as the dataset_tool of StyleGAN writes it: with their classes in `dataset.json`."""

import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gan.data.decoding import IMAGE_SUFFIXES, ImageBytes, unreadable
from gan.data.listing import arrange, is_hidden, reason_of_suffixes
from gan.data.stored import classes_in_words, require_class
from gan.errors import UsageError
from gan.files.text import counted, printable
from gan.process.memory import gibibytes

LABELS = "dataset.json"
"""The entry with the classes, at the top of the archive."""
ENCRYPTED = 1
"""A flag of an entry."""
MOST_BYTES = 2**30
"""Most bytes of an entry when it is unpacked. Pillow refuses images that have more pixels than would fit."""


class ZipImages:
    """The images of a zip in the order of their paths; the attributes are those of `StoredImages`.

    The classes are those of `dataset.json`: ``{"labels": [["00000/img00000000.png", 7], …]}`` with one number for
    each image, or ``{"labels": null}`` for none. Without that entry they are the directories, as in a folder.

    Args:
        path: The zip.

    Raises:
        UsageError: It cannot be read, is encrypted, has no images, or its labels do not fit to its images.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        all_entries: dict[PurePosixPath, zipfile.ZipInfo] = {}
        left_out: Counter[str] = Counter()
        for entry in self._zip().infolist():
            if not entry.is_dir():
                left_out["replaced by another of the same name"] += _inner_path(entry.filename) in all_entries
                all_entries[_inner_path(entry.filename)] = entry
        left_out = +left_out
        other_suffixes: Counter[str] = Counter()
        entries: dict[Path, zipfile.ZipInfo] = {}
        for inner_path, entry in all_entries.items():
            if any(map(is_hidden, inner_path.parts)):
                left_out["hidden"] += 1
            elif inner_path.suffix.lower() in IMAGE_SUFFIXES:
                entries[path / inner_path] = entry
            elif inner_path != PurePosixPath(LABELS):
                other_suffixes[inner_path.suffix.lower()] += 1
        left_out.update(reason_of_suffixes(other_suffixes))
        listing = arrange(path, [*entries], left_out)
        self._entries = [(str(image), entries[image]) for image in listing.paths]
        self.class_names = listing.class_names
        self.labels = listing.labels
        self.description = str(listing)
        if labels_entry := all_entries.get(PurePosixPath(LABELS)):
            self.class_names = None
            names = [image.relative_to(path).as_posix() for image in listing.paths]
            self.labels = _labels_of(f"{path}/{LABELS}", self._labels_by_name(labels_entry), names)
            classes = classes_in_words(self.labels)
            images = counted(len(names), "image")
            self.description = printable(f"data root {path}: {images} {classes} by {LABELS}{listing.omissions()}")
        contents = [
            (_inner_path(entry.filename).as_posix(), entry.CRC, entry.file_size) for _, entry in self._entries
        ]
        self.sha256 = hashlib.sha256(json.dumps([contents, self.labels]).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> ImageBytes:
        name, entry = self._entries[index]
        try:
            return ImageBytes(name, self._read(entry))
        except Exception as error:  # whatever a damaged or hostile archive makes zipfile raise
            raise unreadable(name, " ".join(str(error).split()) or type(error).__name__) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _zip(self) -> zipfile.ZipFile:
        """Return the archive, opened by this process: a forked worker would share the position in the file."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(self._path)
        return self._opened[1]

    def _read(self, entry: zipfile.ZipInfo) -> bytes:
        if entry.file_size > MOST_BYTES:
            raise ValueError(f"{gibibytes(entry.file_size)} GiB when unpacked, at most 1 is read")
        if entry.flag_bits & ENCRYPTED:
            raise ValueError("encrypted, which this does not read; unpack it and zip it again without a password")
        return self._zip().read(entry)

    def _labels_by_name(self, entry: zipfile.ZipInfo) -> Any:
        """Return what `dataset.json` has under "labels"."""
        name = f"{self._path}/{LABELS}"
        try:
            content = json.loads(self._read(entry))
        except Exception as error:
            raise UsageError(f"{name}: cannot be read ({' '.join(str(error).split())}); write it again") from error
        if not isinstance(content, dict) or "labels" not in content:
            raise UsageError(
                f'{name}: must be {{"labels": …}}, with a list of [file, class], or null without classes'
            )
        return content["labels"]


def _open(path: Path) -> zipfile.ZipFile:
    advice = "name a zip of images"
    if path.exists() and not path.is_dir() and not path.is_file():
        # zipfile would wait for a pipe, and read a device until memory is full
        raise UsageError(f"--data-root {path}: not a regular file; {advice}")
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise UsageError(f"--data-root {path}: no such file; {advice}") from error
    except IsADirectoryError as error:
        raise UsageError(f"--data-root {path}: a directory; {advice}, or use --dataset folder") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"--data-root {path}: not a readable zip ({reason}); {advice}") from error


def _inner_path(name: str) -> PurePosixPath:
    """Return a path in the zip as it is compared: Windows has other separators, and some tools add a root."""
    return PurePosixPath(name.replace("\\", "/").lstrip("/"))


def _labels_of(source: str, labels: Any, names: list[str]) -> list[int]:
    """Return the class of each image; empty without classes.

    Args:
        source: What messages call `dataset.json`.
        labels: What it has under "labels".
        names: Of the images.

    Raises:
        UsageError: The labels are no list of files and classes, or are not those of the images.
    """
    if labels is None:
        return []
    number_of = _numbers_by_name(source, labels)
    known = set(names)
    if unknown := [name for name in number_of if name not in known]:
        raise UsageError(
            f"{source}: has a class for {unknown[0]}, which is no image of the zip"
            f"{_and_more(unknown)}; add the image, or remove the label"
        )
    if missing := [name for name in names if name not in number_of]:
        raise UsageError(
            f"{source}: has no class for {missing[0]}{_and_more(missing)}; add one for every image, or let "
            '"labels" be null'
        )
    return [number_of[name] for name in names]


def _numbers_by_name(source: str, labels: Any) -> Mapping[str, int]:
    if not isinstance(labels, list):
        raise UsageError(f'{source}: "labels" must be a list of [file, class], or null')
    numbers: dict[str, int] = {}
    for position, pair in enumerate(labels):
        match pair:
            case [str(name), int(number)] if not isinstance(number, bool):
                name = _inner_path(name).as_posix()
            case _:
                raise UsageError(
                    f"{source}: label {position} is {printable(json.dumps(pair))[:80]}; it must be a file and the "
                    'number of its class, as in ["00000/img00000000.png", 7]'
                )
        require_class(f"{source}: the class of {name}", number)
        if numbers.setdefault(name, number) != number:
            raise UsageError(f"{source}: has two classes for {name}, {numbers[name]} and {number}; leave one")
    return numbers


def _and_more(names: list[str]) -> str:
    return f" (and for {len(names) - 1:,} more)" if len(names) > 1 else ""
