"""Documented commands of gan/: everything is built and checked as they ask, nothing is trained; the others run."""

import contextlib
import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from PIL import Image

import gan.data.prepare
import gan.evaluate
import gan.sample
import gan.train
from gan.data.datasets import DATASETS, DatasetRequest, held, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.data.prepare import PrepareOptions, parse_prepare_options
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.process.launcher import parse_accelerate_launch
from gan.run_options import EvaluateOptions, parse_evaluate_options
from gan.session.run import prepare
from tests.conftest import ROOT
from tests.documents import Command, commands, programs_of
from tests.gan.inception_weights import SmallBackbone

SHAPES = {
    "digits": (1, 28, 28),
    "mnist": (1, 28, 28),
    "fashion_mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
}
RUNS = {
    "runs/quickstart": "quickstart",
    "runs/first": "mlp",
    "runs/best": "quickstart",
    "runs/cgan": "cgan",
    "runs/mlp-batchnorm": "mlp-batchnorm",
    "runs/mlp-fp32": "mlp",
    "runs/mlp-bf16": "mlp",
    "runs/mlp-compact": "mlp-compact",
    "runs/my_recipe": "docs/examples/my_recipe.py",
}
DOCS = ROOT / "docs"
MAIN = {
    "gan/sample.py": gan.sample.main,
    "gan/evaluate.py": gan.evaluate.main,
    "gan/data/prepare.py": gan.data.prepare.main,
}
PREPARE = commands("python", "-m", "gan.data.prepare")
OF_LIBRARIES = ("datasets", "lmdb")
"""Libraries of documented programs that may not be installed."""


