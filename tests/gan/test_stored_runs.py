"""Runs over folders, zips and Parquet files: streamed as in memory, resumed, and scored."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from gan.data.datasets import load_dataset
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.evaluate import evaluate
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.quality.judge import judge_of
from gan.run_options import EvaluateOptions
from tests.conftest import quick_or_slow, run_two_processes
from tests.gan.stored_images import (
    KINDS,
    REQUEST,
    image_files,
    in_memory,
    stored,
    write_pictures,
)
from tests.gan.stored_worker import train_with


def trained(output: Path, *arguments: object) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    """Train and return the last checkpoint, and the lines of the epochs without times."""
    AcceleratorState._reset_state(reset_partial_state=True)
    train_with(output, *map(str, arguments))
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


@pytest.fixture(scope="module")
def runs_of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes that have the images of a folder in memory, or stream them from a kind of storage."""
    root = tmp_path_factory.mktemp("two")
    pictures = write_pictures(root / "pictures")
    kinds = [kind for kind in KINDS if kind != "hf" or find_spec("datasets")]
    roots = [f"{kind}={stored(kind, pictures)}" for kind in kinds]
    done = run_two_processes("gan/stored_worker.py", root, pictures, *roots, cwd=root)
    assert done.stdout.count("; in memory") == 1
    assert done.stdout.count("; streamed") == 2 * len(kinds)
    return root


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_stream_what_they_would_have_in_memory(kind: str, runs_of_two_processes: Path) -> None:
    """Also if they stop in the middle of an epoch."""
    if kind == "hf":
        pytest.importorskip("datasets", reason="the extra hf is not installed")
    assert_same(last_of(runs_of_two_processes / kind), last_of(runs_of_two_processes / "in_memory"))


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


@pytest.mark.slow
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
