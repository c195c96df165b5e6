"""Damaged files of a run are named, and never taken for whole ones."""

import errno
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from PIL import Image

import gan.loop
import gan.session.begin
import gan.session.run
import gan.training.checkpoints
from gan.errors import UsageError
from gan.files.json_files import read_json_lines, write_json
from gan.files.run_folder import RunFolder
from gan.files.tensor_files import read_tensors, write_tensors
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.sample import main as sample
from gan.training.checkpoints import load_generator, newest_first
from tests.gan.small_run import SMALL, contents, flip, train_main

# The record


def test_a_damaged_line_is_named_and_nothing_is_thrown_away(run: Path, script) -> None:
    for path, position in ((RunFolder(run).metrics, 20), (RunFolder(run).metrics, -2)):
        whole = path.read_bytes()
        flip(path, position)
        before = contents(run)
        code, _, errors = script(train_main, "--resume", "--output", run, "--epochs", 3)
        assert code == 2
        assert errors.startswith(f"error: {path}: line {1 if position > 0 else 2}: damaged")
        assert errors.count("\n") == 1
        assert contents(run) == before
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: [lines[1]], "line 1: epoch is 2 instead of 1"),
        (lambda lines: [lines[0], lines[0]], "line 2: epoch is 1 instead of 2"),
        (lambda lines: [{**lines[0], "epoch": "1"}, lines[1]], "line 1: epoch is '1' instead of 1"),
        (lambda lines: [lines[0], {**lines[1], "loss_d": None}], "line 2: loss_d is None, no number"),
        (lambda lines: [{**lines[0], "loss_g": 1e300}, lines[1]], "line 1: loss_g is 1e+300, no number"),
        (lambda lines: [{**lines[0], "seconds": [1] * 999}, lines[1]], "line 1: seconds is [1, "),
        (lambda lines: [{}, lines[1]], "line 1: epoch is None instead of 1"),
        (lambda lines: lines[:1], "has 1 whole lines, and "),
        (lambda lines: [], "has 0 whole lines, and "),
    ],
)
def test_a_record_that_lacks_something_is_refused(change: Callable, complaint: str, run: Path, script) -> None:
    path = RunFolder(run).metrics
    lines = change(read_json_lines(path))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = contents(run)
    code, _, errors = script(train_main, "--resume", "--output", run, "--epochs", 3)
    assert code == 2
    assert f"{path}: {complaint}" in errors or f"{path} {complaint}" in errors
    assert errors.count("\n") == 1
    assert contents(run) == before


def test_a_last_line_without_its_break_counts_only_where_the_checkpoint_can_do_without(run: Path, script) -> None:
    path = RunFolder(run).metrics
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert script(train_main, "--resume", "--output", run)[0] == 0
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"epoch": 3, "los')
    assert script(train_main, "--resume", "--output", run)[0] == 0
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-20])
    code, _, errors = script(train_main, "--resume", "--output", run)
    assert code == 2
    assert "has 1 whole lines" in errors


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(run: Path, script) -> None:
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    code, _, errors = script(train_main, "--resume", "--output", run, "--epochs", 3)
    assert code == 2
    assert "the checkpoints of" in errors
    assert contents(run) == before


# Options that are read again


STRANGE = [None, "x", [], [1, 2], {"a": 1}, True, -1, 0, 1.5, float("nan"), 10**30, "\0", "\ud800", [[]] * 3]


@pytest.mark.slow
@pytest.mark.nightly
def test_strange_values_in_a_config_are_refused_in_one_line(run: Path, script, monkeypatch) -> None:
    """Every option, and every section, by every strange value: never a traceback, never a change."""
    path = RunFolder(run).config
    config = json.loads(path.read_bytes())
    monkeypatch.setattr(gan.loop, "prepare", refuse_to_prepare)
    places = [("options", name) for name in config["options"]]
    places += [(name, None) for name in ("options", "identity", "strategy", "schema")]
    for section, name in places:
        for value in STRANGE:
            changed = value if name is None else {**config[section], name: value}
            write_json(path, {**config, section: changed})
            before = path.read_bytes()
            code, _, errors = script(train_main, "--resume", "--output", run, "--steps", 6)
            assert code == 2, (section, name, value, errors)
            assert errors.count("\n") == 1
            assert len(errors) < 1000
            assert path.read_bytes() == before


@pytest.mark.parametrize("value", [None, "x", [[]] * 3, 10**30])
def test_a_strange_identity_is_refused_in_one_line(value: object, run: Path) -> None:
    path = RunFolder(run).config
    config = json.loads(path.read_bytes())
    options = parse_train_options(["--resume", "--output", str(run)])
    prepared = gan.session.run.prepare(options)
    for name, begun in config["identity"].items():
        if begun == value:
            continue
        write_json(path, {**config, "identity": {**config["identity"], name: value}})
        with pytest.raises(UsageError, match="--resume: ") as refused:
            gan.session.begin.begin_or_resume(*prepared)
        assert len(str(refused.value)) < 1000
        assert "\n" not in str(refused.value)


def refuse_to_prepare(options: TrainOptions) -> None:
    raise UsageError(f"--recipe {options.recipe}: these options are valid")


# The generator and its pictures


