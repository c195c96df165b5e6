"""--keep-best: the best epoch's checkpoint and generator stay, whatever happens afterwards."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gan.evaluate
import gan.loop
import gan.sample
import gan.session.saving
from gan.errors import UsageError
from gan.files.json_files import read_json_lines
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.options import TrainOptions, parse_train_options
from gan.training.checkpoints import checkpoint_of, load_checkpoint, load_generator, newest_first
from gan.training.progress import Best
from gan.training.state import TrainState
from tests.conftest import run_two_processes
from tests.gan.small_run import SMALL

EPOCH = 1797
"""Images."""
FIDS = [900.0, 300.0, 500.0, 400.0]
"""Of four epochs: the second is the best."""


class Killed(Exception):  # noqa: N818 - stands for a kill
    """Nothing is saved on the way out."""


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give epochs these scores, in turn, instead of judging images."""

    def use(fids: list[float], **others: list[float]) -> None:
        monkeypatch.setattr("gan.session.run.judge_of", lambda *_, **__: Told())
        monkeypatch.setattr("gan.session.epochs.features_of_state", lambda _judge, state, *_: state.progress.epoch)

        class Told:
            def scores(self, epoch: int) -> dict[str, float]:
                return {"fid": fids[epoch], **{name: values[epoch] for name, values in others.items()}}

    return use


def options_for(output: Path, **settings: object) -> TrainOptions:
    kept = {"evaluate_every": EPOCH, "keep_best": "fid", "epochs": 4, "keep_checkpoints": 1}
    return TrainOptions(**{**SMALL, **kept, "output": output, **settings})  # type: ignore[arg-type]


def images_of_best(run: Path) -> int:
    folder = RunFolder(run)
    best = load_generator(folder.best_generator, folder.generator_config).best
    assert best is not None
    return best.images_seen


def test_the_best_epoch_stays_though_later_ones_are_worse(tmp_path: Path, scored: Callable[..., None]) -> None:
    scored(FIDS)
    run = train(options_for(tmp_path / "run")).root
    folder = RunFolder(run)
    best = Best("fid", 300.0, 2, 2 * EPOCH)
    assert newest_first(folder.checkpoints) == [checkpoint_of(folder.checkpoints, n * EPOCH) for n in (4, 2)]
    assert load_generator(folder.best_generator, folder.generator_config).best == best
    assert json.loads(folder.summary.read_text())["best"] == best.to_json()
    saved = load_checkpoint(checkpoint_of(folder.checkpoints, 2 * EPOCH)).tensors
    for name, weights in load_file(folder.best_generator).items():
        assert torch.equal(weights, saved[f"generator.network.{name}"])
    assert folder.best_generator.read_bytes() != folder.generator.read_bytes()


@pytest.mark.slow
def test_more_is_better_for_scores_that_are_no_distances(tmp_path: Path, scored: Callable[..., None]) -> None:
    scored(FIDS, coverage=[0.1, 0.2, math.nan, 0.3])
    run = train(options_for(tmp_path / "run", keep_best="coverage")).root
    assert images_of_best(run) == 4 * EPOCH


