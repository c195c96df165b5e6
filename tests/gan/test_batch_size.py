"""--find-batch-size: what it tries, what it takes, and what it says."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import gan.session.batch_size
from gan.errors import UsageError
from gan.loop import train
from gan.methods.lazy import Due
from gan.methods.penalties import R1
from gan.options import TrainOptions, parse_train_options
from gan.process.memory import peak_bytes, reset_peak
from gan.recipes import RECIPES
from gan.session.batch_size import MOST_STEPS, _steps_by_kind, with_batch_size
from gan.train import main
from gan.training.step import train_step
from tests.conftest import run_two_processes, slow_or_nightly
from tests.gan.reference import LAZY
from tests.gan.small_run import SMALL

GIB = 2**30


class Memory:
    """A step that fits up to so many images, and what was tried."""

    def __init__(self) -> None:
        self.largest = 10**9
        self.tried: list[int] = []
        self.error: Exception = torch.OutOfMemoryError("an injected one")

    def step(self, state, inputs) -> torch.Tensor:
        if not self.tried or self.tried[-1] != len(inputs.real):
            self.tried.append(len(inputs.real))
        if len(inputs.real) > self.largest:
            raise self.error
        return train_step(state, inputs)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    memory = Memory()
    monkeypatch.setattr(gan.session.batch_size, "run_step", memory.step)
    monkeypatch.setattr(gan.session.batch_size, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(gan.session.batch_size, "release_memory", lambda: None)  # which takes most of the time
    return memory


def searched(**options: object) -> TrainOptions:
    return with_batch_size(TrainOptions(**{**SMALL, "batch_size": 10, "find_batch_size": True, **options}))


def test_the_largest_batch_that_fits_is_taken_and_said(memory: Memory, capsys: pytest.CaptureFixture[str]) -> None:
    memory.largest = 50
    found = searched(batch_size=20)
    assert (found.batch_size, found.find_batch_size) == (40, False)
    assert memory.tried == [20, 40, 80]
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["batch", "size", "images/s", "peak", "memory"]
    rows = [re.fullmatch(r" +(\d+) +([\d,]+) +([\d,]+) MiB", line) for line in said[1:3]]
    assert [row and int(row[1]) for row in rows] == [20, 40]
    assert said[3].split() == ["80", "no:", "out", "of", "memory"]
    assert said[4] == "--batch-size 40 is taken, the largest of these"
    assert re.fullmatch(r"--batch-size (20|40) is the smallest with at least 95% of the most images/s", said[5])


def test_a_step_with_lazy_penalties_takes_the_mean_over_a_period(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a clock by which a step takes 1 s, D's penalty 3 s every 3 steps, and G's 8 s every 2 steps: 6 s."""
    now = 0.0
    kinds = []

    def step(state, inputs) -> torch.Tensor:
        nonlocal now
        due = state.due
        assert (inputs.directions is not None) == due.generator
        kinds.append(due)
        now += 1.0 + 3.0 * len(due.discriminator) + 8.0 * due.generator
        return torch.zeros(4)

    monkeypatch.setattr(gan.session.batch_size, "run_step", step)
    monkeypatch.setattr(gan.session.batch_size, "time", SimpleNamespace(perf_counter=lambda: now))
    assert searched(recipe=LAZY[0]).batch_size == 10
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:2] == ["10", "2"]  # images/s: 10 in 6 s
    assert said[2].endswith("no: a step would take about 12 s")
    assert said[3] == "--batch-size 10 is taken, the largest of these"
    assert said[4] == "images/s: mean over 6 steps; peak memory: of the steps that take most"
    assert kinds[0] == ((0,), True), "the first step has both penalties, and so the most memory"
    assert len(set(kinds)) == 4
    searched()
    assert "mean over" not in capsys.readouterr().out


def test_the_kinds_of_steps_of_a_very_long_period_are_soon_counted() -> None:
    row = replace(RECIPES["stylegan2"], penalty=R1(1.0, every=10**12))
    kinds = _steps_by_kind(row)
    assert {due: len(steps) for due, steps in kinds.items()} == {
        Due((0,), True): 1,
        Due((), True): MOST_STEPS // 4 - 1,
        Due((), False): MOST_STEPS // 4 * 3,
    }


