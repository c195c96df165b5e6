"""Fixtures that several files of tests share."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore

from gan.loop import train
from gan.options import TrainOptions
from tests.conftest import NodesMaker
from tests.gan.inception_weights import SmallBackbone
from tests.gan.node_runs import NodeRun
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
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a store that is served as a launcher's agent does."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield server.port
    del server


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 33 pictures in three classes."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def node_run(nodes: NodesMaker, tmp_path: Path) -> Callable[..., NodeRun]:
    """Make the nodes of a run, and the directory that they share."""

    def make(num_nodes: int, **how: Any) -> NodeRun:
        folder = tmp_path / how.pop("name", "shared")
        folder.mkdir(exist_ok=True)
        return NodeRun(nodes(num_nodes), folder, **how)

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as each of several processes has: spectral norm begins in fp32, and sums in its order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SmallBackbone:
    """Inception-v3's stand-in. The cache is of the test alone, and few subsets take little time."""
    monkeypatch.setattr("gan.quality.paper.KID_SUBSETS", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = SmallBackbone()
    monkeypatch.setattr("gan.evaluate.inception_of", lambda *_: small)
    return small
