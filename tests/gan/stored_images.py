"""The same images in a folder, in a zip and in a Parquet file."""

import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gan.data.datasets import DatasetRequest, held, load_dataset
from gan.data.decoding import IMAGE_SUFFIXES
from gan.data.in_memory import InMemoryImages
from gan.data.streamed import StreamedImages
from tests.gan.small_run import write_images

NAMES = ("cats", "dogs", "rabbits")
CLASSES = [0] * 11 + [1] * 12 + [2] * 10
KINDS = ("folder", "zip", "hf")
REQUEST = DatasetRequest(Path("data"), (3, 8, 8), 0, torch.device("cpu"))


def write_pictures(folder: Path) -> Path:
    """Make a folder of 33 pictures in the classes NAMES."""
    for number, name in enumerate(NAMES):
        write_images(folder / name, CLASSES.count(number))
    return folder


def image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def write_zip(archive: Path, folder: Path, labels: Any = None) -> Path:
    """Zip the images of a folder; labels are `dataset.json`'s, unless they are None."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in image_files(folder):
            file.write(path, path.relative_to(folder).as_posix())
        if labels is not None:
            file.writestr("dataset.json", json.dumps({"labels": labels}))
    return archive


def stylegan_labels(folder: Path, classes: Sequence[int]) -> list[list[Any]]:
    """The labels of a folder's images, as dataset_tool writes them."""
    names = [path.relative_to(folder).as_posix() for path in image_files(folder)]
    return [[name, number] for name, number in zip(names, classes, strict=True)]


def rows_of(folder: Path, classes: Sequence[int], names: Sequence[str]) -> Any:
    """The images of a folder as a dataset of the `datasets` library."""
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    images = [{"bytes": path.read_bytes(), "path": None} for path in image_files(folder)]
    return datasets.Dataset.from_dict({"image": images, "label": list(classes)}, features=features)


def write_parquet(root: Path, folder: Path, classes: Sequence[int], names: Sequence[str]) -> Path:
    root.mkdir()
    rows_of(folder, classes, names).to_parquet(os.fspath(root / "train-00000-of-00001.parquet"))
    return root


def stored(kind: str, folder: Path) -> Path:
    """Put the pictures into the kind of storage, beside their folder; return the data root."""
    if kind == "zip":
        return write_zip(folder.with_suffix(".zip"), folder)
    return write_parquet(folder.with_name("rows"), folder, CLASSES, NAMES) if kind == "hf" else folder


def in_memory(kind: str, root: Path, request: DatasetRequest = REQUEST) -> InMemoryImages:
    dataset = held(load_dataset(kind, replace(request, data_root=root)), print)
    assert isinstance(dataset, InMemoryImages)
    return dataset


def streamed(kind: str, root: Path, num_workers: int = 0) -> StreamedImages:
    request = replace(REQUEST, data_root=root, num_workers=num_workers, memory_budget="0")
    dataset = held(load_dataset(kind, request), print)
    assert isinstance(dataset, StreamedImages)
    return dataset
