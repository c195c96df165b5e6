"""--dry-run: what it prints is what training would do, and it does nothing."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from shutil import make_archive
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from gan.data.datasets import DATASETS, DatasetRequest, held, load_dataset, torchvision_folder
from gan.data.preview import PUBLISHED, preview
from gan.errors import UsageError
from gan.loop import train
from gan.methods.optimizers import RMSprop
from gan.methods.schedules import Linear
from gan.models.networks import num_parameters
from gan.models.stylegan2 import StyleGAN2
from gan.options import TrainOptions, parse_train_options
from gan.recipes import RECIPES
from gan.train import main
from gan.training.footprint import footprint
from tests.conftest import ROOT
from tests.gan.reference import IMAGE_SHAPE, dataset_of, inputs, small_state
from tests.gan.small_run import FLAGS, contents, write_images

CPU = torch.device("cpu")
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    for files in {published.files for published in PUBLISHED.values()}:
        monkeypatch.setattr(files, "__init__", lambda *_, **__: pytest.fail("a dataset is loaded"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_row_is_shown_and_nothing_is_written(name: str, script: Script, no_download: None) -> None:
    augment = "color,ada" if RECIPES[name].adaptive else "color"
    images = ("--dataset", "synthetic", "--image-shape", *IMAGE_SHAPE) if dataset_of(name) else ()
    flags = ("--batch-size", 40, "--augment", augment, *images)
    code, output, errors = script(main, "--recipe", name, "--dry-run", *flags)
    assert (code, errors) == (0, "")
    row = TrainOptions(recipe=name, batch_size=40, augment=augment, **dataset_of(name)).row
    first_line, *lines = output.split("\n\n")[0].splitlines()
    assert first_line == f"recipe {name}: {row.summary}"
    shown = dict(line.split(maxsplit=1) for line in lines)
    values = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "summary"}
    assert shown == {name: value if isinstance(value, str) else repr(value) for name, value in values.items()}
    assert (shown["batch_size"], shown["augmentation"]) == ("40", repr(tuple(augment.split(","))))
    assert list(Path.cwd().iterdir()) == []


def test_overrides_of_steps_and_dataset_are_followed(script: Script) -> None:
    settings = ("--recipe", "sngan", "--dataset", "synthetic", "--image-shape", 3, 32, 32, "--steps", 77)
    code, output, _ = script(main, *settings, "--batch-size", 10, "--dry-run", "--keep-generators", "yes")
    assert code == 0
    assert "dataset       synthetic: 10,000 images of 3×32×32" in output
    assert "steps         77 = 0.385 epochs of 200" in output
    assert "a step        50 real images = 10 × 5 updates of D" in output
    assert "generators/epoch_0001.safetensors" in output


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_images_of_any_size_have_their_parameters_and_memory(size: int, script: Script) -> None:
    """No images of that size are needed: `--dataset synthetic --image-shape`."""
    networks = StyleGAN2(4, max_channels=16, style_width=8, mapping_layers=2)
    settings = [
        f"{player}{value}"
        for player in ("generator", "discriminator")
        for value in ("=StyleGAN2", ".channels=4", ".max_channels=16", ".style_width=8", ".mapping_layers=2")
    ]
    flags = [word for setting in settings for word in ("--set", setting)]
    shape = ("--dataset", "synthetic", "--image-shape", 3, size, size)
    code, output, errors = script(main, "--recipe", "mlp-compact", *flags, *shape, "--dry-run")
    assert (code, errors) == (0, "")
    with torch.device("meta"):
        players = networks.generator(100, (3, size, size)), networks.discriminator((3, size, size))
    of_generator, of_discriminator = map(num_parameters, players)
    num_tensors = sum(len([*player.parameters()]) for player in players)
    optimizer_bytes = 4 * (2 * (of_generator + of_discriminator) + num_tensors)  # Adam's two, and a count
    assert f"images of 3×{size}×{size}" in output
    assert f"parameters    G {of_generator:,}, D {of_discriminator:,}\n" in output
    row = next(line for line in output.splitlines() if line.startswith("  optimizers"))
    assert row.split()[1:] == [f"{optimizer_bytes / 2**20:,.2f}", "MiB"]


def test_two_optimizers_are_shown_and_counted(
    script: Script, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam keeps two numbers and RMSprop one for each parameter, and both a count for each tensor."""
    row = replace(RECIPES["mlp"], discriminator_optimizer=RMSprop(Linear(4e-4, 1e-4, 1000)))
    monkeypatch.setitem(RECIPES, "mlp", row)
    _, output, _ = script(main, "--recipe", "mlp", "--dry-run")
    shown = dict(line.split(maxsplit=1) for line in output.split("\n\n")[0].splitlines()[1:])
    assert shown["optimizer"] == repr(row.optimizer)
    assert shown["discriminator_optimizer"] == (
        "RMSprop(learning_rate=Linear(begin=0.0004, end=0.0001, images=1000), alpha=0.99, eps=1e-08)"
    )
    state = small_state("mlp", accelerator, seed=0, steps_per_epoch=1)
    counted = footprint(row, IMAGE_SHAPE, 0)
    num_tensors = sum(len([*player.network.parameters()]) for player in state.players.values())
    numbers = 2 * counted.generator_parameters + counted.discriminator_parameters
    assert counted.optimizer_bytes == 4 * (numbers + num_tensors)


