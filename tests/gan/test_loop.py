"""A whole run: what it writes, and what it says when it cannot go on."""

import errno
import json
import math
import os
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

import gan.display.progress
import gan.loop
import gan.process.script
from gan.data.datasets import DATASETS
from gan.data.in_memory import InMemoryImages
from gan.errors import DivergedError, UsageError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.process.place import Place
from gan.process.script import exit_code_of
from gan.quality.probabilities import mean_probabilities
from gan.recipes import RECIPES
from gan.session.epochs import skipped_updates
from gan.training.checkpoints import load_checkpoint, newest_first
from gan.training.metrics import METRICS
from gan.training.progress import Progress
from gan.training.state import build_state
from tests.conftest import quick_or_slow, run_script
from tests.gan.reference import float64_state, inputs
from tests.gan.small_run import TRAIN, contents

CPU = torch.device("cpu")


def test_a_run_writes_its_whole_record(run_training, capsys) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", epochs=2, batch_size=150, seed=3)
    folder = RunFolder(run)
    written = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert written == {
        *("config.json", "metrics.jsonl", "summary.json", "curves.png", "progress.gif"),
        *("generator.safetensors", "generator.json", "samples/epoch_0001.png", "samples/epoch_0002.png"),
        "samples/real.png",
        *("generators/epoch_0001.safetensors", "generators/epoch_0002.safetensors"),
        "checkpoints/images_000000003594.safetensors",
    }
    config = json.loads(folder.config.read_text())
    assert config["options"]["seed"] == 3
    assert config["identity"]["global_batch_size"] == 150
    assert config["identity"]["optimizer"] == {"learning_rate": 2e-4, "betas": [0.9, 0.999], "eps": 1e-8}
    assert config["environment"]["packages"]["torch"] == torch.__version__.split("+")[0]

    lines = read_json_lines(folder.metrics)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["images_seen"] for line in lines] == [1797, 3594]
    assert lines[0]["seconds"] < lines[1]["seconds"]
    assert lines[1]["test_p_real"] is None

    summary = json.loads(folder.summary.read_text())
    assert summary["steps"] == 24
    assert summary["last_epoch"] == lines[-1]
    assert summary["median_images_per_second"] == lines[1]["images_per_second"]
    assert Image.open(folder.sample(1)).size == (8 * 30 + 2, 8 * 30 + 2)
    assert Image.open(folder.animation).n_frames == 2
    assert str(folder.sample(2)) in capsys.readouterr().out


