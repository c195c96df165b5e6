"""`python -m gan.data.prepare`: a zip with the images, the order and the classes of a dataset."""

import hashlib
import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan.data.datasets import DatasetRequest, held, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.data.prepare import main
from gan.process.place import Place
from gan.run_options import parse_evaluate_options
from gan.session.subject import request_of, subject_of
from tests.gan.stored_images import CLASSES, image_files, write_pictures

Script = Callable[..., tuple[int, str, str]]


def in_memory(name: str, root: Path, shape: tuple[int, int, int] = (3, 4, 4)) -> InMemoryImages:
    dataset = held(load_dataset(name, DatasetRequest(root, shape, 0, torch.device("cpu"))), print)
    assert isinstance(dataset, InMemoryImages)
    return dataset


def test_a_zip_trains_as_the_folder_does(tmp_path: Path, script: Script) -> None:
    """The same bytes, order and classes: so a run on it is the same, bit for bit."""
    folder = write_pictures(tmp_path / "photos")
    flags = ("--data-root", folder, "--image-shape", 3, 4, 4, "--num-workers", 0)
    code, said, errors = script(main, tmp_path / "small.zip", *flags)
    assert (code, errors) == (0, "")
    assert said.splitlines() == [
        f"data root {folder}: 33 images in 3 classes (cats 11, dogs 12, rabbits 10)",
        f"{tmp_path}/small.zip: 33 images of 3×4×4 in 3 classes",
    ]
    prepared, original = in_memory("zip", tmp_path / "small.zip"), in_memory("folder", folder)
    assert torch.equal(prepared.train, original.train)
    assert prepared.labels.tolist() == original.labels.tolist() == CLASSES
    script(main, tmp_path / "again.zip", *flags)
    digests = {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("small.zip", "again.zip")}
    assert len(digests) == 1, "equal images make equal zips"


