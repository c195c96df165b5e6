"""Folders, zips and Parquet files of the same images are the same data, in memory or streamed."""

import io
import json
import multiprocessing
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from gan.data.archive import ZipImages
from gan.data.datasets import DatasetRequest, held, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.data.streamed import StreamedImages
from gan.errors import UsageError
from gan.evaluate import evaluate
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.images import to_uint8
from gan.loop import train
from gan.options import parse_train_options
from gan.process.memory import memory_for_images, parse_size
from gan.quality.judge import judge_of
from gan.run_options import EvaluateOptions
from tests.conftest import launch_two_processes, quick_or_slow
from tests.gan.small_run import TRAIN
from tests.gan.stored_images import (
    CLASSES,
    NAMES,
    image_files,
    rows_of,
    stylegan_labels,
    write_parquet,
    write_pictures,
    write_zip,
)
from tests.gan.test_decoding import CASES, ORIENTED, png

CPU = torch.device("cpu")
KINDS = ("folder", "zip", "hf")
REQUEST = DatasetRequest(Path("data"), (3, 8, 8), 0, CPU)


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
    assert said == ["reading 33 images into memory, 0.0 MiB; --memory-budget 0 would stream them"]
    del dataset
    for worker in set(multiprocessing.active_children()) - others:
        worker.join(20)
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


SETTINGS = ("--recipe", "cgan", "--image-shape", "3", "8", "8", "--batch-size", "4", "--num-threads", "1")


def trained(output: Path, *arguments: object) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    """Train and return the last checkpoint, and the lines of the epochs without times."""
    AcceleratorState._reset_state(reset_partial_state=True)
    train(parse_train_options([*SETTINGS, "--output", str(output), *map(str, arguments)]))
    return last_of(output)


def last_of(output: Path) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    folder = RunFolder(output)
    lines = [
        {name: value for name, value in line.items() if "second" not in name}
        for line in read_json_lines(folder.metrics)
    ]
    return load_file(sorted(folder.checkpoints.iterdir())[-1]), lines


def assert_same(a: tuple[dict[str, Tensor], object], b: tuple[dict[str, Tensor], object]) -> None:
    assert a[0].keys() == b[0].keys()
    assert all(torch.equal(tensor, b[0][name]) for name, tensor in a[0].items())
    assert a[1] == b[1]


@pytest.mark.parametrize("kind", quick_or_slow(KINDS, quick=["zip"]))
def test_a_streamed_run_is_the_run_in_memory_bit_for_bit(kind: str, pictures: Path, tmp_path: Path) -> None:
    """Also if it stops in the middle of an epoch and goes on the other way."""
    expected = trained(tmp_path / "whole", "--dataset", "folder", "--data-root", pictures, "--steps", 20)
    data = ("--dataset", kind, "--data-root", stored(kind, pictures), "--num-workers", 0)
    assert_same(trained(tmp_path / "streamed", *data, "--steps", 20, "--memory-budget", 0), expected)
    trained(tmp_path / "begun", *data, "--steps", 11, "--memory-budget", 0)
    resumed = trained(tmp_path / "begun", *data, "--steps", 20, "--memory-budget", "1GiB", "--resume")
    assert_same(resumed, expected)
    assert len(expected[1]) == 3


def launched(output: Path, *arguments: object) -> str:
    """Train in two processes, with five steps an epoch; return what was printed."""
    done = launch_two_processes(TRAIN, *SETTINGS, *arguments, "--output", output, cwd=output.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that have the images of a folder in memory."""
    root = tmp_path_factory.mktemp("two")
    pictures = write_pictures(root / "pictures")
    assert "; in memory" in launched(root / "run", "--dataset", "folder", "--data-root", pictures, "--steps", 10)
    return root / "run"


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_stream_what_they_would_have_in_memory(
    kind: str, pictures: Path, tmp_path: Path, run_of_two_processes: Path
) -> None:
    """Also if they stop in the middle of an epoch."""
    data = ("--dataset", kind, "--data-root", stored(kind, pictures), "--memory-budget", 0, "--num-workers", 1)
    assert "; streamed" in launched(tmp_path / "run", *data, "--steps", 7)
    launched(tmp_path / "run", *data, "--resume", "--steps", 10)
    assert_same(last_of(tmp_path / "run"), last_of(run_of_two_processes))


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
        "streamed, because 0.0 MiB are more than"
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


@pytest.mark.parametrize("kind", quick_or_slow(("zip", "hf"), quick=["zip"]))
def test_other_data_are_noticed_when_a_run_is_resumed(kind: str, pictures: Path, tmp_path: Path) -> None:
    """A changed pixel, a changed label; not a moved file."""
    root = stored(kind, pictures)
    data = ("--dataset", kind, "--num-workers", 0, "--steps", 1)
    trained(tmp_path / "run", *data, "--data-root", root)
    moved = root.rename(root.with_name(f"moved{root.suffix}"))
    trained(tmp_path / "run", *data, "--data-root", moved, "--resume")
    path = image_files(pictures)[3]
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    changed = stored(kind, pictures)
    with pytest.raises(
        UsageError, match=r"the images or labels of --data-root .* are others than at the beginning"
    ):
        trained(tmp_path / "run", *data, "--data-root", changed, "--resume")


def test_scores_of_zipped_digits_are_those_of_the_digits(
    run_training: Callable[..., Path], tmp_path: Path
) -> None:
    """The same images in the same order; only class frequencies come from the classifier instead of the labels."""
    digits = load_dataset("digits", replace(REQUEST, data_root=Path("data")))
    assert isinstance(digits, InMemoryImages)
    with zipfile.ZipFile(tmp_path / "digits.zip", "w") as file:
        for index, image in enumerate(digits.train):
            content = io.BytesIO()
            Image.fromarray(image[0].numpy()).save(content, "png")
            file.writestr(f"{index:05}.png", content.getvalue())
        numbers = digits.labels.tolist()
        labels = [[f"{index:05}.png", number] for index, number in enumerate(numbers)]
        file.writestr("dataset.json", json.dumps({"labels": labels}))
    settings = {"recipe": "cgan", "steps": 2, "num_workers": 0}
    run = run_training("zipped", dataset="zip", data_root=tmp_path / "digits.zip", **settings)
    AcceleratorState._reset_state(reset_partial_state=True)
    expected = evaluate(EvaluateOptions(run_training("bundled", dataset="digits", **settings), num_images=300))
    with pytest.raises(UsageError, match=r"--dataset zip: there is no feature extractor .* --extractor NAME"):
        evaluate(EvaluateOptions(run, num_images=300))
    scored = evaluate(EvaluateOptions(run, num_images=300, extractor="digits"))
    assert scored is not None
    assert expected is not None
    close = ("class_kl",)
    for side in ("scores", "floor"):
        for name, value in expected[side].items():
            if name not in close:
                assert scored[side][name] == pytest.approx(value, rel=1e-9), (side, name)
    assert scored["floor"]["class_kl"] == pytest.approx(expected["floor"]["class_kl"], abs=0.05)


def test_an_extractor_takes_images_of_its_size_only(pictures: Path) -> None:
    with pytest.raises(UsageError, match="--extractor mnist: takes images of 28×28; those of --dataset folder"):
        judge_of("folder", in_memory("folder", pictures), 100, "mnist")
    with pytest.raises(UsageError, match="--dataset folder: has 33 images; to be scored it needs 200"):
        judge_of("folder", in_memory("folder", pictures, replace(REQUEST, image_shape=(1, 28, 28))), 100, "mnist")