def test_nobody_watches_the_main_process_while_it_finishes(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other ranks have left by then, and to send all to a tracker may take longer than the limit."""
    events: list[str] = []
    watch = SimpleNamespace(stop=lambda: events.append("stopped"))
    monkeypatch.setattr(gan.loop, "watching", lambda _: nullcontext(watch))
    monkeypatch.setattr(gan.loop, "going_on", lambda options, _: options)
    monkeypatch.setattr(gan.loop, "note_begun", lambda *_: None)
    monkeypatch.setattr(gan.loop, "finish", lambda *_: events.append("finished"))
    run_training(recipe="mlp-compact", dataset="digits", steps=1)
    assert events == ["stopped", "finished"]


def test_a_slow_run_shows_its_steps_though_no_losses_are_due(run_training, monkeypatch, capsys) -> None:
    """And does not train otherwise than one that shows nothing."""
    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 300, "epochs": 2}
    quiet = run_training("quiet", log_every=1000, **settings)
    capsys.readouterr()
    monkeypatch.setattr(gan.display.progress, "SECONDS_BETWEEN_STEP_LINES", 0.0)
    shown = run_training("shown", log_every=1000, **settings)
    steps = re.findall(r"^epoch (\d)/2  step (\d+)/12  .*loss D .* left$", capsys.readouterr().out, re.MULTILINE)
    assert steps == [(str(1 + (step > 6)), str(step)) for step in range(1, 13) if step % 6]
    assert RunFolder(quiet).generator.read_bytes() == RunFolder(shown).generator.read_bytes()


def test_images_per_second_are_of_steps_that_the_device_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes the last of them when the host waits for their losses, here for a second."""
    seconds = 0.0

    def waiting(*_: object) -> torch.Tensor:
        nonlocal seconds
        seconds += 1.0
        return torch.zeros(len(METRICS))

    shown: list[float] = []
    display = SimpleNamespace(step=lambda _step, _text, metrics, **_: shown.append(metrics["images_per_second"]))
    run: Any = SimpleNamespace(
        display=display, recipe=RECIPES["mlp"], num_epochs=1, total_steps=100, images_per_step=32
    )
    monkeypatch.setattr(gan.loop, "time", SimpleNamespace(perf_counter=lambda: seconds))
    monkeypatch.setattr(gan.loop, "epoch_means", waiting)
    progress = Progress()
    speed = gan.loop._Speed(progress)
    progress.images_seen = 64
    state: Any = SimpleNamespace(progress=progress)
    gan.loop._show_step(run, state, speed)
    assert shown == [64.0]


def test_epoch_metrics_are_means_over_images(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partial last batch counts by its size."""
    seen = []
    step = gan.loop.run_step

    def recording_step(state, inputs):
        metrics = step(state, inputs)
        seen.append((len(inputs.real), metrics.double()))
        return metrics

    monkeypatch.setattr(gan.loop, "run_step", recording_step)
    run = run_training(recipe="mlp-compact", dataset="digits", epochs=1, batch_size=700)
    assert [size for size, _ in seen] == [700, 700, 397]
    expected = sum(size * metrics for size, metrics in seen) / 1797
    (line,) = read_json_lines(RunFolder(run).metrics)
    assert [line[name] for name in METRICS] == pytest.approx(expected.tolist(), rel=1e-9)


def test_probabilities_on_the_test_images_are_those_of_evaluation_mode(accelerator: Accelerator) -> None:
    state = build_state(RECIPES["mlp-dropout"], (1, 28, 28), accelerator, seed=0, steps_per_epoch=1)
    test = torch.randint(256, (2300, 1, 28, 28), dtype=torch.uint8)
    parts = [mean_probabilities(state, test, seed=1, place=Place(rank, 2, CPU)) for rank in range(2)]
    whole = mean_probabilities(state, test, seed=1, place=Place(0, 1, CPU))
    torch.testing.assert_close(sum(parts), whole)
    assert state.discriminator.network.training
    state.discriminator.network.eval()
    expected = state.discriminator.network(test.float() / 127.5 - 1).sigmoid().mean()
    assert whole[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_dataset_with_test_images_reports_them(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    def loader(request):
        images = torch.randint(256, (60, 1, 28, 28), dtype=torch.uint8)
        return InMemoryImages(images[:40], images[40:])

    monkeypatch.setitem(DATASETS, "digits", loader)
    run = run_training(recipe="mlp-compact", dataset="digits", steps=2, batch_size=20)
    (line,) = read_json_lines(RunFolder(run).metrics)
    assert 0 < line["test_p_real"] < 1
    assert 0 < line["test_p_fake"] < 1


def poison(monkeypatch: pytest.MonkeyPatch, player: str, at_step: int) -> None:
    step = gan.loop.run_step

    def poisoned(state, inputs):
        if state.progress.step + 1 == at_step:
            with torch.no_grad():
                next(getattr(state, player).network.parameters()).mul_(math.nan)
        return step(state, inputs)

    monkeypatch.setattr(gan.loop, "run_step", poisoned)


def test_a_non_finite_loss_stops_and_names_step_and_network(run_training, monkeypatch, tmp_path: Path) -> None:
    poison(monkeypatch, "discriminator", at_step=7)
    with pytest.raises(DivergedError) as caught:
        run_training(recipe="mlp-compact", dataset="digits", batch_size=100, checkpoint_every=500, log_every=3)
    message = str(caught.value)
    assert message.startswith("step 7: the discriminator's loss is not finite")
    (good,) = newest_first(tmp_path / "run" / "checkpoints")
    assert f"the last good checkpoint: {good}" in message
    assert load_checkpoint(good).counters["progress"]["step"] == 5
    assert "\n" not in message


def test_non_finite_weights_are_never_saved(run_training, monkeypatch, tmp_path: Path) -> None:
    """An update can spoil the weights after the last finite loss."""
    step = gan.loop.run_step

    def spoiling(state, inputs):
        metrics = step(state, inputs)
        with torch.no_grad():
            next(state.generator.network.parameters()).mul_(math.inf)
        return metrics

    monkeypatch.setattr(gan.loop, "run_step", spoiling)
    with pytest.raises(DivergedError, match=r"step 1: the generator's weights are not finite.*none yet"):
        run_training(recipe="mlp-compact", dataset="digits", steps=1)
    assert not (tmp_path / "run" / "generator.safetensors").exists()


def test_a_full_disk_ends_in_one_line_and_loses_nothing(run_training, monkeypatch, tmp_path: Path, capsys) -> None:
    output = tmp_path / "run"
    real_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        if len(newest_first(output / "checkpoints")) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    settings = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 100, "checkpoint_every": 500}
    monkeypatch.setattr(os, "fsync", fsync)
    code = exit_code_of(lambda: run_training(steps=12, **settings))
    errors = capsys.readouterr().err
    assert code == 1
    assert errors.count("\n") == 1
    assert re.fullmatch(r"error: /.*run/.+: No space left on device; .* --resume\n", errors)
    monkeypatch.setattr(os, "fsync", real_fsync)
    assert load_checkpoint(newest_first(output / "checkpoints")[0]).counters["progress"]["step"] == 5
    run_training(steps=12, resume=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 1798},
            "--batch-size 1798 × 1 processes: more than the 1797 images of digits; at most 1797",
        ),
        ({"batch_size": 1}, "--batch-size 1: quickstart has BatchNorm, and a batch must have at least 2 images"),
        ({"tracker": "tensorbored"}, "--tracker tensorbored: not available; choose one of"),
        ({"dataset": "folder", "data_root": Path("nowhere")}, "--data-root nowhere: not a directory"),
    ],
)
def test_bad_input_before_anything_is_written(settings: dict, message: str, run_training, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_training(**settings)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_without_its_package_says_what_to_install(
    run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan.session.strategy.get_available_trackers", list)
    with pytest.raises(UsageError, match=r"^--tracker tensorboard: not available; pip install tensorboard$"):
        run_training(tracker="tensorboard")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_holds_a_run_is_left_alone(run_training) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", steps=1)
    before = contents(run)
    with pytest.raises(UsageError, match="already holds a run; continue it with --resume, or choose another"):
        run_training(recipe="mlp-compact", dataset="digits", steps=1)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "fp16"),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4: leave it out, and give the training --accumulate",
        ),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "--num_processes: Accelerate started only one",
        ),
    ],
)
def test_strategies_that_cannot_train_are_refused(
    environment, message, run_training, monkeypatch, tmp_path
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        run_training()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.multiprocess
def test_the_script_imports_the_repository_beside_it_and_exits_with_2_and_one_line(tmp_path: Path) -> None:
    """From a directory with another package of that name."""
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan" / "__init__.py").write_text("raise ImportError('another package of that name')")
    arguments = ("--recipe", "mlp", "--data-root", "absent", "--batch-size", "0")
    done = run_script(TRAIN, *arguments, cwd=tmp_path, env={"PYTHONPATH": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --batch-size 0: must be at least 1\n"


def test_metrics_reach_a_tracker(run_training) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_training(recipe="mlp-compact", dataset="digits", epochs=2, batch_size=600, tracker="tensorboard")
    events = EventAccumulator(str(run / "gan"))
    events.Reload()
    logged = [event.value for event in events.Scalars("loss_d")]
    assert logged == pytest.approx([line["loss_d"] for line in read_json_lines(RunFolder(run).metrics)], rel=1e-6)


def test_an_epoch_is_shown_and_kept_before_a_tracker_gets_it(
    run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("the tracker is gone")

    monkeypatch.setattr("gan.session.strategy.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr(Accelerator, "init_trackers", lambda *_: None)
    monkeypatch.setattr(Accelerator, "log", fails)
    with pytest.raises(ConnectionError):
        run_training(recipe="mlp-compact", dataset="digits", steps=1, tracker="tensorboard")
    assert "epoch 1/1  " in capsys.readouterr().out
    assert len(read_json_lines(RunFolder(tmp_path / "run").metrics)) == 1


def test_flags_that_differ_between_machines_are_set(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setattr("gan.models.onednn.onednn_is_faster", lambda: False)
    run = run_training(recipe="mlp-compact", dataset="digits", steps=1, num_threads=1)
    environment = json.loads(RunFolder(run).config.read_text())["environment"]
    assert environment["flags"]["float32_matmul_precision"] == "highest"
    assert environment["flags"]["cudnn_allow_tf32"] is False
    assert environment["flags"]["onednn"] is torch.backends.mkldnn.is_available()
    assert environment["flags"]["linear_layers"] == "PyTorch"
    assert environment["flags"]["variables"]["MKL_CBWR"] == "COMPATIBLE"
    assert environment["threads"] == 1
    tiny = torch.full((1000,), 1e-40)
    assert (tiny * 1.0).max().item() == 0, "denormals are not flushed"


@pytest.mark.parametrize(
    "name", quick_or_slow(RECIPES, quick=("mlp", "wgan", "wgan-gp", "biggan", "stylegan2"), slow=())
)
def test_no_update_counts_as_skipped_where_none_was(name: str, accelerator: Accelerator) -> None:
    """Some rows update D several times a step, and some have lazy penalties."""
    state = float64_state(name, accelerator)
    inputs(name, 6).train(state, 1 / 6)
    state.progress.step = 1
    assert skipped_updates(state) == [0, 0]
    state.progress.step = 2
    assert skipped_updates(state) == [RECIPES[name].discriminator_steps, 1]


def test_parameters_that_take_part_later_count_no_update_as_skipped(accelerator: Accelerator) -> None:
    """Nor do optimizers without a fused step fail, as RMSprop, while all updates are skipped."""
    state = float64_state("mlp-compact", accelerator)
    state.progress.step = 1
    assert skipped_updates(state) == [1, 1]
    first = next(state.generator.network.parameters())
    first.requires_grad_(requires_grad=False)
    inputs("mlp-compact", 6).train(state, 1 / 6)
    first.requires_grad_()
    inputs("mlp-compact", 6).train(state, 1 / 6)
    state.load(dict(sorted(state.tensors().items())), state.counters())  # in the order in which a file has them
    state.progress.step = 2
    assert skipped_updates(state) == [0, 0]


@pytest.mark.parametrize(
    ("seconds_per_step", "steps"),
    [(0.005, [1, 51, 101]), (1.0, [1, 6, 11]), (2.5, [1, 3, 5]), (30.0, [1, 2, 3])],
)
def test_several_ranks_look_for_a_signal_within_five_seconds_or_a_step(
    seconds_per_step: float, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher kills them after 30 s. With quick steps, they look as often as the run logs."""
    progress = Progress()
    monkeypatch.setattr(gan.loop, "time", SimpleNamespace(perf_counter=lambda: seconds_per_step * progress.step))
    polls = gan.loop._Polls(progress, most_steps=50)
    polled = []
    while len(polled) < len(steps):
        progress.step += 1
        if polls.are_due():
            polled.append(progress.step)
            polls.agree(polls.milliseconds_per_step())
    assert polled == steps


def test_the_slowest_rank_decides_when_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(step=7)
    monkeypatch.setattr(gan.loop, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    polls = gan.loop._Polls(progress, most_steps=50)
    polls.agree(2000)
    due = []
    for progress.step in range(8, 12):
        due.append(polls.are_due())
    assert due == [False, True, True, True]