def test_every_damage_of_a_generator_is_noticed_and_named(run: Path, script) -> None:
    folder = RunFolder(run)
    for path in (folder.generator, folder.generator_config):
        whole = path.read_bytes()
        for position in range(9, len(whole), len(whole) // 25):
            flip(path, position, bit=1)
            code, _, errors = script(sample, run, "grid")
            assert code == 2, position
            assert str(path) in errors
            assert errors.count("\n") == 1
            path.write_bytes(whole)
    assert not (run / "pictures").exists()
    flip(folder.generator_of(1), 50_000)
    with pytest.raises(UsageError, match=r"epoch_0001\.safetensors: its contents do not match its SHA-256"):
        load_generator(folder.generator_of(1), folder.generator_config)
    load_generator(folder.generator_of(2), folder.generator_config)


def test_resuming_writes_a_damaged_generator_anew(run: Path, script) -> None:
    folder = RunFolder(run)
    whole = contents(run)
    flip(folder.generator, 50_000)
    folder.generator_config.unlink()
    assert script(train_main, "--resume", "--output", run)[0] == 0
    assert folder.generator.read_bytes() == whole[folder.generator]
    assert folder.generator_config.read_bytes() == whole[folder.generator_config]


def test_a_generator_of_another_run_is_refused(run: Path, run_training) -> None:
    other = RunFolder(run_training("other", **{**SMALL, "recipe": "mlp"}, steps=1))
    with pytest.raises(UsageError, match=r"generator\.safetensors: not of .*generator\.json, but of another run"):
        load_generator(other.generator, RunFolder(run).generator_config)


R3GAN = {"kind": "R3GAN", "channels": 8, "blocks": 1_000_000}
MLP = {"kind": "MLP", "widths": [20_000, 20_000]}


@pytest.mark.parametrize(
    "changes",
    [
        {"generator": R3GAN},
        {"generator": MLP},
        {"generator": {**MLP, "widths": [1] * 1_000_000}},
        *({"generator": {**MLP, "widths": [width]}} for width in (0, -1, 1.5, True, "9", None, 2**70)),
        *({"generator": {**MLP, "dropout": value}} for value in (-1, 2, "0", None, [], 10**400)),
        {"generator": {**MLP, "batchnorm": 1}},
        {"generator": {**MLP, "unknown": 1}},
        {"generator": {"kind": "R3GAN"}},
        {"generator": {"kind": "DCGAN", "channels": 2**40}},
        *({"generator": value} for value in (None, [], "MLP", {"kind": []}, {"kind": "CNN"}, {})),
        *({"latent_dim": value} for value in (0, -1, True, 1.5, "100", None, 10**12, 2**70)),
        *({"num_classes": value} for value in (-1, True, 10, 10**12, None, "0")),
        *({"classes": value} for value in ([0], [], "0", 7, [[]], [None])),
        *({"image_shape": value} for value in ([1, 28], [1, 28, 28, 28], [1, 0, 28], [1, 28, "28"], 7, None)),
        {"image_shape": [1, 2**2000, 2**2000]},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_config_that_does_not_fit_costs_no_memory(changes: dict, run: Path) -> None:
    """Also where its digests are right."""
    folder = RunFolder(run)
    config = json.loads(folder.generator_config.read_bytes())
    del config["sha256"]
    config |= changes
    digest = gan.training.checkpoints._digest_of_config(
        {name: config[name] for name in config if name != "classes"}
    )
    write_json(folder.generator_config, {**config, "sha256": digest})
    tensors, header = read_tensors(folder.generator, gan.training.checkpoints.GENERATOR_FORMAT)
    write_tensors(folder.generator, tensors, {**header, "config": digest})
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(UsageError) as refused:
        load_generator(folder.generator, folder.generator_config)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert str(refused.value).startswith(f"{folder.generator_config}: damaged, or not of ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert after.ru_maxrss - before.ru_maxrss < 200_000, "KiB"
    assert after.ru_utime - before.ru_utime < 5


@pytest.mark.parametrize("kind", ["timeline", "gif"])
def test_a_damaged_sample_grid_is_named(kind: str, run: Path, script) -> None:
    path = RunFolder(run).sample(1)
    whole = path.read_bytes()
    for damaged in (b"", whole[:300], b"no picture", whole[:100] + bytes(50) + whole[150:]):
        path.write_bytes(damaged)
        code, _, errors = script(sample, run, kind)
        assert code == 2
        assert errors.startswith(f"error: {path}: not a readable image")
        assert errors.count("\n") == 1
    if kind == "timeline":
        Image.new("RGB", (8, 8)).save(path)
        assert "not a sample grid of this run" in script(sample, run, kind)[2]


def test_a_damaged_sample_grid_does_not_cost_a_training_its_summary(run: Path, script) -> None:
    RunFolder(run).sample(1).write_bytes(b"")
    RunFolder(run).summary.unlink()
    code, output, _ = script(train_main, "--resume", "--output", run, "--epochs", 3)
    assert code == 0
    assert "warning:" in output
    assert RunFolder(run).summary.exists()


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("gan.training.state.TrainState.load", torch.OutOfMemoryError("CUDA out of memory.")),
        (
            "gan.training.state.TrainState.load",
            torch.AcceleratorError("CUDA error: an illegal memory access", 700),
        ),
        ("gan.training.state.TrainState.load", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        ("gan.training.state.TrainState.load", MemoryError()),
        ("gan.training.state.TrainState.load", KeyboardInterrupt()),
        ("gan.training.checkpoints.read_tensors", OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.split(".")[-1],
)
def test_a_whole_checkpoint_stays_where_a_machine_fails(
    place: str, error: BaseException, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not called damaged, and no older one is taken for it."""
    (newest,) = newest_first(RunFolder(run).checkpoints)
    shutil.copy(newest, newest.with_name("images_000000000001.safetensors"))
    before = contents(run)
    once = iter([error])

    def fail(*arguments: object) -> object:
        for first in once:
            raise first
        return works(*arguments)

    works = resolve_name(place)
    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error)):
        train(TrainOptions(**SMALL, epochs=3, output=run, resume=True))
    assert contents(run) == before