def test_the_other_ranks_learn_of_each_trial(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of waiting for another rank holds for a trial, and not for all of them."""
    begun: list[tuple[object, ...]] = []
    monkeypatch.setattr(gan.session.batch_size, "doing", lambda *activity: begun.append(activity))
    memory.largest = 50
    searched(batch_size=20)
    assert begun[0] == ("looking at the data",)
    assert begun[1:] == [("trying a batch of", size) for size in memory.tried]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
        pytest.param(MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_memory_of_the_cpu_ends_like_that_of_a_gpu(memory: Memory, error: Exception) -> None:
    memory.largest, memory.error = 20, error
    assert searched().batch_size == 20


def test_another_error_is_no_lack_of_memory(memory: Memory) -> None:
    memory.largest, memory.error = 20, RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        searched()


def test_a_first_batch_that_does_not_fit_is_halved(memory: Memory) -> None:
    memory.largest = 30
    assert searched(batch_size=100).batch_size == 25
    assert memory.tried == [100, 50, 25]


def test_a_batch_that_leaves_one_image_for_batchnorm_is_passed_over(memory: Memory, capsys) -> None:
    """Training would refuse it. The digits are 1,797."""
    memory.largest = 500
    settings = {"recipe": "mlp-batchnorm", "set": ("sampling=shuffle",)}
    assert searched(batch_size=899, **settings).batch_size == 224
    assert memory.tried == [899, 224]
    refused = (
        "449  no: --batch-size 449: mlp-batchnorm has BatchNorm, and the last batch of an epoch of 1,797 images"
    )
    assert refused in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "tried"), [pytest.param("mlp-compact", [2, 1], marks=pytest.mark.slow), ("mlp-batchnorm", [2])]
)
def test_if_nothing_fits_a_line_says_so(recipe: str, tried: list[int], memory: Memory) -> None:
    """BatchNorm has no batch of one."""
    memory.largest = 0
    with pytest.raises(UsageError, match="find-batch-size: not even the smallest batch fits into memory"):
        searched(recipe=recipe, batch_size=2)
    assert memory.tried == tried


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"batch_size": 1000}, 1000),
        ({"batch_size": 200, "accumulate": 4}, 400),
        pytest.param({"recipe": "wgan", "batch_size": 20}, 320, marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_no_more_than_the_dataset(options, found: int, memory: Memory, capsys, monkeypatch) -> None:
    """It takes all updates of D and all micro-batches; the digits are 1,797."""
    monkeypatch.setattr(memory, "step", None)
    monkeypatch.setattr(gan.session.batch_size, "run_step", lambda *_: torch.zeros(4))
    assert searched(**options).batch_size == found
    assert f"{2 * found:,}  no: a step would take more than the 1,797 images" in capsys.readouterr().out


def test_a_cpu_is_not_filled_to_the_brim(memory: Memory, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """It would swap. What twice the batch would take is known from the trials before."""
    peaks = iter([1 * GIB, 1.5 * GIB, 2 * GIB, 3 * GIB])
    monkeypatch.setattr(gan.session.batch_size, "peak_bytes", lambda _: int(next(peaks)))
    monkeypatch.setattr(gan.session.batch_size, "free_on_device", lambda _: 4 * GIB)
    assert searched().batch_size == 40
    assert memory.tried == [10, 20, 40]
    assert "80  no: it would take about 5.0 GiB of 4.6" in capsys.readouterr().out


def test_a_step_of_minutes_is_not_tried(memory: Memory, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(gan.session.batch_size, "_step_seconds", lambda _, size, *__: size / 5)
    assert searched().batch_size == 40
    assert "80  no: a step would take about 16 s" in capsys.readouterr().out


def test_processes_of_a_host_share_its_memory(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1 * GIB, 1.5 * GIB, 2 * GIB])
    monkeypatch.setattr(gan.session.batch_size, "peak_bytes", lambda _: int(next(peaks)))
    monkeypatch.setattr(gan.session.batch_size, "free_on_device", lambda _: 4 * GIB)
    monkeypatch.setattr(gan.session.batch_size, "launched_here", lambda: 2)
    assert searched().batch_size == 20


def test_the_peak_is_that_of_what_was_alive() -> None:
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_bytes(cpu)
    torch.zeros(2**26).add_(1)  # 256 MiB, freed at once
    assert 0.9 * 2**28 <= peak_bytes(cpu) - before < 2**29


def test_the_search_leaves_no_networks_behind(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Accelerator keeps what it has wrapped."""
    alive: list[int] = []
    monkeypatch.setattr(gan.session.batch_size, "release_memory", lambda: alive.append(len(kept())))
    accelerators = []
    build = gan.session.batch_size.build_accelerator

    def noted(options: TrainOptions) -> object:
        accelerators.append(build(options))
        return accelerators[-1]

    def kept() -> list[object]:
        return accelerators[0]._models

    monkeypatch.setattr(gan.session.batch_size, "build_accelerator", noted)
    memory.largest = 20
    searched()
    assert alive == [0, 0, 0]


def test_a_run_trains_with_the_batch_that_was_found(memory: Memory, tmp_path: Path) -> None:
    """Bit by bit as if it had been asked for, dropout included; its record has it, and so has its resumption."""
    memory.largest = 100
    settings = {**SMALL, "recipe": "mlp-dropout", "steps": 3}
    found = train(
        TrainOptions(**{**settings, "batch_size": 25, "find_batch_size": True}, output=tmp_path / "found")
    )
    asked = train(TrainOptions(**{**settings, "batch_size": 100}, output=tmp_path / "asked"))
    ours, theirs = (load_file(folder.generator) for folder in (found, asked))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    config = json.loads(found.config.read_text())
    assert config["options"]["batch_size"] == config["identity"]["global_batch_size"] == 100
    assert "find_batch_size" not in config["options"]
    resumed = parse_train_options(["--resume", "--output", str(found.root), "--steps", "4"])
    assert (resumed.batch_size, resumed.find_batch_size) == (100, False)
    memory.tried.clear()
    train(resumed)
    assert memory.tried == []


def test_a_dry_run_shows_the_table_and_what_it_would_train(script, memory: Memory, tmp_path: Path) -> None:
    memory.largest = 100
    flags = ("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 50, "--output", tmp_path / "run")
    code, output, errors = script(main, *flags, "--find-batch-size", "--dry-run")
    assert (code, errors) == (0, "")
    assert "--batch-size 100 is taken" in output
    assert "global batch  100 = 100 × 1 process(es)" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--resume --output begun", "--find-batch-size with --resume: give one of them"),
        ("--set batch_size=8", "--find-batch-size with --set batch_size: give one of them"),
        ("--output begun", "--output begun: already holds a run"),
        ("--batch-size 2000", "--batch-size 2000 × 1 processes: more than the 1797 images of digits"),
        ("--batch-size 0", "--batch-size 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_tried(
    arguments: str, message: str, script, run_training, memory: Memory, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    if "begun" in arguments:
        run_training(recipe="mlp-compact", dataset="digits", steps=1, output=Path("begun"))
        capsys.readouterr()
    code, output, errors = script(
        main, "--recipe", "mlp-compact", "--dataset", "digits", "--find-batch-size", *arguments.split()
    )
    assert (code, output) == (2, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert memory.tried == []


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_or_nightly(RECIPES, slow=("mlp", "wgan-gp", "biggan", "stylegan2")))
def test_each_recipe_can_be_tried(name: str, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan.session.batch_size, "MOST_SECONDS", math.inf)
    memory.largest = 8 * RECIPES[name].discriminator_steps
    augment = "color,translation,cutout,ada" if RECIPES[name].adaptive else "color,translation,cutout"
    assert searched(recipe=name, batch_size=4, augment=augment).batch_size == 8


@pytest.mark.slow
@pytest.mark.multiprocess
def test_ranks_agree_on_what_fits_on_all_of_them(tmp_path: Path) -> None:
    done = run_two_processes("gan/batch_size_worker.py", tmp_path, cwd=tmp_path)
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["[32, 32]"] * 2
    assert done.stdout.count("batch size") == 2
    assert "64  no: it would take about 5.0 GiB of 4.6" in done.stdout
    assert "64  no: out of memory" in done.stdout
    assert "of the most images/s without their exchange of gradients" in done.stdout
