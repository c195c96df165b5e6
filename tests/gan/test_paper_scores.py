"""Scores as papers give them, of a run or of other people's images; the cache; nearest neighbours."""

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from gan.data.datasets import DatasetRequest, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.display.evaluation import show
from gan.errors import UsageError
from gan.evaluate import evaluate, main
from gan.files.run_folder import RUN_SCHEMA, RunFolder
from gan.process.place import Place
from gan.quality.feature_cache import FeatureCache, cached_features, contents_of, key_of
from gan.quality.inception import PUBLISHED
from gan.quality.scored import ReadImages, nearest_neighbours
from gan.quality.scores import Features
from gan.run_options import EvaluateOptions, parse_evaluate_options
from tests.conftest import run_two_processes
from tests.gan.inception_weights import SmallBackbone
from tests.gan.small_run import contents, write_images

ALONE = Place(0, 1, torch.device("cpu"))


def short_run(run_training: Callable[..., Path]) -> Path:
    return run_training(recipe="mlp-compact", dataset="digits", batch_size=600, steps=1)


def options_of(run: Path, *more: object) -> EvaluateOptions:
    arguments = [run, "--backbone", "inception", "--num-images", 300, *more]
    return parse_evaluate_options([str(argument) for argument in arguments])


def test_a_run_is_scored_and_the_protocol_is_written(
    run_training: Callable[..., Path], backbone: SmallBackbone, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(run_training)
    record = evaluate(options_of(run))
    assert record == json.loads((run / "evaluation.json").read_text())
    protocol = {
        "num_images": 300,
        "num_real": 1797,
        "num_floor_images": 300,
        "split": "train",
        "resize": "clean",
        "pixels": "uint8",
        "batch_size": 50,
        "nearest": 3,
        "seed": 0,
        "kid_subsets": 3,
        "kid_subset_size": 300,
    }
    assert {name: record[name] for name in protocol} == protocol
    assert record["backbone"] == backbone.stamp()
    assert record["scores"]["fid"] > 10 * record["floor"]["fid"] > 0
    assert record["scores"]["kid"] > 10 * abs(record["floor"]["kid"])
    assert record["floor"]["recall"] > 0.7 > record["scores"]["recall"]
    show(record)
    said = capsys.readouterr().out
    assert "kid_std ×10³" in said
    assert "these are not the published weights" in said
    assert "papers score 50,000 images" in said


def test_real_features_are_computed_once(
    run_training: Callable[..., Path], backbone: SmallBackbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(run_training)
    first = evaluate(options_of(run, "--num-real", 500))
    assert backbone.num_images == 500 + 300
    (kept,) = (tmp_path / "cache" / "gan-bench").iterdir()
    assert f"500 real images kept in {kept}" in capsys.readouterr().out
    second = evaluate(options_of(run, "--num-real", 500))
    assert backbone.num_images == 500 + 300 + 300
    assert second["scores"] == first["scores"]
    assert second["floor"] == first["floor"]
    kept.write_bytes(kept.read_bytes()[:-5])
    third = evaluate(options_of(run, "--num-real", 500))
    assert f"note: {kept}: damaged" in capsys.readouterr().out
    assert third["scores"] == first["scores"]
    evaluate(options_of(run, "--num-real", 400, "--cache", "none"))
    assert len([*(tmp_path / "cache" / "gan-bench").iterdir()]) == 1


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    cache = FeatureCache(tmp_path / "file", said.append)
    features = Features(torch.ones(3, 2, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64))
    assert cached_features(cache, "a" * 64, lambda: features, ALONE, 2) is features
    assert len(said) == 1
    assert "features of real images not kept (" in said[0]


def test_the_key_is_of_the_images_and_of_all_conditions(tmp_path: Path) -> None:
    write_images(tmp_path / "real", 6)
    request = DatasetRequest(tmp_path / "real", (3, 8, 8), 0, ALONE.device)
    rows = torch.tensor([4, 1, 2])

    def contents(chosen: Tensor = rows, batch_size: int = 2) -> str:
        return contents_of(load_dataset("folder", request), chosen, batch_size, ALONE)

    before = contents()
    assert contents(batch_size=3) == before
    assert contents(rows.flip(0)) != before
    untouched = contents(torch.tensor([0, 5]))
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "2.png")
    assert contents() != before, "the name is the same, and the image another"
    assert contents(torch.tensor([0, 5])) == untouched
    memory = InMemoryImages(torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2))
    one, other = (contents_of(memory, torch.tensor(chosen), 2, ALONE) for chosen in ([0, 1, 2], [0, 1, 3]))
    assert one != other
    assert contents_of(memory, rows[:1], 2, Place(1, 2, ALONE.device)) == ""
    assert len({key_of(one, {"resize": name}) for name in ("clean", "legacy")} | {key_of(other, {})}) == 3


