"""Images in a column of what the `datasets` library reads: Parquet or Arrow files, or a dataset of the Hub."""

import glob
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gan.data.decoding import ImageBytes, ImageFile, unreadable
from gan.data.stored import classes_in_words, require_class
from gan.errors import UsageError, nearest
from gan.files.text import counted, printable

INSTALL = "pip install 'gan-bench[hf]', or pip install datasets"
TRAIN_SPLIT = "train"
NO_CLASSES = "none"
"""A `--label-column` that takes no classes."""
NUM_DIGESTED = 1024
"""Images that the digest covers, at even distances: all would take as long as reading the whole dataset."""
SAVED_BY_LIBRARY = ("dataset_info.json", "dataset_dict.json")
"""Files of a directory that `save_to_disk` wrote: of a dataset, or of several splits."""
MOST_LETTERS = 300
"""Most letters of a message of the library."""


class HuggingFaceImages:
    """The rows of a dataset in their order; the attributes are those of `StoredImages`.

    Args:
        name: Of a dataset on the Hugging Face Hub; empty for a directory.
        root: A directory with Parquet or Arrow files, or one that `save_to_disk` wrote.
        image_column: The column with the images; None takes the only one whose type is `Image`.
        label_column: The column with the classes, or NO_CLASSES; None takes the only one whose type is
            `ClassLabel`, if there is one.

    Raises:
        UsageError: The library or the dataset is not there, or has no such columns.
    """

    def __init__(self, name: str, root: Path, image_column: str | None, label_column: str | None) -> None:
        library = _library()
        self._where = f"--dataset hf:{name}" if name else f"data root {root}"
        rows = _train_split(_loaded(library, name, root, self._where), self._where)
        rows = rows.with_format(None)  # save_to_disk keeps another one, in which classes are tensors
        images = _image_column(library, rows, image_column, self._where)
        self._images = _encoded(library, rows, images, self._where)
        self._column = images
        classes = _label_column(library, rows, label_column, self._where)
        self.labels, self.class_names = _classes(library, rows, classes, self._where)
        count = f"{counted(len(rows), 'image')} of column {images}"
        arrangement = classes_in_words(self.labels) + (f" of column {classes}" if classes else "")
        self.description = printable(f"{self._where}: {count} {arrangement}")
        self.sha256 = self._digest()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageFile:
        where = f"{self._where}, row {index}"
        try:
            row = self._images[index][self._column]
        except Exception as error:
            raise unreadable(where, _one_line(error)) from error
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise unreadable(where, "empty")
        return Path(row["path"]) if row["bytes"] is None else ImageBytes(where, row["bytes"])

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{len(self)} {self.labels}".encode())
        step = -(-len(self) // NUM_DIGESTED)
        for index in range(0, len(self), step):
            image = self[index]
            digest.update(image.content if isinstance(image, ImageBytes) else image.name.encode())
        return digest.hexdigest()


def _library() -> ModuleType:
    """Return the `datasets` library, which is an extra, told to say nothing."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"--dataset hf: needs the library datasets ({error}); install it: {INSTALL}") from error
    for name in ("datasets", "huggingface_hub"):  # what they log as an error they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets  # type: ignore[no-any-return]


def _loaded(library: ModuleType, name: str, root: Path, where: str) -> Any:
    """Return a dataset, or its splits by name."""
    if name and Path(name).is_dir():
        raise UsageError(
            f"--dataset hf:{name}: a directory here; for local files use --dataset hf --data-root {name}"
        )
    if not name and not root.is_dir():
        raise UsageError(
            f"--data-root {root}: not a directory; --dataset hf reads Parquet or Arrow files below one, and "
            "--dataset hf:NAME a dataset of the Hugging Face Hub"
        )
    try:
        if not name and any((root / file).is_file() for file in SAVED_BY_LIBRARY):
            return library.load_from_disk(str(root))
        return library.load_dataset(name or str(root))
    except Exception as error:  # of many libraries
        advice = (
            "is the name right, and is there a network? Without one use --dataset hf --data-root FOLDER"
            if name
            else "it must have Parquet or Arrow files, or what save_to_disk wrote"
        )
        if not name and glob.has_magic(str(root)):
            advice = "the library takes * ? and [ in its path for patterns: rename the directory"
        raise UsageError(f"{where}: not read ({_one_line(error)}); {advice}") from error


def _train_split(loaded: Any, where: str) -> Any:
    splits = loaded if isinstance(loaded, dict) else {TRAIN_SPLIT: loaded}
    if TRAIN_SPLIT not in splits and len(splits) != 1:
        names = ", ".join(splits)
        raise UsageError(f"{where}: has the splits {names}; training takes the one named train, or the only one")
    rows = splits[TRAIN_SPLIT] if TRAIN_SPLIT in splits else next(iter(splits.values()))
    if not len(rows):
        raise UsageError(f"{where}: has no rows; give a dataset with images")
    return rows


def _image_column(library: ModuleType, rows: Any, chosen: str | None, where: str) -> str:
    if chosen is not None:
        _require_column("--image-column", chosen, rows, where)
        return chosen
    return _only_column("--image-column", "images", library.Image, rows, where) or _refuse(
        f"{where}: no column says that it holds images; name one with --image-column: {_columns(rows)}"
    )


def _label_column(library: ModuleType, rows: Any, chosen: str | None, where: str) -> str | None:
    if chosen is None:
        return _only_column("--label-column", "classes", library.ClassLabel, rows, where)
    if chosen == NO_CLASSES and chosen not in rows.features:
        return None
    _require_column("--label-column", chosen, rows, where)
    return chosen


def _only_column(flag: str, what: str, kind: type, rows: Any, where: str) -> str | None:
    """Return the only column of a type; None if there is none."""
    names = [name for name, feature in rows.features.items() if isinstance(feature, kind)]
    if len(names) > 1:
        raise UsageError(f"{where}: has several columns of {what}; choose with {flag}: {', '.join(names)}")
    return names[0] if names else None


def _refuse(message: str) -> str:
    raise UsageError(message)


def _require_column(flag: str, name: str, rows: Any, where: str) -> None:
    if name not in rows.features:
        raise UsageError(
            f"{flag} {name}: no such column{nearest(name, rows.features)}; {where} has {_columns(rows)}"
        )


def _columns(rows: Any) -> str:
    """Return the columns with their types."""
    kinds = {name: getattr(feature, "dtype", type(feature).__name__) for name, feature in rows.features.items()}
    return printable(", ".join(f"{name} ({kind})" for name, kind in kinds.items()))[:MOST_LETTERS]


def _encoded(library: ModuleType, rows: Any, column: str, where: str) -> Any:
    """Return the rows with a column of encoded images, and no other."""
    try:
        return rows.select_columns([column]).cast_column(column, library.Image(decode=False))
    except Exception as error:
        raise UsageError(f"--image-column {column}: holds no images; {where} has {_columns(rows)}") from error


def _classes(
    library: ModuleType, rows: Any, column: str | None, where: str
) -> tuple[Sequence[int], tuple[str, ...] | None]:
    """Return the class of each row and the names of the classes; empty and None without classes.

    Numbers are classes as they stand. Of texts, the classes are in alphabetical order.
    """
    if column is None:
        return [], None
    feature = rows.features[column]
    values = rows[column][:]
    names: tuple[str, ...] | None = None
    if isinstance(feature, library.ClassLabel):
        names = tuple(feature.names)
    for index, value in enumerate(values):
        if not isinstance(value, int | str) or isinstance(value, bool) or type(value) is not type(values[0]):
            kind = "empty" if value is None else printable(repr(value))[:40]
            raise UsageError(
                f"--label-column {column}: row {index} of {where} is {kind}; classes are whole numbers or texts; "
                f"choose another column, or {NO_CLASSES}"
            )
    if isinstance(values[0], str):
        names = tuple(sorted(set(values)))
        number_of = {name: number for number, name in enumerate(names)}
        return [number_of[value] for value in values], names
    for index, value in enumerate(values):
        require_class(f"--label-column {column}: row {index} of {where}", value)
    return values, names


def _one_line(error: BaseException) -> str:
    """Return the message of an error, with that of its cause: some of the library's say only that there is one."""
    message = printable(" ".join(str(error).split()))[:MOST_LETTERS] or type(error).__name__
    return f"{message}: {_one_line(error.__cause__)}" if error.__cause__ else message
