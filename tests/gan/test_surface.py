"""The names by which the regression check measures this revision, and will measure it from later ones."""

import inspect
from pathlib import Path

import pytest
import torch

from bench.turns.side import SURFACE_VERSION
from gan import surface
from gan.errors import UsageError

OPTIONS = {"recipe": "mlp-compact", "batch_size": 4, "num_threads": 1}


def test_names_and_parameters_are_those_of_the_version() -> None:
    """Whatever is changed here takes a new VERSION, and the check's SURFACE_VERSION with it."""
    promised = {
        "recipe_names": "() -> list[str]",
        "prepare": "(options: collections.abc.Mapping[str, typing.Any], most_steps: int = 9223372036854775807)"
        " -> gan.surface.MeasuredRun",
        "MeasuredRun.configuration": "(self) -> dict[str, typing.Any]",
        "MeasuredRun.steps": "(self) -> collections.abc.Iterator[None]",
        "MeasuredRun.epochs": "(self) -> collections.abc.Iterator[None]",
    }
    parts = {"recipe_names": surface.recipe_names, "prepare": surface.prepare} | {
        f"MeasuredRun.{name}": getattr(surface.MeasuredRun, name) for name in ("configuration", "steps", "epochs")
    }
    assert surface.VERSION == SURFACE_VERSION == 1
    assert {name: str(inspect.signature(part)) for name, part in parts.items()} == promised
    assert isinstance(surface.MeasuredRun.device, property)


def test_every_step_and_every_epoch_is_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measured = surface.prepare({**OPTIONS, "an_option_of_another_revision": 1}, most_steps=3)
    progress = measured.state.progress
    steps = measured.steps()
    for number in range(1, 8):
        next(steps)
        assert (progress.step, progress.images_seen) == (number, 4 * number)
    assert progress.epoch == 2
    epochs = surface.prepare({**OPTIONS, "log_every": 2}, most_steps=3)
    for _, number in zip(epochs.epochs(), range(1, 4), strict=False):
        assert (epochs.state.progress.epoch, epochs.state.progress.step) == (number, 3 * number)
    assert list(tmp_path.iterdir()) == []


def test_what_must_be_alike_on_both_sides_is_told() -> None:
    measured = surface.prepare(OPTIONS)
    assert measured.device == torch.device("cpu")
    configuration = measured.configuration()
    assert configuration.pop("images") % 4 == 0
    assert configuration == {
        "device": "cpu",
        "processes": 1,
        "batch_size": 4,
        "image_shape": [1, 28, 28],
        "precision": "no",
        "compiler": "no",
    }
    assert "mlp-compact" in surface.recipe_names()
    with pytest.raises(UsageError, match="batch-size"):
        surface.prepare({**OPTIONS, "batch_size": 0})
