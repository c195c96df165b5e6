import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.display.evaluation import show
from gan.errors import UsageError
from gan.evaluate import evaluate, main
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.process.place import Place
from gan.quality.extractor import EXTRACTORS, build_classifier, extract
from gan.quality.generated import generated_features
from gan.quality.judge import Judge, judge_of
from gan.quality.real_images import class_frequencies
from gan.quality.scores import divergence
from gan.quality.train_extractor import held_out
from gan.quality.train_extractor import main as train_extractors
from gan.run_options import EvaluateOptions, parse_evaluate_options
from tests.conftest import ROOT, launch_two_processes, run_two_processes
from tests.gan.small_run import write_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> InMemoryImages:
    return DATASETS["digits"](DatasetRequest(Path("data"), (1, 28, 28), 0, CPU))


@pytest.fixture(scope="module")
def judge(digits: InMemoryImages) -> Judge:
    return judge_of("digits", digits)


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.slow
def test_the_extractors_are_as_exact_as_is_said(name: str) -> None:
    network = EXTRACTORS[name].network()
    if name != "digits" and not (ROOT / "data").is_dir():
        pytest.skip(f"{name} is not in data/")
    _, _, images, labels = held_out(DATASETS[name](DatasetRequest(ROOT / "data", (1, 28, 28), 0, CPU)))
    right = extract(network, images).probabilities.argmax(1) == labels
    assert float(right.double().mean()) == pytest.approx(EXTRACTORS[name].accuracy, abs=0.001)


def test_the_command_that_trains_extractors_writes_one_and_says_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: InMemoryImages, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gan.quality.extractor.__file__", str(tmp_path / "extractor.py"))
    monkeypatch.setattr("gan.quality.train_extractor.STEPS", 42)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    (tmp_path / "extractors").mkdir()
    train_extractors(["digits"])
    sha256, accuracy = json.loads(f"[{capsys.readouterr().out}]")
    _, _, images, labels = held_out(digits)
    network = replace(EXTRACTORS["digits"], sha256=sha256).network()
    right = extract(network, images).probabilities.argmax(1) == labels
    assert 0.3 < accuracy == pytest.approx(float(right.double().mean()), abs=1e-4)
    with pytest.raises(UsageError, match="did you mean digits"):
        train_extractors(["digit"])


def test_a_damaged_extractor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = replace(EXTRACTORS["digits"], sha256="0" * 64)
    with pytest.raises(UsageError, match=r"digits\.safetensors: damaged"):
        damaged.network()


def test_channels_are_seen_by_themselves() -> None:
    network = build_classifier()
    images = torch.randint(256, (6, 3, 28, 28), dtype=torch.uint8)
    together = extract(network, images)
    parts = [extract(network, images[:, [channel]]) for channel in range(3)]
    assert torch.equal(together.features, torch.cat([part.features for part in parts], 1))
    hundreds, tens, ones = (part.probabilities.argmax(1) for part in parts)
    assert torch.equal(together.probabilities.argmax(1), 100 * hundreds + 10 * tens + ones)
    assert together.probabilities.sum(1) == pytest.approx(torch.ones(6))


def test_frequencies_of_stacked_digits_are_products() -> None:
    labels = torch.tensor([0, 11, 1, 10])  # both digits are 1 in half of the images
    frequencies = class_frequencies(labels, 2)
    assert frequencies.shape == (100,)
    assert frequencies[[0, 1, 10, 11]].tolist() == [0.25] * 4
    assert float(frequencies.sum()) == pytest.approx(1)


def test_real_digits_are_at_the_floor_and_noise_is_far_from_it(judge: Judge, digits: InMemoryImages) -> None:
    floor = judge.floor()
    assert len(judge.real.features) == len(judge.others.features) == 898
    assert floor["modes"] == 10
    assert floor["class_kl"] < 0.02
    assert floor["precision"] > 0.8
    assert floor["coverage"] > 0.8
    noise = judge.scores(extract(judge.network, torch.randint(256, (898, 1, 28, 28), dtype=torch.uint8)))
    assert noise["fid"] > 20 * floor["fid"]
    assert noise["coverage"] < 0.05
    one_class = judge.scores(extract(judge.network, digits.train[digits.labels == 5].repeat(5, 1, 1, 1)))
    assert one_class["modes"] == 1
    assert one_class["recall"] < 0.5 * floor["recall"]