def test_features_are_kept_for_each_version_of_pillow_where_it_reads_images(
    backbone: SmallBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = write_images(tmp_path / "fake", 110)
    write_images(tmp_path / "real", 210)
    of_folder = ("--dataset", "folder", "--data-root", tmp_path / "real", "--image-shape", 3, 8, 8)
    kept = []
    for dataset in (of_folder, ("--dataset", "digits", "--num-real", 210)):
        for version in ("12.0", "13.0"):
            monkeypatch.setattr("gan.session.judges.version", {"pillow": version}.__getitem__)
            arguments = ("--images", fake, *dataset, "--backbone", "inception")
            evaluate(parse_evaluate_options([*map(str, arguments)]))
            kept.append(len([*(tmp_path / "cache" / "gan-bench").iterdir()]))
    assert kept == [1, 2, 3, 3]


def test_images_of_a_folder_are_scored_against_a_dataset(
    backbone: SmallBackbone, tmp_path: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    write_images(tmp_path / "real", 210)
    write_images(tmp_path / "fake", 110, levels=100)
    before = sorted(tmp_path.rglob("*.png"))
    code, said, errors = script(
        main,
        *("--images", tmp_path / "fake", "--dataset", "folder", "--data-root", tmp_path / "real"),
        *("--image-shape", 3, 8, 8, "--backbone", "inception", "--neighbours", 3),
    )
    assert (code, errors) == (0, "")
    written = tmp_path / "fake-evaluation.json"
    picture = tmp_path / "fake-evaluation_neighbours.png"
    assert said.splitlines()[-2:] == [str(written), str(picture)]
    record = json.loads(written.read_text())
    assert (record["images"], record["num_images"], record["num_real"]) == (str(tmp_path / "fake"), 110, 210)
    assert "run" not in record
    assert Image.open(picture).size == (8 * 10 + 2, 3 * 10 + 2)
    assert [path for path in sorted(tmp_path.rglob("*.png")) if path != picture] == before


def test_real_images_are_as_good_as_real_ones(backbone: SmallBackbone, tmp_path: Path) -> None:
    write_images(tmp_path / "real", 210)
    arguments = ["--images", tmp_path / "real", "--dataset", "folder", "--data-root", tmp_path / "real"]
    more = ["--image-shape", 3, 8, 8, "--backbone", "inception", "--output", tmp_path / "scores.json"]
    record = evaluate(parse_evaluate_options([str(argument) for argument in (*arguments, *more)]))
    assert record["scores"]["fid"] == pytest.approx(0, abs=1e-6)
    assert record["scores"]["kid"] <= 0, "unbiased only for independent sets"
    assert (record["scores"]["precision"], record["scores"]["recall"]) == (1, 1)
    assert (tmp_path / "scores.json").is_file()


def test_the_classifier_scores_images_of_a_folder_too(run_training: Callable[..., Path], tmp_path: Path) -> None:
    run = short_run(run_training)
    digits = load_dataset("digits", DatasetRequest(Path("data"), (1, 28, 28), 0, ALONE.device))
    (tmp_path / "fake").mkdir()
    for index in range(150):
        Image.fromarray(digits.train[index, 0].numpy()).save(tmp_path / "fake" / f"{index}.png")
    record = evaluate(EvaluateOptions(run=run, images=tmp_path / "fake", neighbours=2))
    assert record["num_images"] == 150
    assert record["extractor"]["dataset"] == "digits"
    assert record["scores"]["modes"] == 10
    assert not (run / "evaluation.json").exists()
    assert (tmp_path / "fake-evaluation_neighbours.png").is_file()


def test_read_images_are_dealt_out_and_found_again(tmp_path: Path) -> None:
    write_images(tmp_path, 9)
    dataset = load_dataset("folder", DatasetRequest(tmp_path, (3, 8, 8), 0, ALONE.device))
    whole = ReadImages(dataset, 100, 4, ALONE, seed=0)
    batches = [whole.batch(index) for index in range(whole.num_batches)]
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert torch.equal(whole.images(torch.tensor([8, 2])), torch.cat(batches)[[8, 2]])
    second = ReadImages(dataset, 100, 4, Place(1, 2, ALONE.device), seed=0)
    assert torch.equal(second.batch(1), batches[1])
    some = ReadImages(dataset, 5, 5, ALONE, seed=0)
    chosen = some.batch(0)
    assert len(chosen) == 5
    assert not torch.equal(chosen, ReadImages(dataset, 5, 5, ALONE, seed=1).batch(0))
    assert torch.equal(some.images(torch.tensor([4])), chosen[4:])


def test_the_nearest_real_images_of_those_that_are_nearest() -> None:
    real = torch.tensor([[0.0], [10.0], [20.0], [21.0]]).double()
    scored = torch.tensor([[3.0], [10.5], [100.0], [20.1]]).double()
    neighbours = nearest_neighbours(real, scored, 3, 2)
    assert neighbours.scored.tolist() == [3, 1, 0]
    assert neighbours.real.tolist() == [[2, 3], [1, 2], [0, 1]]
    assert neighbours.distances[0].tolist() == pytest.approx([0.1, 0.9], rel=1e-5)
    assert nearest_neighbours(real, scored, 9, 9).real.shape == (4, 4)


def test_a_copied_image_stands_beside_its_original(
    backbone: SmallBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the picture is for: the first row is the generated image, and next to it the real one."""
    write_images(tmp_path / "real", 210)
    write_images(tmp_path / "fake", 110, levels=100)
    copied = tmp_path / "real" / "77.png"
    (tmp_path / "fake" / "copy.png").write_bytes(copied.read_bytes())
    arguments = ["--images", tmp_path / "fake", "--dataset", "folder", "--data-root", tmp_path / "real"]
    more = ["--image-shape", 3, 8, 8, "--backbone", "inception", "--neighbours", 4]
    evaluate(parse_evaluate_options([str(argument) for argument in (*arguments, *more)]))
    picture = np.asarray(Image.open(tmp_path / "fake-evaluation_neighbours.png"))
    original = np.asarray(Image.open(copied))
    for left in (2, 12):
        np.testing.assert_array_equal(picture[2:10, left : left + 8], original)


@pytest.mark.parametrize("cache", [pytest.param("kept", marks=pytest.mark.nightly), "none"])
@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_get_the_scores_of_one(
    cache: str, run_training: Callable[..., Path], backbone: SmallBackbone
) -> None:
    """Where features are kept, rank 0 alone has those of real images."""
    run = short_run(run_training)
    directory = cache if cache == "none" else run / cache
    one = evaluate(options_of(run, "--cache", directory))
    arguments = ("--backbone", "inception", "--num-images", 300, "--cache", directory)
    done = run_two_processes("gan/paper_worker.py", run, *arguments, cwd=run)
    two = json.loads((run / "evaluation.json").read_text())
    assert two["scores"] == pytest.approx(one["scores"], rel=1e-9)
    assert two["floor"] == pytest.approx(one["floor"], rel=1e-9)
    assert ("real images from" in done.stdout) == (cache == "kept")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no RUN: name the directory of a run, or images with --images PATH --dataset NAME"),
        (["--images", "x"], "--images: compare with --dataset NAME or with a run's dataset: give one of the two"),
        (["run", "--images", "x", "--best"], "--best: is about a run's generator; leave it out with --images"),
        (["run", "--dataset", "digits"], "--dataset: the run has one; leave it out"),
        (
            ["run", "--num-real", "500"],
            "--num-real: is for --backbone inception; add that, or leave --num-real out",
        ),
        (["run", "--resize", "legacy"], "--resize: is for --backbone inception; add that, or leave --resize out"),
        (["run", "--vgg16-weights", "x"], "--vgg16-weights: is for --ppl; add that, or leave it out"),
        (["run", "--neighbours", "101"], "--neighbours 101: must be at most 100"),
        (["--images", "x", "--dataset", "folder"], "--dataset folder: add --image-shape C H W, as in 3 64 64"),
        (
            ["--images", "x", "--dataset", "digits", "--image-shape", "3", "8", "8"],
            "--image-shape: --dataset digits has images of one shape; leave it out",
        ),
        (
            ["run", "--backbone", "inception", "--extractor", "mnist"],
            "--extractor: names a classifier; leave it out with --backbone inception",
        ),
        (
            ["--images", "nowhere", "--dataset", "digits"],
            "--images nowhere: not found; name a folder of images or a zip",
        ),
        (
            ["--images", ".", "--dataset", "digits", "--image-column", "b"],
            "--image-column b: --dataset digits has no columns; leave it out, or use hf",
        ),
        (["--images", ".", "--dataset", "digits", "--output", "no/a.json"], None),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str | None, script: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, said = script(main, *arguments)
    assert code == 2
    assert said.count("\n") == 1
    expected = message or "--output no/a.json: a directory, or in none; name a file in a directory that exists"
    assert said == f"error: {expected}\n"


def test_scores_that_could_not_be_written_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[..., tuple[int, str, str]]
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("gan.session.evaluation.TemporaryFile", refuse)
    monkeypatch.setattr("gan.evaluate.load_dataset", lambda *_: pytest.fail("the data are read"))
    code, _, said = script(main, "--images", tmp_path, "--dataset", "digits")
    advice = "name another file with --output"
    assert (code, said) == (2, f"error: {tmp_path}-evaluation.json: Read-only file system; {advice}\n")


def test_images_that_cannot_be_read_are_named_with_their_option(
    tmp_path: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    """A run reads such files, too, but by `--data-root`."""
    damaged, empty = tmp_path / "images.zip", tmp_path / "empty"
    damaged.write_bytes(b"no zip")
    empty.mkdir()
    for images, reason in ((damaged, "not a readable zip ("), (empty, "no images; ")):
        code, _, said = script(main, "--images", images, "--dataset", "digits")
        assert code == 2
        assert said.startswith(f"error: --images {images}: {reason}")
        assert "--dataset" not in said
        assert said.count("\n") == 1


def test_scores_do_not_replace_what_is_scored(tmp_path: Path, script: Callable[..., tuple[int, str, str]]) -> None:
    images = tmp_path / "images.zip"
    images.write_bytes(b"of a user")
    code, _, said = script(main, "--images", images, "--dataset", "digits", "--output", images)
    assert (code, said) == (2, f"error: --output {images}: the same file is read; name another\n")
    assert images.read_bytes() == b"of a user"


def test_scores_replace_nothing_that_training_wrote(
    run: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    before = contents(run)
    for output in filter(Path.is_file, before):
        written = RunFolder(run).root / output.relative_to(run).parts[0]
        if output.name == ".lock":
            continue
        code, _, said = script(main, run, "--output", output)
        assert (code, said) == (2, f"error: --output {output}: training writes {written}; name another file\n")
    assert contents(run) == before


def test_scores_stay_if_their_picture_fails(
    run: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[..., tuple[int, str, str]]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("gan.evaluate.picture_of_neighbours", fail)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)  # of the training, which asked for nothing
    code, _, said = script(main, run, "--num-images", 100, "--neighbours", 2)
    assert (code, "error: Input/output error" in said) == (1, True)
    assert "note: bf16: no effect on scores; images are made and scored in fp32 and eager\n" in said
    assert json.loads(RunFolder(run).evaluation.read_text())["num_images"] == 100


@pytest.mark.parametrize("flag", ["--inception-weights", "--data-root", "the run's"])
def test_scores_replace_neither_weights_nor_real_images(
    flag: str, tmp_path: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    images = write_images(tmp_path / "images", 1)
    read = tmp_path / "read"
    read.write_bytes(b"of a user")
    begun = {"options": {"data_root": str(read)}, "identity": {"dataset": "zip"}, "strategy": {}}
    RunFolder(tmp_path).config.write_text(json.dumps({"schema": RUN_SCHEMA, **begun}))
    against = [tmp_path] if flag == "the run's" else ["--dataset", "digits", "--backbone", "inception", flag, read]
    code, _, said = script(main, *against, "--images", images, "--output", read)
    assert (code, said) == (2, f"error: --output {read}: the same file is read; name another\n")
    assert read.read_bytes() == b"of a user"


def test_missing_weights_are_said_before_anything_is_read(
    run_training: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    run = short_run(run_training)
    monkeypatch.setattr("gan.evaluate.load_dataset", lambda *_: pytest.fail("the data are read"))
    with pytest.raises(UsageError, match=f"--inception-weights: not named.*{PUBLISHED.address}"):
        evaluate(options_of(run))


def test_a_missing_library_is_one_line(run_training: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(
        UsageError, match=r"needs the library torch-fidelity .* pip install 'gan-bench\[inception\]'"
    ):
        evaluate(options_of(short_run(run_training)))


def test_what_was_written_before_is_still_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A record without a backbone is of a classifier."""
    names = ("fid", "kid", "precision")
    extractor = {"dataset": "digits", "sha256": "7bc975f1" * 8, "accuracy": 0.9}
    record: dict[str, Any] = {
        "run": "runs/old",
        "dataset": "digits",
        "num_images": 100,
        "num_real": 100,
        "extractor": extractor,
        "scores": dict.fromkeys(names, 0.5),
        "floor": dict.fromkeys(names, 0.1),
    }
    show(record)
    assert "classifier 7bc975f1 (accuracy 90.0%)" in capsys.readouterr().out


def test_options_keep_their_defaults() -> None:
    """Command lines of before mean what they meant."""
    options = parse_evaluate_options(["runs/a", "--num-images", "500"])
    assert options == EvaluateOptions(Path("runs/a"), num_images=500)
    assert options.backbone == "classifier"
    assert replace(options, num_images=10_000) == EvaluateOptions(Path("runs/a"))
