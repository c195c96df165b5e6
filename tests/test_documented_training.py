"""Documented commands of gan/: everything is built and checked as they ask, nothing is trained; the others run."""

import contextlib
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from PIL import Image

import gan.evaluate
import gan.sample
import gan.train
from gan.data.datasets import DATASETS, DatasetRequest, held, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.process.launcher import parse_accelerate_launch
from gan.session.run import prepare
from tests.conftest import ROOT
from tests.documents import Command, commands, programs_of

SHAPES = {"digits": (1, 28, 28), "mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
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
MAIN = {"gan/sample.py": gan.sample.main, "gan/evaluate.py": gan.evaluate.main}


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
    with contextlib.chdir(directory):
        for program in programs_of(ROOT / "docs" / "training.md"):
            if "import datasets" not in program or find_spec("datasets"):
                exec(program, {})
    return directory


@cache
def random_images(shape: tuple[int, ...]) -> InMemoryImages:
    return InMemoryImages(torch.randint(256, (1000, *shape), dtype=torch.uint8), labels=torch.arange(1000) % 10)


@pytest.fixture
def clone(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the directory, with few random images for each dataset that is downloaded, or takes time to read."""
    for name, shape in SHAPES.items():
        dataset = random_images(shape)
        monkeypatch.setitem(DATASETS, name, lambda _, dataset=dataset: dataset)
    monkeypatch.chdir(directory)
    for output, recipe in RUNS.items():
        if not Path(output).exists():
            kept = {"evaluate_every": 20, "keep_best": "fid"} if output == "runs/best" else {}
            train(TrainOptions(recipe=recipe, steps=1, batch_size=20, output=Path(output), num_threads=2, **kept))
            AcceleratorState._reset_state(reset_partial_state=True)
    return directory


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
        if "tensorboard" in arguments:
            pytest.importorskip("tensorboard")
        run, state = prepare(parse_train_options([*arguments, "--num-threads", "2"]))
        assert run.total_steps > 0
        assert state.recipe == run.recipe
    else:
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


def test_the_commands_that_the_readme_shows_are_there() -> None:
    """The extraction itself: a changed document must not leave nothing to test."""
    shown = {documented.words for documented in DOCUMENTED}
    assert ("accelerate", "launch", "gan/train.py") in shown
    assert ("python", "gan/sample.py", "runs/quickstart", "timeline") in shown
    assert len(shown) >= 35