@pytest.mark.nightly
@pytest.mark.slow
def test_real_stacked_digits_have_all_modes() -> None:
    """A thousand modes; of 26,000 images the divergence of frequencies is near (1,000 - 1) / (2 · 26,000)."""
    if not (ROOT / "data" / "MNIST").is_dir():
        pytest.skip("MNIST is not in data/")
    dataset = DATASETS["stacked_mnist"](DatasetRequest(ROOT / "data", (1, 28, 28), 0, CPU))
    stacked = judge_of("stacked_mnist", dataset, 100)
    frequencies = extract(stacked.network, dataset.train[:26_000]).class_frequencies()
    assert int((frequencies > 0).sum()) == 1000
    assert divergence(frequencies, stacked.frequencies) == pytest.approx(0.02, abs=0.004)


class _Pattern(nn.Module):
    """Images that are their latents."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents.view(-1, 1, 28, 28).tanh()


def test_several_processes_make_the_images_of_one(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.quality.generated.EVALUATION_BATCH_SIZE", 40)
    gathered: list = []
    monkeypatch.setattr("gan.quality.batches.gather_object", lambda made: gathered + made)

    def features(rank: int, world_size: int) -> Tensor:
        return generated_features(judge, _Pattern(), 784, 100, Place(rank, world_size, CPU)).features

    whole = features(0, 1)
    monkeypatch.setattr("gan.quality.batches.gather_object", lambda made: gathered.extend(made) or gathered)
    begun: list[tuple[Any, ...]] = []
    monkeypatch.setattr("gan.quality.batches.doing", lambda *activity: begun.append(activity))
    features(1, 2)
    of_rank_1 = [*begun]
    assert len(of_rank_1) == 3 + 1, "of all batches, and of what waits for the other rank"
    assert torch.equal(features(0, 2), whole)
    assert begun == 2 * of_rank_1, "each rank begins as many activities, whatever it does in them"
    assert whole.shape == (100, 64)


def test_a_dataset_without_an_extractor_is_refused(digits: InMemoryImages) -> None:
    with pytest.raises(UsageError, match="--dataset cifar10: there is no feature extractor for it; quality is"):
        judge_of("cifar10", digits)


@pytest.mark.slow
def test_a_run_is_scored_and_the_record_says_how(run_training: Callable[..., Path]) -> None:
    run = run_training(epochs=2, evaluate_every=3000)
    lines = read_json_lines(RunFolder(run).metrics)
    assert ["fid" in line for line in lines] == [False, True]
    record = evaluate(EvaluateOptions(run, num_images=898))
    assert record == json.loads((run / "evaluation.json").read_text())
    assert record["scores"] == pytest.approx({name: lines[1][name] for name in record["scores"]})
    assert record["scores"]["fid"] > 10 * record["floor"]["fid"]
    assert (record["num_images"], record["num_real"], record["split"], record["resize"]) == (
        898,
        898,
        "train",
        "none",
    )
    assert record["extractor"]["sha256"] == EXTRACTORS["digits"].sha256
    assert sum(record["class_frequencies"]) == pytest.approx(1)


@pytest.mark.slow
def test_scores_come_when_they_are_due_though_the_last_batch_is_short(run_training: Callable[..., Path]) -> None:
    run = run_training(recipe="mlp-compact", dataset="digits", batch_size=100, epochs=4, evaluate_every=2 * 1797)
    lines = read_json_lines(RunFolder(run).metrics)
    assert ["fid" in line for line in lines] == [False, True, False, True]


def test_a_run_is_scored_against_the_data_that_it_was_trained_on(
    run_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they were; another directory may be given."""
    asked = []
    digits = DATASETS["digits"]

    def loader(request: DatasetRequest) -> InMemoryImages:
        asked.append(request.data_root)
        return digits(request)

    monkeypatch.setitem(DATASETS, "digits", loader)
    run = run_training(recipe="mlp-compact", dataset="digits", steps=1, data_root=tmp_path / "there")
    evaluate(parse_evaluate_options([str(run), "--num-images", "100"]))
    evaluate(parse_evaluate_options([str(run), "--num-images", "100", "--data-root", "elsewhere"]))
    assert asked == [tmp_path / "there", tmp_path / "there", Path("elsewhere")]


