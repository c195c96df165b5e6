"""Nothing of a run is lost, mixed or silently wrong: other sessions, damaged files, directories that go away."""

import json
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan.begin
import gan.loop
import gan.run
import gan.training.checkpoints
from gan.display.figures import save_animation, save_curves, save_image
from gan.errors import UsageError
from gan.files.json_files import append_json_line, read_json_lines, write_json, write_json_lines
from gan.files.locks import DirectoryLock
from gan.files.run_folder import RunFolder, default_output, newest_default_output
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.sample import main as sample
from gan.training.checkpoints import load_generator, newest_first, save_checkpoint
from tests.conftest import ROOT, launch_two_processes, run_script

TRAIN = ROOT / "gan" / "train.py"
SMALL = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 600, "num_threads": 1}
"""Three steps an epoch."""
FLAGS = ("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 600, "--num-threads", 1)


def train_main() -> None:
    train(parse_train_options())


def contents(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, made once; `run` has a copy of it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return train(TrainOptions(**SMALL, epochs=2, output=output)).root  # type: ignore[arg-type]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def flip(path: Path, position: int, bit: int = 0x80) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= bit
    path.write_bytes(content)


# Two sessions, one run


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_in_use_is_refused_with_its_holder_and_left_alone(resume: bool, run: Path, script) -> None:
    output = run if resume else run.parent / "new"
    output.mkdir(exist_ok=True)
    before = contents(output)
    with DirectoryLock(output):
        code, _, errors = script(train_main, *FLAGS, "--output", output, "--steps", 9, *["--resume"] * resume)
    assert code == 2
    assert errors.startswith(f"error: --output {output}: in use by process {os.getpid()} on ")
    assert errors.count("\n") == 1
    assert contents(output) == before


def test_a_second_start_without_an_output_gets_the_next_directory(tmp_path: Path, monkeypatch, script) -> None:
    monkeypatch.chdir(tmp_path)
    taken = []

    def quicker(recipe: str) -> Path:
        """Name a directory that another session takes before this one does."""
        path = default_output(recipe)
        if not taken:
            path.mkdir(parents=True)
            taken.append(DirectoryLock(path))
        return path

    monkeypatch.setattr("gan.run.default_output", quicker)
    code, _, errors = script(train_main, *FLAGS, "--steps", 1)
    assert (code, errors) == (0, "")
    assert [path.name for path in Path("runs/mlp-compact").iterdir()] == [".lock"]
    assert RunFolder(Path("runs/mlp-compact-2")).summary.exists()
    taken[0].release()


@pytest.mark.slow
@pytest.mark.multiprocess
def test_all_processes_end_with_one_line_when_the_run_is_in_use(tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    with DirectoryLock(output):
        done = launch_two_processes(TRAIN, *FLAGS, "--steps", 1, "--output", output, cwd=tmp_path)
    assert done.returncode != 0
    complaints = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert f"in use by process {os.getpid()}" in complaints[0]
    assert "done" not in done.stdout
    assert list(output.iterdir()) == []


def start(*arguments: object, cwd: Path, launcher: bool = False) -> subprocess.Popen[str]:
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu") if launcher else ()
    return subprocess.Popen(
        [sys.executable, *launch, str(TRAIN), *map(str, (*FLAGS, *arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_training_that_outlives_its_launcher_keeps_its_run(tmp_path: Path) -> None:
    launcher = start("--output", "run", "--epochs", 10_000, cwd=tmp_path, launcher=True)
    lock = tmp_path / "run" / ".lock"
    deadline = time.monotonic() + 120
    while not newest_first(tmp_path / "run" / "checkpoints"):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = json.loads(lock.read_bytes())["pid"]
    launcher.kill()
    launcher.wait()
    try:
        refused = run_script(TRAIN, "--resume", "--output", "run", "--epochs", 10_001, cwd=tmp_path)
        assert refused.returncode == 2
        assert f"in use by process {pid} on " in refused.stderr
        assert refused.stderr.count("\n") == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        launcher.communicate()


@pytest.mark.slow
def test_of_two_sessions_one_is_refused_and_the_other_is_whole(tmp_path: Path) -> None:
    """GAN_TEST_PAIRS sets how many of each kind: one --output, none, and --resume."""
    for pair in range(int(os.environ.get("GAN_TEST_PAIRS", "1"))):
        cwd = tmp_path / str(pair)
        cwd.mkdir()
        for kind in (("--output", "run"), (), ("--output", "run", "--resume")):
            epochs = 60 if "--resume" in kind else 30
            sessions = [start(*kind, "--epochs", epochs, "--seed", 0, cwd=cwd) for _ in range(2)]
            ends = [(process.communicate(timeout=240)[1], process.returncode) for process in sessions]
            codes = sorted(code for _, code in ends)
            runs = [cwd / "run"] if kind else [cwd / "runs/mlp-compact", cwd / "runs/mlp-compact-2"]
            assert codes == ([0, 2] if kind else [0, 0]), ends
            for errors, code in ends:
                # one that comes when the other is done is told of the run, and may resume it
                told = "in use by process" in errors or "already holds a run" in errors
                assert errors == "" if code == 0 else told
                assert errors.count("\n") == (code != 0)
            for output in map(RunFolder, runs):
                assert [line["epoch"] for line in read_json_lines(output.metrics)] == list(range(1, epochs + 1))
                assert json.loads(output.summary.read_bytes())["steps"] == 3 * epochs
                load_generator(output.generator, output.generator_config)


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
    prepared = gan.run.prepare(options)
    for name, begun in config["identity"].items():
        if begun == value:
            continue
        write_json(path, {**config, "identity": {**config["identity"], name: value}})
        with pytest.raises(UsageError, match="--resume: ") as refused:
            gan.begin.begin_or_resume(*prepared)
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
    digest = gan.training.checkpoints._digest_of_config(config)
    write_json(folder.generator_config, {**config, "sha256": digest})
    tensors, header = gan.training.checkpoints._read_tensors(
        folder.generator, gan.training.checkpoints.GENERATOR_FORMAT
    )
    gan.training.checkpoints._write_tensors(folder.generator, tensors, {**header, "config": digest})
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


@pytest.mark.parametrize("change", [remove, move, put_another_in_its_place, remove_record, remove_config])
@pytest.mark.parametrize(
    "before",
    ["gan.loop.epoch_inputs", "gan.epochs.draw_samples", "gan.loop.save_checkpoint", "gan.loop._finish"],
)
def test_a_run_that_loses_its_folder_says_so(
    change: Callable, before: str, tmp_path: Path, script, monkeypatch
) -> None:
    if change not in (remove, move) and before in ("gan.epochs.draw_samples", "gan.loop.save_checkpoint"):
        pytest.skip("noticed at the next look")
    run, function, calls = tmp_path / "run", pkgutil.resolve_name(before), 0
    after: dict[Path, bytes | None] = {}

    def later(*arguments: object, **settings: object) -> object:
        nonlocal calls
        calls += 1
        if calls == (1 if before == "gan.loop._finish" else 2):
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
    run, function = tmp_path / "run", gan.loop.epoch_inputs

    def later(*arguments: object) -> object:
        for name in ("samples", "checkpoints", "generators"):
            shutil.rmtree(run / name, ignore_errors=True)
        return function(*arguments)

    monkeypatch.setattr(gan.loop, "epoch_inputs", later)
    code, _, errors = script(train_main, *FLAGS, "--epochs", 3, "--checkpoint-every", 1, "--output", run)
    assert (code, errors) == (0, "")
    assert [path.name for path in RunFolder(run).samples()] == ["epoch_0003.png"]
    assert newest_first(run / "checkpoints")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
def test_a_resumed_run_keeps_no_file_mapped(run: Path, monkeypatch, run_training) -> None:
    """Truncating a mapped file would kill the run with SIGBUS."""
    step, maps = gan.loop.train_step, []

    def looking_step(*arguments: object) -> torch.Tensor:
        maps.append(Path("/proc/self/maps").read_text())
        for path in newest_first(run / "checkpoints"):
            os.truncate(path, 0)
        return step(*arguments)

    monkeypatch.setattr(gan.loop, "train_step", looking_step)
    run_training(**SMALL, epochs=3, resume=True)
    assert len(maps) == 3
    assert not [line for line in "".join(maps).splitlines() if str(run) in line]
    generator = load_generator(RunFolder(run).generator, RunFolder(run).generator_config)
    assert str(run) not in Path("/proc/self/maps").read_text()
    assert generator.latent_dim == 100


# The data of a run


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(256, size=(28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


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
