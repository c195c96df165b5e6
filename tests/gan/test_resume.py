"""A run that was killed and resumed ends with the same bits as one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gan.data.order import Sampling, batches_per_epoch
from gan.errors import UsageError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.models.dcgan import DCGAN
from gan.models.style_generator import NoiseInput
from gan.options import TrainOptions, parse_train_options
from gan.recipe_files import label_of, recipe_named
from gan.recipes import RECIPES
from gan.session.begin import _say_what_differs_in_strategy
from gan.training.checkpoints import load_checkpoint, newest_first
from tests.conftest import quick_or_slow
from tests.gan.reference import LAZY, OF_CLASSES, OPTIONAL, OWN_RECIPE, SHARED, STYLE
from tests.gan.resume_worker import GLOBAL_BATCH, NUM_IMAGES, STEPS, train_both
from tests.gan.small_run import TRAIN

TIMINGS = ("seconds", "images_per_second")


def assert_same_run(whole: Path, killed: Path) -> None:
    """Compare weights, optimizer states and buffers bit by bit, and the records but for their timings."""
    ours, theirs = (load_checkpoint(newest_first(RunFolder(run).checkpoints)[0]) for run in (killed, whole))
    assert ours.tensors.keys() == theirs.tensors.keys()
    different = [name for name, tensor in theirs.tensors.items() if not torch.equal(ours.tensors[name], tensor)]
    assert not different
    assert ours.counters["progress"]["step"] == theirs.counters["progress"]["step"]
    records = [
        [{key: value for key, value in line.items() if key not in TIMINGS} for line in read_json_lines(path)]
        for path in (RunFolder(killed).metrics, RunFolder(whole).metrics)
    ]
    assert records[0] == records[1]
    for sample in RunFolder(whole).samples():
        assert (killed / "samples" / sample.name).read_bytes() == sample.read_bytes()


@pytest.mark.parametrize(
    "name",
    quick_or_slow(
        [*RECIPES, OWN_RECIPE, SHARED[0], STYLE, *OF_CLASSES, *LAZY, OPTIONAL],
        quick=("mlp-batchnorm", "wgan-gp", LAZY[0]),
        slow=("mlp-dropout", "cgan", "sngan", "r3gan", OWN_RECIPE, SHARED[0], *LAZY, OPTIONAL),
    ),
    ids=label_of,
)
def test_resume_is_exact_inside_an_epoch(name: str, tmp_path: Path) -> None:
    whole, killed = train_both(name, tmp_path, world_size=1)
    assert_same_run(whole, killed)
    progress = load_checkpoint(newest_first(RunFolder(killed).checkpoints)[0]).counters["progress"]
    steps_per_epoch = batches_per_epoch(NUM_IMAGES, GLOBAL_BATCH, recipe_named(name).sampling)
    assert progress["step"] == STEPS
    assert STEPS % steps_per_epoch, "the run must end inside an epoch"
    if recipe_named(name).sampling is Sampling.SHUFFLE:
        assert progress["images_seen"] == 2 * NUM_IMAGES + (STEPS - 2 * steps_per_epoch) * GLOBAL_BATCH


@pytest.mark.slow
def test_a_longer_resume_equals_a_longer_run(run_training, tmp_path: Path) -> None:
    """Stopped at 13 steps, inside an epoch, and taken on to 22: the partial epoch's line is written anew."""
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 200}
    whole = run_training("whole", steps=22, **settings)
    resumed = run_training("resumed", steps=13, **settings)
    assert len(read_json_lines(RunFolder(resumed).metrics)) == 2
    run_training("resumed", steps=22, resume=True, **settings)
    assert_same_run(whole, resumed)
    assert parse_train_options(["--resume", "--output", str(resumed)]).steps == 22


def test_resuming_a_finished_run_changes_nothing(run_training) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", steps=3)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    run_training(recipe="mlp-compact", dataset="digits", steps=3, resume=True)
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