def test_classes_may_be_left_out_and_grey_images_stay_grey(tmp_path: Path, script: Script) -> None:
    folder = write_pictures(tmp_path / "photos")
    flags = ("--data-root", folder, "--image-shape", 1, 4, 4, "--num-workers", 0, "--no-labels")
    assert script(main, tmp_path / "grey.zip", *flags)[0] == 0
    with zipfile.ZipFile(tmp_path / "grey.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        assert Image.open(archive.open("00000/img00000000.png")).mode == "L"
    assert torch.equal(
        in_memory("zip", tmp_path / "grey.zip", (1, 4, 4)).train, in_memory("folder", folder, (1, 4, 4)).train
    )


def test_a_dataset_with_a_shape_of_its_own_is_written_as_it_is(tmp_path: Path, script: Script) -> None:
    assert script(main, tmp_path / "digits.zip", "--dataset", "digits")[0] == 0
    digits = load_dataset("digits", DatasetRequest(Path("data"), (1, 28, 28), 0, torch.device("cpu")))
    prepared = in_memory("zip", tmp_path / "digits.zip", (1, 28, 28))
    assert torch.equal(prepared.train, digits.train)
    assert torch.equal(prepared.labels, digits.labels)


def test_columns_are_named_as_in_training(tmp_path: Path, script: Script) -> None:
    """Of several columns of images, errors advise to name one."""
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    folder = write_pictures(tmp_path / "photos")
    files = [path.read_bytes() for path in image_files(folder)]
    kinds = datasets.Features({"a": datasets.Image(), "b": datasets.Image(), "number": datasets.Value("int64")})
    columns = {"a": [{"bytes": file, "path": None} for file in files], "number": CLASSES}
    rows = datasets.Dataset.from_dict({**columns, "b": columns["a"][::-1]}, features=kinds)
    (tmp_path / "rows").mkdir()
    rows.to_parquet(str(tmp_path / "rows" / "train.parquet"))
    flags = ("--dataset", "hf", "--data-root", tmp_path / "rows", "--image-shape", 3, 4, 4, "--num-workers", 0)
    code, _, errors = script(main, tmp_path / "small.zip", *flags)
    assert (code, "choose with --image-column: a, b" in errors) == (2, True)
    named = ("--image-column", "b", "--label-column", "number")
    assert script(main, tmp_path / "small.zip", *flags, *named)[0] == 0
    prepared = in_memory("zip", tmp_path / "small.zip")
    assert torch.equal(prepared.train, in_memory("folder", folder).train.flip(0))
    assert prepared.labels.tolist() == CLASSES


def test_an_evaluation_takes_columns_as_training_does(tmp_path: Path) -> None:
    line = ["--images", str(tmp_path), "--dataset", "hf", "--image-shape", "3", "4", "4"]
    options = parse_evaluate_options([*line, "--image-column", "b", "--label-column", "number"])
    request = request_of(subject_of(options), options, Place(0, 1, torch.device("cpu")))
    assert (request.image_column, request.label_column) == ("b", "number")


def test_images_are_antialiased(tmp_path: Path, script: Script) -> None:
    """Thin lines become grey, and do not come and go with where they lie."""
    (tmp_path / "lines").mkdir()
    lines = torch.zeros(64, 64, dtype=torch.uint8)
    lines[:, ::4] = 255
    Image.fromarray(lines.numpy()).save(tmp_path / "lines" / "0.png")
    flags = ("--data-root", tmp_path / "lines", "--image-shape", 1, 8, 8, "--num-workers", 0)
    script(main, tmp_path / "lines.zip", *flags)
    image = in_memory("zip", tmp_path / "lines.zip", (1, 8, 8)).train.float()
    assert image.mean() == pytest.approx(255 / 4, abs=6)
    assert image.std() < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.zip"], "--dataset folder: add --image-shape C H W, as in 3 64 64"),
        (
            ["a.zip", "--dataset", "digits", "--image-shape", "3", "8", "8"],
            "--image-shape 3 8 8: --dataset digits has a shape of its own; leave it out",
        ),
        (
            ["a.zip", "--image-shape", "2", "8", "8"],
            "--image-shape 2 8 8: takes 1 or 3 channels and a height and width of at least 1, as in 3 64 64",
        ),
        (["a.zip", "--dataset", "digits", "--num-workers", "9999"], "--num-workers 9999: must be at most 4096"),
        (["there.zip", "--dataset", "digits"], "there.zip: exists; remove it, or name another file"),
        (
            ["a.zip", "--image-shape", "3", "8", "8", "--label-column", "kind"],
            "--label-column kind: --dataset folder has no columns; leave it out, or use hf",
        ),
        (
            ["a.zip", "--data-root", "nowhere", "--image-shape", "3", "8", "8"],
            "--data-root nowhere: not a directory; --dataset folder reads images below it",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.zip").write_bytes(b"mine")
    code, _, errors = script(main, *arguments)
    assert (code, errors) == (2, f"error: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["there.zip"]
    assert Path("there.zip").read_bytes() == b"mine"


def test_a_damaged_image_leaves_no_zip(tmp_path: Path, script: Script) -> None:
    folder = write_pictures(tmp_path / "photos")
    damaged = folder / "dogs" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:60])  # its header is whole
    flags = ("--data-root", folder, "--image-shape", 3, 4, 4, "--num-workers", 0)
    code, _, errors = script(main, tmp_path / "small.zip", *flags)
    assert code == 2
    assert f"error: {damaged}: not a readable image" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("meanwhile", ["gan.data.prepare._png", "gan.data.decoding._upright"])
def test_a_signal_to_end_leaves_no_part_of_a_zip(
    meanwhile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    """Also while an image is read, where every Exception is taken for damage."""
    folder = write_pictures(tmp_path / "photos")
    monkeypatch.setattr(meanwhile, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    flags = ("--data-root", folder, "--image-shape", 3, 4, 4, "--num-workers", 0)
    code, _, errors = script(main, tmp_path / "small.zip", *flags)
    assert (code, errors) == (143, "interrupted; nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    assert signal.getsignal(signal.SIGTERM) is before