@pytest.mark.parametrize("name", RECIPES)
def test_bytes_are_those_of_the_tensors_of_a_training(name: str, accelerator: Accelerator) -> None:
    state = small_state(name, accelerator, seed=0, steps_per_epoch=1)
    inputs(name, 4).to(torch.float32).train(state, 1 / 4)
    counted = footprint(RECIPES[name], IMAGE_SHAPE, state.num_classes)
    players = state.players.values()
    weights = [tensor for player in players for tensor in player.network.state_dict().values()]
    gradients = [parameter.grad for player in players for parameter in player.network.parameters()]
    states = [values for player in players for values in player.optimizer.state.values()]
    kept = [tensor for values in states for tensor in values.values()]
    average = [] if state.average is None else [*state.average.state_dict().values()]
    assert counted.generator_parameters == num_parameters(state.generator.network)
    assert counted.discriminator_parameters == num_parameters(state.discriminator.network)
    assert counted.weight_bytes == sum(tensor.nbytes for tensor in weights)
    assert counted.gradient_bytes == sum(tensor.nbytes for tensor in gradients)
    assert counted.optimizer_bytes == sum(tensor.nbytes for tensor in kept)
    assert counted.average_bytes == sum(tensor.nbytes for tensor in average)
    saved = [tensor for key, tensor in state.tensors().items() if key != "history"]
    assert counted.checkpoint_bytes == sum(tensor.nbytes for tensor in saved)


def test_the_sum_of_bytes_is_printed(script: Script) -> None:
    """mlp: weights, gradients and two averages of them, MNIST with its labels, and METRICS of 938 steps."""
    _, output, _ = script(main, "--recipe", "mlp", "--dry-run")
    counted = footprint(RECIPES["mlp"], IMAGE_SHAPE, 0)
    assert counted.weight_bytes == counted.gradient_bytes == 4 * (1_486_352 + 1_460_225)
    mnist_bytes = 70_000 * (28 * 28 + 8)
    total = counted.weight_bytes + counted.gradient_bytes + counted.optimizer_bytes + mnist_bytes + 938 * 16
    assert re.search(rf"^  sum +{total / 2**20:.2f} MiB$", output, re.MULTILINE)


@pytest.mark.parametrize("name", DATASETS)
def test_a_preview_is_what_loading_gives(name: str, tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3)
    write_images(tmp_path / "b", 3)
    if name == "hf":
        pytest.importorskip("datasets", reason="the extra hf is not installed")
    if name == "zip":
        make_archive(str(tmp_path / "images"), "zip", tmp_path)
    roots = {"folder": tmp_path, "hf": tmp_path, "zip": tmp_path / "images.zip"}
    data_root = roots.get(name, ROOT / "data")
    request = DatasetRequest(data_root, (1, 28, 28), 0, CPU, images_per_step=64)
    known = preview(name, request)
    if name in PUBLISHED and "not in" in known.origin:
        pytest.skip(f"{name} is not in data/")
    loaded = held(load_dataset(name, request), print)
    assert loaded.labels is not None
    assert len(known.images) == len(loaded)
    assert known.images.image_shape == loaded.image_shape
    assert known.num_classes == int(loaded.labels.max()) + 1
    assert known.images.files_sha256 == loaded.files_sha256
    tensors = (getattr(loaded, part, None) for part in ("train", "test", "labels", "test_labels"))
    assert known.num_bytes == sum(tensor.nbytes for tensor in tensors if tensor is not None)


def test_a_missing_dataset_is_not_downloaded(script: Script, no_download: None) -> None:
    code, output, _ = script(main, "--recipe", "mlp", "--dry-run", "--data-root", "nowhere")
    assert code == 0
    assert "not in nowhere/MNIST/raw yet, or not all of it, so training downloads it" in output
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_dataset_of_which_files_are_missing_is_not_said_to_be_there(name: str) -> None:
    request = DatasetRequest(Path("partly"), (1, 28, 28), 0, CPU)
    folder = torchvision_folder(PUBLISHED[name].files, request.data_root)
    folder.mkdir(parents=True)
    assert "so training downloads it" in preview(name, request).origin
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\0")
    (folder / "data_batch_1").write_bytes(b"damaged")
    assert "so training downloads it" in preview(name, request).origin


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_that_training_would_unpack_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: Any = PUBLISHED[name].files
    archive = tmp_path / files.filename
    archive.write_bytes(b"all of it")
    request = DatasetRequest(tmp_path, (1, 28, 28), 0, CPU)
    assert "so training downloads it" in preview(name, request).origin
    monkeypatch.setattr(files, "tgz_md5", hashlib.md5(b"all of it", usedforsecurity=False).hexdigest())
    assert preview(name, request).origin == f"in {archive}"