def test_resuming_to_less_than_was_done_is_refused_and_changes_nothing(run_training) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 600}
    run = run_training(epochs=3, **settings)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="has taken 9 steps, more than the 6 asked for"):
        run_training(epochs=2, resume=True, **settings)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def start(output: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(TRAIN), "--output", str(output), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=output.parent,
    )


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not newest_first(run / "checkpoints"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint within four minutes"
        time.sleep(0.02)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=[pytest.mark.slow, pytest.mark.nightly])],
)
def test_signals_save_and_leave_with_one_line(number: int, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, "--recipe", "mlp-compact", "--dataset", "digits", "--checkpoint-every", 2000)
    wait_for_checkpoint(run, process)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == code
    assert errors.count("\n") == 1
    assert errors.startswith("interrupted after step ")
    saved = load_checkpoint(newest_first(run / "checkpoints")[0]).counters["progress"]["step"]
    assert f"after step {saved} and saved" in errors
    options = parse_train_options(["--resume", "--output", str(run), "--steps", str(saved + 1)])
    assert options.recipe == "mlp-compact"
    train(options)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("kills", [1, int(os.environ.get("GAN_TEST_KILLS", "3"))])
def test_kills_at_random_moments_lose_nothing_but_time(kills: int, tmp_path: Path) -> None:
    """SIGKILL, of several also before the first checkpoint, and in a save. GAN_TEST_KILLS sets how many."""
    settings = ("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 50, "--epochs", 12)
    settings = (*settings, "--checkpoint-every", 500, "--num-threads", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(parse_train_options([*map(str, settings), "--output", str(whole)]))
    chance = random.Random(0)
    for kill in range(kills):
        # whether a killed run got as far as its config.json decides between beginning and resuming
        resume = ("--resume",) if RunFolder(killed).config.exists() else ()
        process = start(killed, *settings, *resume)
        if kill or kills == 1:
            wait_for_checkpoint(killed, process)
            time.sleep(chance.uniform(0, 1))
        else:
            time.sleep(chance.uniform(0, 6))
        process.kill()
        process.communicate()
        for path in newest_first(killed / "checkpoints"):
            load_checkpoint(path)
    train(parse_train_options(["--resume", "--output", str(killed)]))
    assert_same_run(whole, killed)
    assert not list(killed.rglob("*.tmp")), "a kill's half-written files are swept up"


@pytest.mark.parametrize("damage", quick_or_slow(("truncated", "flipped", "emptied"), quick=("truncated",)))
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    damage: str, run_training, tmp_path: Path, capsys
) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 200, "checkpoint_every": 600}
    whole = run_training("whole", steps=12, **settings)
    hurt = run_training("hurt", steps=9, **settings)
    newest = newest_first(hurt / "checkpoints")[0]
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[{"truncated": -100, "emptied": 0}[damage] :]
    newest.write_bytes(content)
    run_training("hurt", steps=12, resume=True, **settings)
    said = capsys.readouterr().out
    assert f"warning: {newest}" in said
    assert "falling back" in said
    assert_same_run(whole, hurt)
    assert newest.with_suffix(".damaged").read_bytes() == content, "it must not count as one of the newest"