@pytest.mark.slow
def test_nothing_changes_without_it(tmp_path: Path, scored: Callable[..., None]) -> None:
    scored(FIDS)
    folder = train(options_for(tmp_path / "run", keep_best=None))
    assert not folder.best_generator.exists()
    assert "best" not in load_checkpoint(newest_first(folder.checkpoints)[0]).counters
    assert len(newest_first(folder.checkpoints)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", ["step 9", "the best generator"])
def test_a_killed_run_ends_with_the_same_best(
    killed_at: str, tmp_path: Path, scored: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third epoch, and between the checkpoint of the best epoch and its generator."""
    scored(FIDS)
    whole = train(options_for(tmp_path / "whole"))
    options = options_for(tmp_path / "killed")
    with monkeypatch.context() as kill:
        if killed_at == "step 9":
            steps = iter(range(1, 9))
            step = gan.loop.take_step
            kill.setattr("gan.loop.take_step", lambda *inputs: next(steps) and step(*inputs))
        else:
            save = gan.session.saving.save_generator

            def save_unless_second_best(
                path: Path, state: TrainState, best: Best | None = None, **copies: object
            ) -> None:
                if best is not None and best.epoch == 2:
                    raise Killed
                save(path, state, best, **copies)  # type: ignore[arg-type]

            kill.setattr("gan.session.saving.save_generator", save_unless_second_best)
        with pytest.raises((StopIteration, Killed, RuntimeError)):
            train(options)
    train(replace(options, resume=True))
    killed = RunFolder(tmp_path / "killed")
    assert killed.best_generator.read_bytes() == whole.best_generator.read_bytes()
    for ours, theirs in zip(newest_first(killed.checkpoints), newest_first(whole.checkpoints), strict=True):
        assert load_checkpoint(ours).counters["best"] == load_checkpoint(theirs).counters["best"]


def test_epochs_of_a_run_are_scored_by_one_extractor(tmp_path: Path, scored: Callable[..., None]) -> None:
    """Of scores of two, none is the best."""
    scored([900.0])
    options = options_for(tmp_path / "run", epochs=None, steps=1)
    train(options)
    with pytest.raises(UsageError, match=r"--extractor is mnist now, but .* has scored epochs by digits, whose"):
        train(replace(options, resume=True, steps=2, extractor="mnist"))
    train(replace(options, resume=True, steps=2, extractor="digits"))


@pytest.mark.slow
def test_another_score_begins_anew_and_none_ends_it(tmp_path: Path, scored: Callable[..., None]) -> None:
    scored([*FIDS, 200.0, 100.0], coverage=[0.5, 0.4, 0.3, 0.2, 0.1, 0.6])
    options = options_for(tmp_path / "run")
    train(options)
    train(replace(options, resume=True, keep_best="coverage", epochs=5))
    folder = RunFolder(tmp_path / "run")
    assert load_generator(folder.best_generator, folder.generator_config).best == Best(
        "coverage", 0.1, 5, 5 * EPOCH
    )
    train(replace(options, resume=True, keep_best="none", epochs=6))
    assert images_of_best(folder.root) == 5 * EPOCH


def test_a_run_that_ended_within_an_epoch_keeps_the_best_of_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: Callable[..., None]
) -> None:
    """Its epoch has another score at its end, and one line."""
    scored([900.0, 300.0, 400.0])
    options = options_for(tmp_path / "run", epochs=None, steps=5)
    folder = train(options)
    within = json.loads(folder.summary.read_text())["best"]
    assert (within["epoch"], within["value"]) == (2, 300.0)
    assert EPOCH < within["images_seen"] < 2 * EPOCH
    scored([900.0, 350.0, 400.0])
    train(replace(options, resume=True, steps=9))
    assert [line["fid"] for line in read_json_lines(folder.metrics)] == [900.0, 350.0, 400.0]
    assert json.loads(folder.summary.read_text())["best"] == within
    assert images_of_best(folder.root) == within["images_seen"]
    assert checkpoint_of(folder.checkpoints, within["images_seen"]).exists()


@pytest.mark.parametrize(("num_kept", "is_missing"), [(4, False), (2, False), (2, True)])
def test_the_best_generator_is_that_of_the_checkpoints_that_are_left(
    num_kept: int,
    is_missing: bool,
    tmp_path: Path,
    scored: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The fourth epoch is the best, and its checkpoint gets lost; trained again, it is worse than the second.

    If only two are kept, that of the second epoch is gone, too.
    """
    scored([900.0, 300.0, 500.0, 200.0])
    options = options_for(tmp_path / "run", checkpoint_every=EPOCH, keep_checkpoints=num_kept)
    folder = train(options)
    newest_first(folder.checkpoints)[0].write_bytes(b"damaged")
    if is_missing:
        folder.best_generator.unlink()
    scored([900.0, 300.0, 500.0, 600.0])
    capsys.readouterr()
    train(replace(options, resume=True))
    assert json.loads(folder.summary.read_text())["best"]["epoch"] == 2
    out = capsys.readouterr().out
    why = "missing, and so is the checkpoint of epoch 2" if is_missing else "of epoch 4, fid 200 after"
    assert (f"note: {folder.best_generator} is {why}" in out) == (num_kept == 2)
    assert (f"the best generator   {folder.best_generator} (epoch 2" in out) == (num_kept == 4)
    if not is_missing:
        assert images_of_best(folder.root) == (2 if num_kept == 4 else 4) * EPOCH


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--keep-best fid", "--keep-best fid: there are no scores without --evaluate-every IMAGES"),
        ("--keep-best fd --evaluate-every 9", "--keep-best fd: unknown; did you mean fid?"),
    ],
)
def test_bad_input_is_one_line(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_train_options(line.split())
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_pictures_and_scores_say_which_generator_they_are_of(
    tmp_path: Path, scored: Callable[..., None], script: Callable[..., tuple[int, str, str]]
) -> None:
    scored(FIDS)
    run = train(options_for(tmp_path / "run")).root
    last = (0, "note: the generator of the last checkpoint; --best takes the best one\n")
    best = (0, "note: the best generator: epoch 2, fid 300 after 3,594 images\n")
    script(lambda: None)  # takes what training printed
    pictures = {}
    for flags, expected in (((), last), (("--best",), best)):
        code, out, said = script(gan.sample.main, run, "grid", *flags)
        assert (code, said) == expected
        pictures[flags] = Path(out.strip()).read_bytes()
        code, out, said = script(gan.evaluate.main, run, "--num-images", 100, *flags)
        assert (code, said) == expected
    assert pictures[()] != pictures["--best",]
    records = [json.loads((run / name).read_text()) for name in ("evaluation.json", "evaluation_best.json")]
    assert "best" not in records[0]
    assert records[1]["best"]["epoch"] == 2
    assert records[0]["scores"]["fid"] != records[1]["scores"]["fid"]


def test_the_best_of_a_run_that_keeps_none_is_refused(
    run: Path, script: Callable[..., tuple[int, str, str]]
) -> None:
    for main in (gan.sample.main, gan.evaluate.main):
        code, _, said = script(main, run, "--best")
        assert code == 2
        assert said.startswith(f"error: --best: {run / 'generator_best.safetensors'} does not exist; train with ")
        assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_keep_the_same_best(tmp_path: Path) -> None:
    """Every process saves, though only one of them has the scores."""
    run_two_processes(
        "../gan/train.py",
        *("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 300, "--num-threads", 1),
        *("--epochs", 4, "--evaluate-every", EPOCH, "--keep-best", "coverage", "--keep-checkpoints", 1),
        *("--output", tmp_path / "run"),
        cwd=tmp_path,
    )
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    best = max(lines, key=lambda line: (line["coverage"], -line["epoch"]))
    assert images_of_best(tmp_path / "run") == best["images_seen"]