@pytest.mark.parametrize(
    "arguments",
    [
        "--batch-size 1798",
        "--batch-size 1",
        "--tracker tensorbored",
        "--dataset folder --data-root nowhere",
        "--dataset zip --data-root file",
        "--dataset zip --data-root images",
        "--dataset hf --data-root nowhere",
        "--dataset folder --data-root images --evaluate-every 9 --batch-size 8",
        "--dataset folder --data-root images --evaluate-every 9 --batch-size 8 --extractor mnist",
        "--dataset folder --data-root images --evaluate-every 9 --extractor mnist --image-shape 1 8 8",
        "--recipe cgan --dataset folder --data-root images --batch-size 8",
        "--dataset synthetic --image-shape 3 99999 99999",
        "--recipe r3gan --dataset synthetic --image-shape 1 3 28",
        "--dataset synthetic --evaluate-every 1000",
        "--output remains",
        "--output file",
        "--output file/below",
        "--output begun",
        "--output begun --resume --seed 1",
        "--output begun --resume --recipe mlp",
    ],
)
def test_bad_input_is_refused_as_in_training(arguments: str, script: Script, run_training, capsys) -> None:
    write_images(Path("images"), 10)
    Path("remains").mkdir()
    Path("remains/metrics.jsonl").touch()
    Path("file").touch()
    if "begun" in arguments:
        run_training(recipe="mlp-compact", dataset="digits", steps=1, output=Path("begun"))
        AcceleratorState._reset_state(reset_partial_state=True)
        capsys.readouterr()
    before = contents(Path.cwd())
    code, output, errors = script(main, *arguments.split(), "--dry-run")
    assert (code, output) == (2, "")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(UsageError) as refused:
        train(parse_train_options(arguments.split()))
    assert errors == f"error: {refused.value}\n"
    assert contents(Path.cwd()) == before


def test_values_that_no_layer_takes_are_one_line_for_large_images_as_well(script: Script, tmp_path: Path) -> None:
    """Of which it is asked first whether their networks fit into memory."""
    (tmp_path / "pictures").mkdir()
    for kind in ("one", "other"):
        write_images(tmp_path / "pictures" / kind, 4)
    flags = "--recipe acgan --dataset folder --image-shape 3 256 256 --batch-size 2 --set discriminator.dropout=2"
    code, _, said = script(main, *flags.split(), "--data-root", tmp_path / "pictures", "--dry-run")
    assert code == 2
    assert "--set discriminator.dropout=2: the discriminator: ValueError: dropout probability" in said
    assert said.count("\n") == 1


def test_a_data_root_that_is_a_file_is_refused(script: Script, no_download: None) -> None:
    Path("file").touch()
    code, output, errors = script(main, "--recipe", "mlp", "--data-root", "file", "--dry-run")
    assert (code, output) == (2, "")
    assert errors.startswith("error: --dataset mnist: not found under --data-root file, where ")


def test_a_folder_that_cannot_be_written_to_is_named(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed").mkdir()
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != Path("closed").absolute())
    code, output, errors = script(main, "--dataset", "digits", "--output", "closed/run", "--dry-run")
    assert (code, output) == (1, "")
    assert errors.startswith("error: closed/run: Permission denied")
    assert list(Path("closed").iterdir()) == []


def test_the_files_of_a_run_are_those_that_were_announced(script: Script, run_training, tmp_path: Path) -> None:
    words = (*FLAGS, "--epochs", 1, "--output", tmp_path / "run")
    _, output, _ = script(main, *words, "--dry-run")
    announced = {line.split()[0] for line in output.split("\n\n")[-1].splitlines()[1:]}
    run = run_training(recipe="mlp-compact", dataset="digits", epochs=1, batch_size=600)
    written = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    assert {str(path.parent if path.parent.name == "checkpoints" else path) for path in written} == announced
    (checkpoint,) = (run / "checkpoints").iterdir()
    (size,) = re.findall(r"the newest 2, (\S+) MiB each", output)
    assert float(size) == pytest.approx(checkpoint.stat().st_size / 2**20, rel=0.01)


def test_a_run_that_would_be_resumed_says_where_from(script: Script, run_training) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", steps=2)
    before = contents(run)
    code, output, errors = script(main, "--resume", "--output", run, "--steps", 5, "--dry-run")
    assert (code, errors) == (0, "")
    assert f"{run}: the run would go on from images_000000000200.safetensors and write" in output
    assert "steps         5 = " in output
    assert contents(run) == before
    assert "dry_run" not in json.loads((run / "config.json").read_text())["options"]