def test_only_damaged_checkpoints_are_an_error_and_stay(run_training, tmp_path: Path) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 200}
    run = run_training("run", steps=2, **settings)
    (path,) = newest_first(run / "checkpoints")
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"no checkpoint in .* can be read"):
        run_training("run", steps=3, resume=True, **settings)
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": "mlp"}, "recipe is mlp now, but the run"),
        ({"seed": 5}, "seed is 5 now"),
        (
            {"batch_size": 50},
            "global batch size is 50 now, .* 100; give --batch-size 100, which keeps it with 1 proc",
        ),
        ({"dataset": "synthetic"}, "dataset is synthetic now"),
    ],
)
def test_resuming_with_other_settings_is_refused(changed: dict, message: str, run_training) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "steps": 2}
    run = run_training(**settings)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=message):
        run_training(**{**settings, **changed, "resume": True})
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("recipe", "masks"), [("mlp-compact", ""), ("mlp-dropout", ", and dropout draws other masks")]
)
def test_another_number_of_processes_is_said(recipe: str, masks: str, run_training, capsys) -> None:
    settings = {"recipe": recipe, "dataset": "digits", "batch_size": 30}
    config = run_training(steps=1, **settings) / "config.json"
    config.write_text(config.read_text().replace('"processes": 1', '"processes": 2'))
    run_training(steps=2, resume=True, **settings)
    (note,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note: begun with"))
    assert note.startswith("note: begun with 2 processes, now 1: images, latents and their order stay the same; ")
    assert note.endswith(f"results will differ in rounding{masks}")


@pytest.mark.parametrize(
    ("before", "now", "notes"),
    [
        ({"processes": 1}, {"processes": 3, "shared_memory": True}, ["note: begun with 1 processes, now 3"]),
        ({"processes": 2}, {"processes": 2, "shared_memory": True}, []),
        ({"processes": 3}, {"processes": 3, "shared_memory": True}, ["note: begun with {'processes': 3}"]),
    ],
)
def test_sums_in_another_order_are_said_once(before: dict, now: dict, notes: list[str]) -> None:
    said: list[str] = []
    run = SimpleNamespace(display=SimpleNamespace(say=said.append))
    _say_what_differs_in_strategy(run, SimpleNamespace(players={}), before, now)
    assert len(said) == len(notes)
    assert all(line.startswith(note) for line, note in zip(said, notes, strict=True))


@pytest.mark.parametrize(
    ("layer", "drawn"),
    [
        (NoiseInput((4, 4)), "G draws other noise"),
        (nn.Dropout2d(), "dropout draws other masks"),
        (nn.AlphaDropout(), "dropout draws other masks"),
    ],
)
def test_what_is_drawn_by_rank_is_said(layer: nn.Module, drawn: str) -> None:
    said: list[str] = []
    run = SimpleNamespace(display=SimpleNamespace(say=said.append))
    state = SimpleNamespace(players={"generator": SimpleNamespace(network=layer)})
    _say_what_differs_in_strategy(run, state, {"processes": 1}, {"processes": 2})
    assert said[0].endswith(f"results will differ in rounding, and {drawn}")


def test_options_left_out_on_resume_are_the_runs_own(run_training) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", steps=2, batch_size=30, seed=4)
    options = parse_train_options(["--resume", "--output", str(run), "--epochs", "1"])
    assert (options.recipe, options.dataset, options.batch_size, options.seed) == ("mlp-compact", "digits", 30, 4)
    assert (options.epochs, options.steps) == (1, None)
    assert isinstance(options, TrainOptions)


@pytest.mark.parametrize("changed", [{"augment": "none"}, {"ema_half_life": 0}])
def test_a_setting_left_out_of_a_resumed_run_is_refused(changed: dict, run_training) -> None:
    settings = {"recipe": "mlp-compact", "dataset": "digits", "augment": "translation", "ema_half_life": 1000}
    run_training(**settings, steps=2)
    (name,) = changed
    with pytest.raises(
        UsageError, match=f"--resume: {'augmentation' if name == 'augment' else 'ema half life'} is"
    ):
        run_training(**{**settings, **changed}, steps=4, resume=True)


def test_a_run_begun_before_its_row_shared_fakes_goes_on_with_fresh_ones(
    run_training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, if the command line leaves the setting out; another one that it asks for is refused."""
    now = replace(RECIPES["dcgan"], generator=DCGAN(4), discriminator=DCGAN(4))
    assert now.shared_fakes
    settings = {"recipe": "dcgan", "dataset": "digits", "batch_size": 400, "num_threads": 1}
    monkeypatch.setitem(RECIPES, "dcgan", replace(now, shared_fakes=False))
    whole = run_training("whole", steps=4, **settings)
    begun = run_training("begun", steps=2, **settings)
    assert "shared_fakes" not in (begun / "config.json").read_text()
    monkeypatch.setitem(RECIPES, "dcgan", now)
    again = ["--recipe", "dcgan", "--output", str(begun), "--steps", "4", "--resume"]
    with pytest.raises(UsageError, match="--resume: shared fakes is True now, but the run"):
        train(parse_train_options([*again, "--set", "shared_fakes=yes"]))
    train(parse_train_options(again))
    assert_same_run(whole, begun)
    assert not parse_train_options(again).row.shared_fakes

    shared = run_training("shared", steps=2, **settings)
    again[3] = str(shared)
    assert parse_train_options(again).row.shared_fakes