DOCUMENTED = [
    command
    for command in [
        *(*commands("accelerate", "launch"), *commands("python")),
        *(*commands("gan-train"), *commands("gan-sample"), *commands("gan-evaluate")),
    ]
    if any(word.startswith(("gan/", "gan.", "gan-")) for word in command.words)
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like the repository after a few runs, and with photos."""
    directory = tmp_path_factory.mktemp("clone")
    for name in ("gan", "accelerate_configs", "docs"):
        (directory / name).symlink_to(ROOT / name)
    (directory / "photos").mkdir()
    for index in range(32):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(directory / "photos" / f"{index}.png")
    write_stand_ins(directory)
    with contextlib.chdir(directory):
        for program in [
            program for name in ("training.md", "datasets.md") for program in programs_of(DOCS / name)
        ]:
            if all(find_spec(library) for library in OF_LIBRARIES if f"import {library}\n" in program):
                exec(program, {})
        for documented in PREPARE:
            options = replace(parse_prepare_options(documented.words[3:]), num_workers=0)
            if options.data_root.exists():  # not if the library that makes it is missing
                gan.data.prepare.prepare(options, print)
    return directory


def picture(index: int, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (index, 2 * index % 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_stand_ins(directory: Path) -> None:
    """Write what the authors of datasets distribute, with few and small images."""
    folders = {"generated": 100, "img_align_celeba": 130, "images1024x1024/00000": 9}
    folders["thumbnails128x128/00000"] = 16
    for folder, count in folders.items():
        (directory / folder).mkdir(parents=True)
        for index in range(count):
            (directory / folder / f"{index:06}.png").write_bytes(picture(index, (9, 11)))
    shutil.copytree(directory / "images1024x1024" / "00000", directory / "images1024x1024" / "01000")
    shutil.make_archive(str(directory / "img_align_celeba"), "zip", directory, "img_align_celeba")
    with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as classes:
        for name in ("n01440764", "n01443537"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for index in range(8):
                    add_to_tar(images, f"{name}_{index}.JPEG", picture(index))
            add_to_tar(classes, f"{name}.tar", inner.getvalue())
    if find_spec("lmdb"):
        import lmdb

        with lmdb.open(str(directory / "church_outdoor_train_lmdb")) as images, images.begin(write=True) as rows:
            for index in range(20):
                rows.put(f"{index:040x}".encode(), picture(index))


def add_to_tar(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@cache
def random_images(shape: tuple[int, ...]) -> InMemoryImages:
    return InMemoryImages(torch.randint(256, (1000, *shape), dtype=torch.uint8), labels=torch.arange(1000) % 10)


@pytest.fixture
def clone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the directory, with few random images for each dataset that is downloaded, or takes time to read."""
    for name, shape in SHAPES.items():
        dataset = random_images(shape)
        monkeypatch.setitem(DATASETS, name, lambda _, dataset=dataset: dataset)
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
    monkeypatch.setattr("gan.evaluate.inception_of", SmallBackbone)
    monkeypatch.setattr("gan.evaluate.parse_evaluate_options", few_images)
    monkeypatch.setattr("gan.data.prepare.parse_prepare_options", without_workers)
    monkeypatch.chdir(directory)
    for output, recipe in RUNS.items():
        if not Path(output).exists():
            kept = {"evaluate_every": 20, "keep_best": "fid"} if output == "runs/best" else {}
            train(TrainOptions(recipe=recipe, steps=1, batch_size=20, output=Path(output), num_threads=2, **kept))
            AcceleratorState._reset_state(reset_partial_state=True)
    return directory


def few_images() -> EvaluateOptions:
    """Parse an evaluation's command line as it stands, and generate few images: 50,000 take minutes."""
    options = parse_evaluate_options()
    return (
        replace(options, num_images=min(options.num_images, 1000)) if options.backbone == "inception" else options
    )


def without_workers() -> PrepareOptions:
    """Parse the command line as it stands, and start no processes for a few images."""
    return replace(parse_prepare_options(), num_workers=0)


@pytest.mark.parametrize("documented", DOCUMENTED, ids=str)
@pytest.mark.slow
def test_documented_commands_of_the_core(
    documented: Command, clone: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[..., tuple[int, str, str]]
) -> None:
    name, arguments = documented.words[1], list(documented.words[2:])
    if documented.words[:2] == ("python", "-m"):
        name, arguments = f"{documented.words[2].replace('.', '/')}.py", list(documented.words[3:])
    if documented.words[0].startswith("gan-"):
        name, arguments = f"{documented.words[0].replace('-', '/')}.py", list(documented.words[1:])
    if documented.words[0] == "accelerate":
        launched = parse_accelerate_launch(documented.words[2:], {})
        assert launched.without_effect == ()
        options = launch_command_parser().parse_args(documented.words[2:])
        name, arguments = options.training_script, options.training_script_args
        if options.module:
            name = f"{name.replace('.', '/')}.py"
        assert options.config_file is None or Path(options.config_file).is_file()
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", options.mixed_precision or "no")
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", (options.dynamo_backend or "no").upper())
    assert Path(name).is_file()
    if name == "gan/train.py":
        if "--help" in arguments:
            with pytest.raises(SystemExit) as stop:
                parse_train_options(arguments)
            assert not stop.value.code
            return
        if "--output" in arguments and "--resume" not in arguments:
            shutil.rmtree(arguments[arguments.index("--output") + 1], ignore_errors=True)
        if "--dry-run" in arguments:
            code, said, errors = script(gan.train.main, *arguments)
            assert (code, errors) == (0, "")
            assert said.startswith(f"recipe {parse_train_options(arguments).label}: ")
            return
        if "hf" in arguments:
            pytest.importorskip("datasets", reason="the extra hf is not installed")
        if "churches256.zip" in arguments:
            pytest.importorskip("lmdb")
        if "tensorboard" in arguments:
            pytest.importorskip("tensorboard")
        run, state = prepare(parse_train_options([*arguments, "--num-threads", "2"]))
        assert run.total_steps > 0
        assert state.recipe == run.recipe
    else:
        if "churches.zip" in arguments:
            pytest.importorskip("lmdb")
        if name == "gan/data/prepare.py":
            Path(arguments[0]).unlink(missing_ok=True)
        code, said, errors = script(MAIN[name], *(word.replace("RUN", "runs/cgan") for word in arguments))
        assert code == 0
        assert all(line.startswith("note: the best generator: ") for line in errors.splitlines())
        assert all(Path(line).is_file() for line in said.splitlines() if line.startswith("runs/"))


def test_documented_programs_make_the_zip_and_the_rows(directory: Path) -> None:
    """The same pictures as those of the folder, and their directory as the only class."""
    roots = {"folder": "photos", "zip": "photos.zip", "hf": "photos-parquet"}
    images = {}
    for name, root in roots.items():
        if name == "hf":
            pytest.importorskip("datasets", reason="the extra hf is not installed")
        request = DatasetRequest(directory / root, (3, 8, 8), 0, torch.device("cpu"))
        dataset = held(load_dataset(name, request), print)
        assert isinstance(dataset, InMemoryImages)
        assert dataset.labels is None if name == "folder" else dataset.labels.tolist() == [0] * 32
        images[name] = dataset.train
    assert torch.equal(images["zip"], images["folder"])
    assert torch.equal(images["hf"], images["folder"])


def test_documented_programs_and_commands_prepare_datasets(directory: Path) -> None:
    """The images, classes and sizes of each."""
    expected = {
        "photos64.zip": (32, (3, 64, 64), 0),
        "ffhq256.zip": (18, (3, 256, 256), 0),
        "ffhq64.zip": (16, (3, 64, 64), 0),
        "imagenet128.zip": (16, (3, 128, 128), 2),
        **({"churches256.zip": (20, (3, 256, 256), 0)} if find_spec("lmdb") else {}),
    }
    for name, (num_images, shape, num_classes) in expected.items():
        request = DatasetRequest(directory / name, shape, 0, torch.device("cpu"))
        dataset = held(load_dataset("zip", request), print)
        assert isinstance(dataset, InMemoryImages)
        assert dataset.train.shape == (num_images, *shape)
        assert (0 if dataset.labels is None else int(dataset.labels.max()) + 1) == num_classes
        if name == "churches256.zip":
            assert dataset.train[:, 0].flatten(1).float().mean(1).tolist() == [*range(20)], "the order is kept"


def test_the_commands_that_the_readme_shows_are_there() -> None:
    """The extraction itself: a changed document must not leave nothing to test."""
    shown = {documented.words for documented in DOCUMENTED}
    assert ("accelerate", "launch", "gan/train.py") in shown
    assert ("python", "gan/sample.py", "runs/quickstart", "timeline") in shown
    assert len(shown) >= 35
