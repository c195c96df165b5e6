"""Folders, zips and Parquet files of the same images are the same data, in memory or streamed."""

import io
import json
import multiprocessing
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan.data.archive import ZipImages
from gan.data.datasets import DatasetRequest, held, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.images import to_uint8
from gan.process.memory import memory_for_images, parse_size
from tests.conftest import ROOT
from tests.gan.stored_images import (
    CLASSES,
    KINDS,
    NAMES,
    REQUEST,
    image_files,
    in_memory,
    rows_of,
    stored,
    streamed,
    stylegan_labels,
    write_parquet,
    write_zip,
)
from tests.gan.test_decoding import CASES, ORIENTED, png

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_classes_and_order_are_those_of_the_folder(kind: str, pictures: Path) -> None:
    expected = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in image_files(pictures)]
    root = stored(kind, pictures)
    kept = in_memory(kind, root)
    assert np.array_equal(kept.train, np.stack(expected))
    order = [torch.tensor([5, 32, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([7])]
    for dataset in (kept, streamed(kind, root)):
        assert dataset.labels.tolist() == CLASSES
        assert dataset.class_names == NAMES
        batches = [to_uint8(batch) for batch in dataset.stream(order)]
        assert all(torch.equal(batch, kept.train[rows]) for batch, rows in zip(batches, order, strict=True))
    assert "33 images" in kept.description
    assert "in 3 classes" in kept.description


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_workers_stream_and_fill_the_same(kind: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.data.streamed.FEW_IMAGES", 0)
    monkeypatch.setattr("gan.data.streamed.BYTES_AT_ONCE", 5 * 3 * 8 * 8)
    monkeypatch.setattr("gan.data.streamed.SECONDS_UNTIL_NEWS", 0)
    root = stored(kind, pictures)
    expected = in_memory(kind, root).train
    others = set(multiprocessing.active_children())
    said: list[str] = []
    dataset = streamed(kind, root, num_workers=2)
    order = torch.randperm(33).split(4)
    for _ in range(2):  # epochs
        assert all(
            torch.equal(to_uint8(batch), expected[rows])
            for batch, rows in zip(dataset.stream(order), order, strict=True)
        )
    assert torch.equal(dataset.in_memory(said.append).train, expected)
    assert said == ["reading 33 images into memory, 6,336 B; --memory-budget 0 would stream them"]
    del dataset
    for worker in set(multiprocessing.active_children()) - others:
        worker.join(60)
    assert not set(multiprocessing.active_children()) - others


@pytest.mark.parametrize("kind", ["zip", "hf"])
def test_every_kind_of_image_file_is_read_as_in_a_folder(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(CASES):
        maker, _ = CASES[name]
        maker(folder / f"{number}")
    for orientation in ORIENTED:
        exif = Image.Exif()
        exif[0x0112] = orientation
        levels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
        Image.fromarray(levels).save(folder / f"upright{orientation}.jpg", exif=exif)
        (folder / f"upright{orientation}.png").write_bytes(png(levels, 0, 8, (b"eXIf", exif.tobytes()[6:])))
    Image.new("RGB", (300, 2), "red").save(folder / "wide.webp")
    if kind == "hf":
        root = write_parquet(tmp_path / "rows", folder, [0] * len(image_files(folder)), ["all"])
    else:
        root = write_zip(tmp_path / "pictures.zip", folder)
    for shape in ((1, 4, 5), (3, 16, 12)):
        request = replace(REQUEST, image_shape=shape)
        expected = in_memory("folder", folder, request).train
        assert len(expected) == len(CASES) + 2 * len(ORIENTED) + 1
        assert torch.equal(in_memory(kind, root, request).train, expected)


def test_the_memory_budget_decides(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """33 images of 3·8·8 bytes."""
    num_bytes = 33 * 192
    request = replace(REQUEST, data_root=pictures)
    for budget, fits in ((str(num_bytes), True), (str(num_bytes - 1), False), ("0", False), ("6.5KB", True)):
        dataset = load_dataset("folder", replace(request, memory_budget=budget))
        assert (dataset.fits, isinstance(held(dataset, print), InMemoryImages)) == (fits, fits), budget
    monkeypatch.setattr("gan.process.memory.free_on_host", lambda: 8 * num_bytes)
    assert memory_for_images(CPU, 1) == 2 * num_bytes
    assert load_dataset("folder", replace(request, processes_here=2)).fits
    assert not load_dataset("folder", replace(request, processes_here=3)).fits
    assert not load_dataset("folder", replace(request, processes_here=9, memory_budget="1GiB")).fits
    assert (
        "streamed, because 6,336 B are more than the memory budget, 0 B"
        in load_dataset("folder", replace(request, memory_budget="0")).description
    )


def test_sizes_are_read() -> None:
    assert [parse_size("", text) for text in ("4GiB", "4 gb", "1.5KiB", "7", "0B")] == [
        2**32,
        4 * 10**9,
        1536,
        7,
        0,
    ]


def test_labels_of_a_stylegan_zip(pictures: Path, tmp_path: Path) -> None:
    """They count, not the directories; null means none."""
    numbers = [index * 5 % 7 for index in range(33)]
    pairs = stylegan_labels(pictures, numbers)
    root = write_zip(tmp_path / "labelled.zip", pictures, [*reversed(pairs)])
    dataset = in_memory("zip", root)
    assert dataset.labels.tolist() == numbers
    assert dataset.class_names is None
    assert "33 images in 7 classes by dataset.json" in dataset.description
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as file:
        for path in image_files(pictures):
            file.write(path, f"/00000\\{path.parent.name}-{path.name}")
        file.writestr("dataset.json", '{"labels": null}')
        file.writestr("__MACOSX/._0.png", b"")
        file.writestr("notes.txt", b"")
    unlabelled = in_memory("zip", tmp_path / "none.zip")
    assert unlabelled.labels is None
    assert torch.equal(unlabelled.train.sum((1, 2, 3)).sort().values, dataset.train.sum((1, 2, 3)).sort().values)
    assert "without classes by dataset.json; left out: 1 hidden, 1 of other types (.txt)" in unlabelled.description


def test_names_in_a_zip_are_compared_alike_and_gaps_of_classes_are_said(pictures: Path, tmp_path: Path) -> None:
    images = [path.read_bytes() for path in image_files(pictures)]
    with zipfile.ZipFile(tmp_path / "names.zip", "w") as file:
        for name, content in zip(("/a.png", "b.png", "./a.png"), images, strict=False):
            file.writestr(name, content)
        file.writestr("dataset.json", json.dumps({"labels": [["/a.png", 0], ["./b.png", 9]]}))
    stored = ZipImages(tmp_path / "names.zip")
    assert stored.labels == [0, 9]
    assert [stored[0].content, stored[1].content] == [images[2], images[1]]
    assert "2 images in 2 of 10 classes by dataset.json; left out: 1 replaced by another" in stored.description


def test_a_zip_travels_to_processes_that_are_not_forked(pictures: Path, tmp_path: Path) -> None:
    images = ZipImages(write_zip(tmp_path / "images.zip", pictures))
    assert pickle.loads(pickle.dumps(images))[3] == images[3]


def test_columns_of_a_dataset(pictures: Path, tmp_path: Path) -> None:
    """What no type names is taken where it is named: bytes as images, texts and numbers as classes."""
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    files = [path.read_bytes() for path in image_files(pictures)]
    kinds = [NAMES[-1 - number] for number in CLASSES]
    rows = datasets.Dataset.from_dict({"raw": files, "kind": kinds, "number": CLASSES})
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "some").mkdir()
    shutil.move(tmp_path / "rows.parquet", tmp_path / "some" / "rows.parquet")
    expected = in_memory("folder", pictures).train
    request = replace(REQUEST, image_column="raw")
    by_text = in_memory("hf", tmp_path / "some", replace(request, label_column="kind"))
    assert torch.equal(by_text.train, expected)
    assert by_text.class_names == NAMES
    assert by_text.labels.tolist() == [2 - number for number in CLASSES]
    by_number = in_memory("hf", tmp_path / "some", replace(request, label_column="number"))
    assert (by_number.labels.tolist(), by_number.class_names) == (CLASSES, None)
    assert in_memory("hf", tmp_path / "some", request).labels is None
    saved = tmp_path / "saved"
    labelled = rows_of(pictures, CLASSES, NAMES)
    datasets.DatasetDict({"test": labelled.select([0]), "train": labelled}).save_to_disk(saved)
    assert torch.equal(in_memory("hf", saved).train, expected)
    labelled.save_to_disk(tmp_path / "one")
    assert in_memory("hf", tmp_path / "one").labels.tolist() == CLASSES
    assert in_memory("hf", tmp_path / "one", replace(REQUEST, label_column="none")).labels is None
    labelled.with_format("numpy", columns=["label"]).save_to_disk(tmp_path / "formatted")
    formatted = in_memory("hf", tmp_path / "formatted")
    assert torch.equal(formatted.train, expected)
    assert formatted.labels.tolist() == CLASSES


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", ["zip", "hf"])
def test_mnist_comes_back_from_a_zip_and_from_parquet(kind: str, tmp_path: Path) -> None:
    """The first 12,000 images in their order, in several batches, read by two workers."""
    if not (ROOT / "data" / "MNIST").is_dir():
        pytest.skip("MNIST is not in data/")
    request = DatasetRequest(ROOT / "data", (1, 28, 28), 2, CPU)
    mnist = load_dataset("mnist", request)
    assert isinstance(mnist, InMemoryImages)
    assert mnist.labels is not None
    mnist = replace(mnist, train=mnist.train[:12_000], labels=mnist.labels[:12_000])
    labels = mnist.labels.tolist()
    files = []
    for image in mnist.train:
        content = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(content, "png", compress_level=0)
        files.append(content.getvalue())
    if kind == "zip":
        root = tmp_path / "mnist.zip"
        names = [f"{index // 1000:05}/img{index:08}.png" for index in range(len(files))]
        with zipfile.ZipFile(root, "w") as archive:
            for name, content_of_file in zip(names, files, strict=True):
                archive.writestr(name, content_of_file)
            archive.writestr("dataset.json", json.dumps({"labels": [*zip(names, labels, strict=True)]}))
    else:
        datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
        columns = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
        images = [{"bytes": content_of_file, "path": None} for content_of_file in files]
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, datasets.Features(columns))
        root = tmp_path / "mnist"
        rows.to_parquet(str(root / "train.parquet"))
    kept = held(load_dataset(kind, replace(request, data_root=root)), print)
    assert isinstance(kept, InMemoryImages)
    assert torch.equal(kept.train, mnist.train)
    assert kept.labels is not None
    assert torch.equal(kept.labels, mnist.labels)
