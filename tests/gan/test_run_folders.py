"""Directories of runs: their numbers, what lies in them already, and directories that go away."""

import itertools
import os
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gan.loop
import gan.session.begin
import gan.session.run
import gan.training.checkpoints
from gan.display.figures import save_animation, save_curves, save_image
from gan.errors import UsageError
from gan.files.json_files import append_json_line, read_json_lines, write_json, write_json_lines
from gan.files.run_folder import RunFolder, default_output, newest_default_output
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.session.run import Run
from gan.training.checkpoints import load_generator, newest_first, save_checkpoint
from tests.gan.small_run import FLAGS, SMALL, contents, train_main, write_images

# Directories and their numbers


def test_outputs_are_numbered_on_after_a_gap(tmp_path: Path, monkeypatch, run_training) -> None:
    monkeypatch.chdir(tmp_path)
    for expected in ("mlp-compact", "mlp-compact-2"):
        assert train(TrainOptions(**SMALL, steps=1)).root.name == expected  # type: ignore[arg-type]
    shutil.rmtree("runs/mlp-compact")
    assert train(TrainOptions(**SMALL, steps=1)).root.name == "mlp-compact-3"  # type: ignore[arg-type]
    assert newest_default_output("mlp-compact") == Path("runs/mlp-compact-3")
    assert parse_train_options(["--recipe", "mlp-compact", "--resume"]).output == Path("runs/mlp-compact-3")
    for name in ("mlp-compact-x", "mlp-compact-02", "mlp-compact-0", "mlp", "mlp-9"):
        (tmp_path / "runs" / name).mkdir()
        RunFolder(tmp_path / "runs" / name).config.write_text("{}")
    assert newest_default_output("mlp-compact") == Path("runs/mlp-compact-3")
    assert default_output("mlp-compact") == Path("runs/mlp-compact-4")
    RunFolder(Path("runs/mlp-compact-3")).config.unlink()
    with pytest.raises(UsageError, match=r"no run in --output runs/mlp-compact-3, which has no config\.json"):
        parse_train_options(["--recipe", "mlp-compact", "--resume"])


@pytest.mark.parametrize("kept", ["metrics.jsonl", "checkpoints", "samples", "generators", "summary.json"])
def test_what_is_left_of_a_run_is_not_mixed_with_a_new_one(kept: str, run: Path, script) -> None:
    for path in run.iterdir():
        if path.name != kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(run)
    code, _, errors = script(train_main, *FLAGS, "--steps", 1, "--output", run)
    assert code == 2
    assert errors.startswith(f"error: --output {run}: holds {kept} of a run whose config.json is gone")
    assert contents(run) == before


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, script) -> None:
    (tmp_path / "run").write_text("mine")
    code, _, errors = script(train_main, *FLAGS, "--steps", 1, "--output", tmp_path / "run")
    assert (code, errors) == (2, f"error: --output {tmp_path / 'run'}: not a directory; choose another\n")
    assert (tmp_path / "run").read_text() == "mine"


def test_what_a_user_keeps_beside_a_run_stays(run: Path, run_training) -> None:
    kept = [
        *("pictures/.mine.tmp", "checkpoints/images_best.safetensors", ".evaluation.json.123.tmp", ".notes.tmp"),
        "samples/epoch_first.png",
    ]
    for name in kept:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    unfinished = run / "checkpoints" / ".images_000000009999.safetensors.77.tmp"
    unfinished.write_text("half")
    run_training(**SMALL, epochs=5, keep_checkpoints=1, checkpoint_every=1, resume=True)
    assert [(run / name).read_text() for name in kept] == ["mine"] * len(kept)
    assert not unfinished.exists()


# What goes away while a run goes on


def remove(run: Path) -> None:
    shutil.rmtree(run)


def move(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def put_another_in_its_place(run: Path) -> None:
    move(run)
    shutil.copytree(run.with_name("elsewhere"), run)


def remove_record(run: Path) -> None:
    RunFolder(run).metrics.unlink()


def remove_config(run: Path) -> None:
    RunFolder(run).config.unlink()


BEFORE_STEPS = "gan.loop.epoch_inputs"
WRITES = ("gan.session.epochs.draw_samples", "gan.session.saving.save_checkpoint")
LATER = (*WRITES, "gan.loop.finish")
CHANGES = (remove, move, put_another_in_its_place, remove_record, remove_config)


@pytest.mark.parametrize(
    ("before", "change"),
    [
        *itertools.product([BEFORE_STEPS], CHANGES),
        *itertools.product(LATER, [remove]),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in itertools.product(LATER, CHANGES[1:])),
    ],
)
def test_a_run_that_loses_its_folder_says_so(
    change: Callable, before: str, tmp_path: Path, script, monkeypatch
) -> None:
    if change not in (remove, move) and before in WRITES:
        pytest.skip("noticed at the next look")
    run = tmp_path / "run"
    function = pkgutil.resolve_name(before)
    calls = 0
    after: dict[Path, bytes | None] = {}

    def later(*arguments: Any, **settings: object) -> object:
        nonlocal calls
        calls += 1
        if before == BEFORE_STEPS:
            arguments[0].writer.wait()  # it would write into what is being removed
        if calls == (1 if before == "gan.loop.finish" else 2):
            change(run)
            after.update(contents(run))
        return function(*arguments, **settings)

    monkeypatch.setattr(before, later)
    settings = (*FLAGS, "--epochs", 4, "--checkpoint-every", 1, "--output", run)
    code, output, errors = script(train_main, *settings)
    assert code == 1
    assert errors.startswith(f"error: {run}")
    assert errors.count("\n") == 1
    assert "done" not in output
    if change in (remove, move):
        assert not run.exists()
    if change is put_another_in_its_place:
        assert contents(run) == after


