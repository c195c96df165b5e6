"""What is wrong with a zip or with columns is said in one line, and nothing of the user's is touched."""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gan.data.datasets import held, load_dataset
from gan.errors import UsageError
from gan.options import parse_train_options
from gan.run_options import parse_evaluate_options
from tests.gan.small_run import contents
from tests.gan.stored_images import CLASSES, NAMES, REQUEST, image_files, rows_of, stylegan_labels, write_zip


def spoilt(change: Callable[[zipfile.ZipFile, Path], object]) -> Callable[[Path], Path]:
    def make(pictures: Path) -> Path:
        archive = write_zip(pictures.with_suffix(".zip"), pictures)
        with zipfile.ZipFile(archive, "a") as file:
            change(file, pictures)
        return archive

    return make


def labelled(labels: object) -> Callable[[Path], Path]:
    return spoilt(lambda file, _: file.writestr("dataset.json", json.dumps({"labels": labels})))


def overwritten(old: bytes, new: bytes) -> Callable[[Path], Path]:
    def make(pictures: Path) -> Path:
        archive = write_zip(pictures.with_suffix(".zip"), pictures)
        content = archive.read_bytes()
        assert old in content
        archive.write_bytes(content.replace(old, new))
        return archive

    return make


def cut_short(pictures: Path) -> Path:
    archive = write_zip(pictures.with_suffix(".zip"), pictures)
    archive.write_bytes(archive.read_bytes()[:-60])
    return archive


def encrypted(pictures: Path) -> Path:
    """The flag of all entries is set, as zip -e sets it."""
    archive = write_zip(pictures.with_suffix(".zip"), pictures)
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        position = content.find(signature)
        while position >= 0:
            content[position + offset] |= 1
            position = content.find(signature, position + 1)
    archive.write_bytes(content)
    return archive


def pairs(pictures: Path) -> list[list[object]]:
    return stylegan_labels(pictures, CLASSES)


