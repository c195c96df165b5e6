"""Fixtures that several files of tests share."""

import shutil
from pathlib import Path

import pytest

from gan.loop import train
from gan.options import TrainOptions
from tests.gan.small_run import SMALL
from tests.gan.stored_images import write_pictures


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, made once; `run` has a copy of it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    return train(TrainOptions(**SMALL, epochs=2, output=output)).root  # type: ignore[arg-type]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 33 pictures in three classes."""
    return write_pictures(tmp_path / "pictures")