def test_samples_and_checkpoints_that_were_cleared_away_are_made_again(
    tmp_path: Path, script, monkeypatch
) -> None:
    run = tmp_path / "run"
    function = gan.loop.epoch_inputs

    def later(run_of_loop: Run, *arguments: object) -> object:
        run_of_loop.writer.wait()  # what is being written meanwhile fails, and ends the run
        for name in ("samples", "checkpoints", "generators"):
            shutil.rmtree(run / name, ignore_errors=True)
        return function(run_of_loop, *arguments)

    monkeypatch.setattr(gan.loop, "epoch_inputs", later)
    code, _, errors = script(train_main, *FLAGS, "--epochs", 3, "--checkpoint-every", 1, "--output", run)
    assert (code, errors) == (0, "")
    assert [path.name for path in RunFolder(run).samples()] == ["epoch_0003.png"]
    assert newest_first(run / "checkpoints")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_a_resumed_run_keeps_no_file_mapped(run: Path, monkeypatch, run_training) -> None:
    """Truncating a mapped file would kill the run with SIGBUS."""
    step = gan.loop.run_step
    maps = []

    def looking_step(*arguments: object) -> torch.Tensor:
        maps.append(Path("/proc/self/maps").read_text())
        for path in newest_first(run / "checkpoints"):
            os.truncate(path, 0)
        return step(*arguments)

    monkeypatch.setattr(gan.loop, "run_step", looking_step)
    run_training(**SMALL, epochs=3, resume=True)
    assert len(maps) == 3
    assert not [line for line in "".join(maps).splitlines() if str(run) in line]
    generator = load_generator(RunFolder(run).generator, RunFolder(run).generator_config)
    assert str(run) not in Path("/proc/self/maps").read_text()
    assert generator.latent_dim == 100


# The data of a run


@pytest.mark.parametrize("recipe", ["cgan", "mlp-compact"])
def test_classes_and_files_of_a_folder_identify_a_run(recipe: str, tmp_path: Path, run_training) -> None:
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        write_images(data / name, 5)
    output = tmp_path / "x"
    settings = TrainOptions(
        recipe=recipe,
        dataset="folder",
        data_root=data,
        batch_size=5,
        steps=1,
        num_workers=0,
        num_threads=1,
        output=output,
    )
    resumed = replace(settings, resume=True, steps=2)
    train(settings)

    def complaint() -> str:
        before = contents(output)
        with pytest.raises(UsageError) as refused:
            train(resumed)
        assert contents(output) == before
        return str(refused.value)

    write_images(data / "emu", 1)
    assert "other classes than are in" in complaint()
    assert "(new: 'emu')" in complaint()
    shutil.rmtree(data / "emu")
    (data / "dog").rename(data / "wolf")
    assert "(new: 'wolf'; missing: 'dog')" in complaint()
    (data / "wolf").rename(data / "dog")
    (data / "dog" / "0.png").rename(data / "dog" / "7.png")
    assert f"image files below --data-root {data} have other names" in complaint()
    (data / "dog" / "7.png").rename(data / "dog" / "0.png")
    train(resumed)


def test_no_file_of_a_run_makes_its_directory_again(run: Path) -> None:
    """Also where the directory goes away between the look and the writing."""
    gone = RunFolder(run.with_name("gone"))
    for write in (
        lambda: save_checkpoint(gone.checkpoints, {}, {}, recipe="mlp", images_seen=1),
        lambda: write_json(gone.summary, {}, parents=False),
        lambda: write_json_lines(gone.metrics, []),
        lambda: append_json_line(gone.metrics, {}),
        lambda: save_curves(gone.curves, read_json_lines(RunFolder(run).metrics)),
        lambda: save_animation(gone.animation, RunFolder(run).samples(), parents=False),
        lambda: save_image(gone.sample(1), Image.new("L", (1, 1)), parents=False),
    ):
        with pytest.raises(FileNotFoundError):
            write()
        assert not gone.root.exists()
