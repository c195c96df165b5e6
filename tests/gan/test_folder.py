"""Folders of image files are streamed in the order asked for; what cannot be read is named."""

import multiprocessing
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from gan.data.folder import FolderImages
from gan.data.streamed import SECONDS_TO_SAVE, StreamedImages
from gan.errors import UsageError
from gan.images import to_uint8
from gan.loop import POLL_SECONDS

CPU = torch.device("cpu")


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    for index in range(7):
        folder = tmp_path / "pictures" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (index * 30, 0, 255)).save(folder / f"{index}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    return tmp_path / "pictures"


def test_subdirectories_of_a_folder_are_its_classes(picture_folder: Path) -> None:
    labels = StreamedImages(FolderImages(picture_folder), (3, 8, 8), 0, CPU).labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    Image.new("RGB", (8, 8)).save(picture_folder / "of no class.png")
    assert StreamedImages(FolderImages(picture_folder), (3, 8, 8), 0, CPU).labels is None


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.multiprocess)])
def test_folder_streams_the_order_it_is_given_epoch_after_epoch(picture_folder: Path, num_workers: int) -> None:
    dataset = StreamedImages(FolderImages(picture_folder), (3, 8, 8), num_workers, CPU)
    assert len(dataset) == 7
    reds = [0, 60, 120, 180, 30, 90, 150]  # sorted by path: class0 before class1
    for order in ([[6, 0], [3]], [[1, 2, 4]]):
        batches = [to_uint8(batch) for batch in dataset.stream([torch.tensor(batch) for batch in order])]
        assert [batch.shape[1:] for batch in batches] == [(3, 8, 8)] * len(order)
        assert [batch[:, 0, 4, 4].tolist() for batch in batches] == [[reds[i] for i in batch] for batch in order]


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (8, 2)])
def test_by_default_no_more_processes_read_than_there_are_cores(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int
) -> None:
    """PyTorch would warn of it, in two lines of its own."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = StreamedImages(FolderImages(picture_folder), (1, 8, 8), None, CPU)
    assert source._loader.num_workers == workers


def test_folder_in_grey(picture_folder: Path) -> None:
    (batch,) = StreamedImages(FolderImages(picture_folder), (1, 8, 8), 0, CPU).stream([torch.tensor([0, 1])])
    assert batch.shape == (2, 1, 8, 8)


DAMAGE = {
    "text": lambda _: b"no image",
    "truncated": lambda content: content[:60],
    "broken chunk": lambda content: content[:37] + b"?" + content[38:],
}


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.multiprocess)])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_image_is_named_in_one_line(picture_folder: Path, damage: str, num_workers: int) -> None:
    """Before any is needed where its header tells, or else when it comes."""
    path = picture_folder / "class0" / "0.png"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    line = r"^[^\n]*0\.png: not a readable image[^\n]*$"
    if damage == "text":
        with pytest.raises(UsageError, match=line):
            StreamedImages(FolderImages(picture_folder), (3, 8, 8), num_workers, CPU)
    dataset = StreamedImages(FolderImages(picture_folder), (3, 8, 8), num_workers, CPU, check=False)
    with pytest.raises(UsageError, match=line):
        list(dataset.stream([torch.tensor([1, 0])]))


def test_workers_that_cannot_share_their_batches_are_refused(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StreamedImages(FolderImages(picture_folder), (3, 64, 64), 2, torch.device("cpu"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(
        UsageError, match=r"MiB of shared memory free, and 2 processes .* need .*; enlarge it .*, if the command"
    ):
        next(source.stream([torch.arange(4)]))


@pytest.mark.multiprocess
def test_shared_memory_is_asked_for_again_only_by_larger_batches(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is free after the first epoch, the workers hold a part themselves."""
    source = StreamedImages(FolderImages(picture_folder), (3, 8, 8), 1, torch.device("cpu"))
    list(source.stream([torch.arange(4), torch.arange(2)]))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert len(list(source.stream([torch.arange(3), torch.arange(4)]))) == 2
    with pytest.raises(UsageError, match="shared memory"):
        next(source.stream([torch.arange(5)]))


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_does_not_end_the_workers(picture_folder: Path, number: int) -> None:
    assert SECONDS_TO_SAVE > 2 * POLL_SECONDS, "or it ends them before several ranks have saved"
    source = StreamedImages(FolderImages(picture_folder), (1, 8, 8), 1, torch.device("cpu"))
    others = {child.pid for child in multiprocessing.active_children()}
    batches = source.stream([torch.arange(2)] * 20)
    next(batches)
    (worker,) = (child for child in multiprocessing.active_children() if child.pid not in others)
    assert worker.pid is not None
    os.kill(worker.pid, number)
    assert len(list(batches)) == 19
    del batches, source
    worker.join(60)
    assert worker.exitcode is not None


@pytest.mark.multiprocess
@pytest.mark.parametrize("end", ["error", "interruption"])
def test_workers_end_at_once_when_an_epoch_is_left(picture_folder: Path, end: str) -> None:
    """Though a traceback or a reference cycle holds the loader."""
    path = picture_folder / "class0" / "0.png"
    path.write_bytes(path.read_bytes()[:60])
    source = StreamedImages(FolderImages(picture_folder), (3, 8, 8), 1, CPU, check=False)
    others = set(multiprocessing.active_children())
    batches = source.stream([torch.tensor([1]), torch.tensor([0]), torch.tensor([2])])
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    if end == "error":
        with pytest.raises(UsageError):
            next(batches)
    else:
        batches.close()
    worker.join(5)
    assert worker.exitcode == 0
    batches = source.stream([torch.tensor([1, 2]), torch.tensor([0])])
    assert len(next(batches)) == 2, "and begin again"
    batches.close()  # the error's traceback is a cycle: workers that the collector frees end after ten seconds