@pytest.mark.slow
def test_scores_are_said_when_there_are_some(
    run_training: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """KID in thousandths, as papers have it, both while training and by evaluate.py."""
    run = run_training(recipe="mlp-compact", dataset="digits", batch_size=600, epochs=2, evaluate_every=1797)
    said = [line for line in capsys.readouterr().out.splitlines() if "scores:" in line]
    scored = read_json_lines(RunFolder(run).metrics)
    assert len(said) == len(scored) == 2
    for text, line in zip(said, scored, strict=True):
        assert line["fid"] > 10_000  # as large as that, it has no exponent
        assert f"fid {line['fid']:,.0f}  kid ×10³ {1000 * line['kid']:.4g}  precision" in text
    record = evaluate(EvaluateOptions(run, num_images=100))
    assert record is not None
    show(record)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "kid ×10³" in line]
    assert row.split()[-2:] == [f"{1000 * record[side]['kid']:.4g}" for side in ("scores", "floor")]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_get_the_scores_of_one(run_training: Callable[..., Path]) -> None:
    run = run_training(steps=5)
    one = evaluate(EvaluateOptions(run, num_images=1500))
    run_two_processes("../gan/evaluate.py", run, "--num-images", 1500, cwd=run)
    two = json.loads((run / "evaluation.json").read_text())
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-6)


FAULTY = """
import sys, time
import gan.quality.generated
from gan.evaluate import run

gan.quality.generated.apply = lambda *_: time.sleep(1000)
sys.exit(run())
"""


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_a_process_that_hangs_ends_the_other_one_with_a_line(
    run_training: Callable[..., Path], tmp_path: Path
) -> None:
    run = run_training(steps=5)
    worker = tmp_path / "worker.py"
    worker.write_text(FAULTY)
    began = time.monotonic()
    done = launch_two_processes(worker, run, "--num-images", 1500, "--distributed-timeout", 15, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(
        r"^error: rank 0 on \S+: not done with the features of generated batch 1 in 15 s "
        r"\(--distributed-timeout\); rank 1 waited for it in gathering the features$",
        done.stdout + done.stderr,
        re.MULTILINE,
    ), done.stdout + done.stderr
    assert time.monotonic() - began < 100
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no such run; name a directory that training wrote"),
        (["nowhere", "--num-images", "9"], "error: --num-images 9: must be at least 100"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, script: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, said = script(main, *arguments)
    assert code == 2
    assert said == f"{message}\n"


def test_a_run_on_images_without_classes_is_refused(run_training: Callable[..., Path]) -> None:
    run = run_training(steps=1, dataset="synthetic")
    with pytest.raises(UsageError, match="--dataset synthetic: there is no feature extractor"):
        evaluate(EvaluateOptions(run))


def test_a_generator_of_other_classes_than_the_data_is_refused(
    run_training: Callable[..., Path], tmp_path: Path
) -> None:
    """It does not know some of them, or would make images of class 0 alone."""
    data = tmp_path / "data"
    for name in ("cat", "dog"):
        write_images(data / name, 5)
    run = run_training(
        recipe="cgan", dataset="folder", data_root=data, batch_size=5, steps=1, num_workers=0, num_threads=1
    )
    write_images(data / "emu", 1)
    with pytest.raises(UsageError, match=r"generator has 2 classes, and --dataset folder with .* has 3; give the"):
        evaluate(EvaluateOptions(run, extractor="digits"))
    for name in ("dog", "emu"):
        shutil.rmtree(data / name)
    with pytest.raises(UsageError, match=r"generator has 2 classes, and --dataset folder with .* has 0; give the"):
        evaluate(EvaluateOptions(run, extractor="digits"))


def test_generated_classes_follow_the_data(judge: Judge) -> None:
    told = []

    class Told(nn.Module):
        def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
            told.append(labels)
            return torch.zeros(len(latents), 1, 28, 28)

    generated_features(judge, Told(), 5, 2000, Place(0, 1, CPU), conditional=True)
    frequencies = torch.bincount(torch.cat(told), minlength=10) / 2000
    assert frequencies.tolist() == pytest.approx(judge.frequencies.tolist(), abs=0.03)