BAD_ZIPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda pictures: pictures / "nowhere.zip", "no such file; name a zip of images"),
    "directory": (lambda pictures: pictures, "a directory; name a zip of images, or use --dataset folder"),
    "no zip": (lambda pictures: image_files(pictures)[0], "not a readable zip (File is not a zip file)"),
    "cut short": (cut_short, "not a readable zip"),
    "no images": (
        lambda pictures: write_zip(pictures.with_suffix(".zip"), pictures / "birds"),
        "no images; their names must end in .bmp",
    ),
    "encrypted": (encrypted, "cats/0.png: not a readable image (encrypted"),
    "wrong checksum": (overwritten(b"IDAT", b"IDAX"), "(Bad CRC-32 for file 'cats/0.png')"),
    "text": (
        spoilt(lambda file, _: file.writestr("cats/z.png", "no image")),
        "z.png: not a readable image (none of",
    ),
    "empty": (spoilt(lambda file, _: file.writestr("cats/z.png", "")), "z.png: not a readable image (empty file)"),
    "huge": (
        spoilt(lambda file, _: file.writestr("cats/z.pgm", b"P5 20000 20000 255 ")),
        "z.pgm: not a readable image (Image size (400000000 pixels) exceeds limit",
    ),
    "bomb": (
        spoilt(lambda file, _: file.writestr("cats/z.png", bytes(2000), zipfile.ZIP_DEFLATED)),
        "z.png: not a readable image (",
    ),
    "label of no image": (
        lambda pictures: write_zip(pictures.with_suffix(".zip"), pictures, [*pairs(pictures), ["x.png", 0]]),
        "dataset.json: has a class for x.png, which is no image of the zip",
    ),
    "image without label": (
        lambda pictures: write_zip(pictures.with_suffix(".zip"), pictures, pairs(pictures)[2:]),
        "dataset.json: has no class for cats/0.png (and for 1 more)",
    ),
    "two labels": (
        lambda pictures: write_zip(pictures.with_suffix(".zip"), pictures, [*pairs(pictures), ["cats/0.png", 1]]),
        "has two classes for cats/0.png, 0 and 1",
    ),
    "vectors": (
        labelled([["cats/0.png", [0.5, 1]]]),
        'label 0 is ["cats/0.png", [0.5, 1]]; it must be',
    ),
    "true": (labelled([["cats/0.png", True]]), "label 0 is"),
    "no pairs": (labelled([3]), "label 0 is 3"),
    "negative": (labelled([["cats/0.png", -1]]), "the class of cats/0.png is -1; classes are numbers from 0"),
    "enormous": (labelled([["cats/0.png", 10**30]]), "classes are numbers from 0 to 1,048,575"),
    "a text": (labelled("cats"), '"labels" must be a list of [file, class], or null'),
    "no labels": (spoilt(lambda file, _: file.writestr("dataset.json", "[]")), 'must be {"labels": …}'),
    "no JSON": (spoilt(lambda file, _: file.writestr("dataset.json", b"\xff{")), "dataset.json: cannot be read"),
    "deep JSON": (
        spoilt(lambda file, _: file.writestr("dataset.json", "[" * 10**5)),
        "dataset.json: cannot be read",
    ),
}


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_zip_that_is_no_file_is_refused_and_not_read(kind: str, tmp_path: Path) -> None:
    """A pipe would be waited for, and /dev/zero read until the memory is full."""
    root = Path("/dev/zero") if kind == "device" else tmp_path / "pipe.zip"
    if kind == "pipe":
        os.mkfifo(root)
    with pytest.raises(UsageError, match="not a regular file; name a zip of images"):
        load_dataset("zip", replace(REQUEST, data_root=root))


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_bad_zip_is_refused_in_one_line(
    name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = BAD_ZIPS[name]
    root = make(pictures)
    if name == "bomb":
        monkeypatch.setattr("gan.data.archive.MOST_BYTES", 1000)
        message += "0.0 GiB when unpacked, at most"
    before = contents(tmp_path)
    with pytest.raises(UsageError) as refused:
        held(load_dataset("zip", replace(REQUEST, data_root=root)), print)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    assert contents(tmp_path) == before


def saved_rows(root: Path, pictures: Path, **columns: object) -> Path:
    rows = rows_of(pictures, CLASSES, NAMES)
    for name, values in columns.items():
        rows = rows.add_column(name, values)
    rows.save_to_disk(root)
    return root


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image_column": "imgae"}, "--image-column imgae: no such column; did you mean image?; data root "),
        ({"image_column": "weight"}, "--image-column weight: holds no images; data root "),
        ({"image_column": "label"}, "--image-column label: holds no images; data root "),
        ({"label_column": "lable"}, "--label-column lable: no such column; did you mean label?; data root "),
        ({"label_column": "weight"}, "--label-column weight: row 0 of data root "),
        ({"label_column": "some"}, "is empty; classes are whole numbers or texts; choose another column, or none"),
        ({"label_column": "negative"}, "--label-column negative: row 1 of data root "),
        ({"label_column": "image"}, "--label-column image: row 0 of data root "),
    ],
)
def test_bad_columns_are_refused_in_one_line(
    columns: dict[str, str], message: str, pictures: Path, tmp_path: Path
) -> None:
    others = {"weight": [0.5] * 33, "some": [1, None] * 16 + [1], "negative": [0, -1, *[0] * 31]}
    root = saved_rows(tmp_path / "rows", pictures, **others)
    with pytest.raises(UsageError) as refused:
        load_dataset("hf", replace(REQUEST, data_root=root, **columns))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_rows_are_refused_in_one_line(pictures: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    rows = rows_of(pictures, CLASSES, NAMES)
    content = image_files(pictures)[0].read_bytes()
    features = datasets.Features({"image": datasets.Image()})

    def refusal(dataset: object, name: str) -> str:
        dataset.save_to_disk(tmp_path / name)  # type: ignore[attr-defined]
        with pytest.raises(UsageError) as refused:
            held(load_dataset("hf", replace(REQUEST, data_root=tmp_path / name)), print)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    def images(*contents_of_rows: bytes | None) -> object:
        values = [None if content is None else {"bytes": content, "path": None} for content in contents_of_rows]
        return datasets.Dataset.from_dict({"image": values}, features=features)

    two = rows.add_column("other", CLASSES).cast_column("other", datasets.ClassLabel(names=list(NAMES)))
    assert "has several columns of classes; choose with --label-column: label, other" in refusal(two, "two")
    assert "no column says that it holds images" in refusal(rows.remove_columns("image"), "none")
    assert "name one with --image-column: label (int64)" in refusal(rows.remove_columns("image"), "none")
    assert "row 1: not a readable image (empty)" in refusal(images(content, None), "null")
    assert "row 1: not a readable image (none of PNG" in refusal(images(content, b"text"), "text")
    assert "row 0: not a readable image (" in refusal(images(content[:60]), "cut")
    splits = datasets.DatasetDict({"validation": rows, "test": rows})
    (tmp_path / "photos [2]").mkdir()
    rows.to_parquet(str(tmp_path / "photos [2]" / "rows.parquet"))
    with pytest.raises(UsageError, match="for patterns: rename the directory"):
        load_dataset("hf", replace(REQUEST, data_root=tmp_path / "photos [2]"))
    (tmp_path / "mixed").mkdir()
    rows.to_parquet(str(tmp_path / "mixed" / "a.parquet"))
    rows.rename_column("image", "picture").to_parquet(str(tmp_path / "mixed" / "b.parquet"))
    with pytest.raises(UsageError, match=r"generating the dataset: .*Couldn't cast"):
        load_dataset("hf", replace(REQUEST, data_root=tmp_path / "mixed"))
    splits = datasets.DatasetDict({"validation": rows, "test": rows})
    assert "has the splits validation, test; training takes the one named train" in refusal(splits, "splits")
    (tmp_path / "empty").mkdir()
    rows.select([]).to_parquet(str(tmp_path / "empty" / "rows.parquet"))
    with pytest.raises(UsageError, match=r"data root .*empty: "):
        load_dataset("hf", replace(REQUEST, data_root=tmp_path / "empty"))


def test_a_folder_without_rows_and_a_hub_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.parquet").write_text("no rows")
    monkeypatch.chdir(tmp_path)
    refusals = {
        ("hf", "nowhere"): "--data-root nowhere: not a directory; --dataset hf reads Parquet or Arrow files below",
        ("hf", "notes"): "data root notes: not read (",
        ("hf:notes", "data"): "--dataset hf:notes: a directory here; for local files use --dataset hf --data-root",
        ("hf:ylecun/mnist", "data"): "--dataset hf:ylecun/mnist: not read (",
    }

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach\n'ylecun/mnist' on the Hub")

    for (name, root), message in refusals.items():
        if ":" in name:
            monkeypatch.setattr(datasets, "load_dataset", unreachable)
        with pytest.raises(UsageError) as refused:
            load_dataset(name, replace(REQUEST, data_root=Path(root)))
        assert str(refused.value).startswith(message)
        assert "\n" not in str(refused.value)
    assert "is there a network? Without one use --dataset hf --data-root FOLDER" in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"install it: pip install 'gan-bench\[hf\]', or"):
        load_dataset("hf", replace(REQUEST, data_root=tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--dataset hf:", "--dataset hf:: a name is missing, as in hf:ylecun/mnist"),
        ("--dataset zip:a", "--dataset zip:a: unknown; did you mean zip?"),
        ("--dataset hug:mnist", "--dataset hug:mnist: unknown"),
        ("--dataset zip --image-column image", "--image-column image: --dataset zip has no columns"),
        ("--label-column label", "--label-column label: --dataset digits has no columns"),
        ("--dataset zip --memory-budget 4Gb1", "--memory-budget 4Gb1: no size; give a number with KiB, MiB, GiB"),
        ("--dataset zip --memory-budget -1", "--memory-budget"),
        ("--dataset zip --memory-budget nan", "--memory-budget nan: no size"),
        ("--memory-budget 4GiB", "--memory-budget 4GiB: --dataset digits is always in memory"),
        (f"--steps {10**400}", f"--steps {10**400}: must be at most 1000000000000000"),
        (f"--epochs {10**16}", f"--epochs {10**16}: must be at most 1000000000000000"),
        ("--extractor mnst", "--extractor mnst: unknown; did you mean mnist?"),
    ],
)
def test_bad_options_are_refused_in_one_line(line: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_train_options(line.split())
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_an_unknown_extractor_is_refused_before_a_run_is_read() -> None:
    with pytest.raises(UsageError, match="--extractor inception: unknown"):
        parse_evaluate_options(["nowhere", "--extractor", "inception"])
