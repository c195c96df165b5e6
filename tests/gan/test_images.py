import gzip
import hashlib
import multiprocessing
import os
import shutil
import signal
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from PIL import Image

from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.folder import FolderImages
from gan.data.in_memory import InMemoryImages
from gan.data.order import Sampling, batches_per_epoch, epoch_batches, shard
from gan.errors import UsageError
from gan.images import to_uint8, to_unit_range

CPU = torch.device("cpu")
DATA = Path(__file__).resolve().parent.parent.parent / "data"


def request(root: Path = DATA, shape: tuple[int, int, int] = (1, 28, 28)) -> DatasetRequest:
    return DatasetRequest(root, shape, 0, CPU)


def test_scaling_is_torchvisions_and_is_undone_exactly() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    by_torchvision = (levels.float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(to_unit_range(levels), by_torchvision, rtol=0, atol=2e-7)
    assert to_unit_range(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(to_uint8(to_unit_range(levels)), levels)


def test_shuffled_epochs_see_every_image_once_and_keep_the_partial_batch() -> None:
    batches = epoch_batches(103, 10, Sampling.SHUFFLE, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [10] * 10 + [3]
    assert torch.cat(batches).sort().values.tolist() == list(range(103))
    assert torch.cat(batches).tolist() != list(range(103))


def test_dropping_the_partial_batch() -> None:
    batches = epoch_batches(103, 10, Sampling.SHUFFLE_DROP_LAST, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [10] * 10
    assert len(set(torch.cat(batches).tolist())) == 100


def test_drawing_with_replacement_repeats_as_often_as_chance_says() -> None:
    batches = epoch_batches(10_000, 100, Sampling.WITH_REPLACEMENT, seed=0, epoch=0)
    assert [len(batch) for batch in batches] == [100] * 100
    distinct = torch.cat(batches).unique().numel() / 10_000
    assert distinct == pytest.approx(1 - 1 / 2.718281828, abs=0.02)


@pytest.mark.parametrize("sampling", Sampling)
def test_order_depends_on_seed_and_epoch_alone(sampling: Sampling) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(epoch_batches(50, 7, sampling, seed=seed, epoch=epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert len(epoch_batches(50, 7, sampling, seed=1, epoch=2)) == batches_per_epoch(50, 7, sampling)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_shards_make_up_the_batch_in_order(num_processes: int, size: int) -> None:
    batch = torch.arange(size)
    shards = [shard(batch, rank, num_processes) for rank in range(num_processes)]
    assert torch.equal(torch.cat(shards), batch)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_in_memory_images_stream_what_the_indices_say() -> None:
    train = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 2, 3).contiguous()
    dataset = InMemoryImages(train)
    wanted = [torch.tensor([5, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([3])]
    streamed = [to_uint8(batch)[:, 0, 0, 0].tolist() for batch in dataset.stream(wanted)]
    assert streamed == [[5, 0], [], [3]]
    assert dataset.image_shape == (1, 2, 3)


def test_digits_are_bundled_and_upright() -> None:
    dataset = DATASETS["digits"](request())
    assert (len(dataset), dataset.image_shape) == (1797, (1, 28, 28))
    (zero,) = dataset.stream([torch.tensor([0])])
    zero = to_uint8(zero)[0, 0].float()
    assert zero.max() > 230
    assert zero[12:16, 12:16].mean() < 30, "the middle of a 0 is empty"
    assert zero[4:8, 10:18].max() > 150, "its top is not"


def test_synthetic_images_have_the_shape_asked_for() -> None:
    dataset = DATASETS["synthetic"](request(shape=(3, 8, 9)))
    assert dataset.image_shape == (3, 8, 9)
    (batch,) = dataset.stream([torch.arange(1000)])
    assert to_uint8(batch).float().mean() == pytest.approx(127.5, abs=1)


def test_there_are_no_more_synthetic_images_than_throughput_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 of small ones; of large ones what a fixed memory holds, or a step takes. The first are the same."""
    load = DATASETS["synthetic"]
    all_of_them = load(request())
    assert len(all_of_them) == 10_000
    monkeypatch.setattr("gan.data.datasets.SYNTHETIC_BYTES", 100 * 28 * 28)
    few = load(request())
    assert len(few) == 100
    assert torch.equal(few.train, all_of_them.train[:100])
    assert len(load(replace(request(), images_per_step=320))) == 320


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(*_: object, **__: object) -> None:
        pytest.fail("it has begun to make them")

    monkeypatch.setattr("gan.data.datasets.torch.randint", made)
    large = replace(request(shape=(3, 100_000, 100_000)), images_per_step=64)
    with pytest.raises(
        UsageError,
        match=r"^--dataset synthetic: its images take 1,788\.1 GiB of memory, of which .* are free; give",
    ):
        DATASETS["synthetic"](large)


def test_networks_that_do_not_fit_into_memory_are_refused_before_they_are_made(
    run_training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gan.data.datasets.SYNTHETIC_BYTES", 1)
    monkeypatch.setattr("gan.run.build_state", lambda *_, **__: pytest.fail("it has begun to make them"))
    line = r"^--image-shape: networks of [\d,]+ parameters for images of 3×8192×8192 take [\d,.]+ GiB of memory"
    with pytest.raises(UsageError, match=line):
        run_training(dataset="synthetic", image_shape=(3, 8192, 8192), batch_size=2, steps=1)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    for index in range(7):
        folder = tmp_path / "pictures" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20), (index * 30, 0, 255)).save(folder / f"{index}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("not an image")
    return tmp_path / "pictures"


def test_subdirectories_of_a_folder_are_its_classes(picture_folder: Path) -> None:
    labels = FolderImages(picture_folder, (3, 8, 8), 0, CPU).labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    Image.new("RGB", (8, 8)).save(picture_folder / "of no class.png")
    assert FolderImages(picture_folder, (3, 8, 8), 0, CPU).labels is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_folder_streams_the_order_it_is_given_epoch_after_epoch(picture_folder: Path, num_workers: int) -> None:
    dataset = FolderImages(picture_folder, (3, 8, 8), num_workers, CPU)
    assert len(dataset) == 7
    reds = [0, 60, 120, 180, 30, 90, 150]  # sorted by path: class0 before class1
    for order in ([[6, 0], [3]], [[1, 2, 4]]):
        batches = [to_uint8(batch) for batch in dataset.stream([torch.tensor(batch) for batch in order])]
        assert [batch.shape[1:] for batch in batches] == [(3, 8, 8)] * len(order)
        assert [batch[:, 0, 4, 4].tolist() for batch in batches] == [[reds[i] for i in batch] for batch in order]


def test_folder_in_grey(picture_folder: Path) -> None:
    (batch,) = FolderImages(picture_folder, (1, 8, 8), 0, CPU).stream([torch.tensor([0, 1])])
    assert batch.shape == (2, 1, 8, 8)


DAMAGE = {
    "text": lambda _: b"no image",
    "truncated": lambda content: content[:60],
    "broken chunk": lambda content: content[:37] + b"?" + content[38:],
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_image_is_named_in_one_line(picture_folder: Path, damage: str, num_workers: int) -> None:
    """Before any is needed where its header tells, or else when it comes."""
    path = picture_folder / "class0" / "0.png"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    line = r"^[^\n]*0\.png: not a readable image[^\n]*$"
    if damage == "text":
        with pytest.raises(UsageError, match=line):
            FolderImages(picture_folder, (3, 8, 8), num_workers, CPU)
    dataset = FolderImages(picture_folder, (3, 8, 8), num_workers, CPU, check=False)
    with pytest.raises(UsageError, match=line):
        list(dataset.stream([torch.tensor([1, 0])]))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        DATASETS["folder"](request(tmp_path))
    with pytest.raises(UsageError, match="not a directory"):
        DATASETS["folder"](request(tmp_path / "nowhere"))


# --- MNIST, from files of our own -----------------------------------------------------------------------------


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four tiny IDX archives in MNIST's layout, with MD5s to match."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for name, shape in (
        ("train-images-idx3-ubyte", (6, 28, 28)),
        ("train-labels-idx1-ubyte", (6,)),
        ("t10k-images-idx3-ubyte", (3, 28, 28)),
        ("t10k-labels-idx1-ubyte", (3,)),
    ):
        count = torch.Size(shape).numel()
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        path = raw / f"{name}.gz"
        path.write_bytes(gzip.compress(header + bytes(i % 10 for i in range(count)), mtime=0))
        resources.append((path.name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path


def test_mnist_archives_on_disk_need_no_network(small_mnist: Path) -> None:
    dataset = DATASETS["mnist"](request(small_mnist))
    assert (len(dataset), dataset.image_shape) == (6, (1, 28, 28))
    assert dataset.test is not None
    assert dataset.test.shape == (3, 1, 28, 28)
    assert to_uint8(next(dataset.stream([torch.tensor([0])]))).flatten()[:4].tolist() == [0, 1, 2, 3]


def test_absent_dataset_points_to_the_bundled_one(small_mnist: Path) -> None:
    shutil.rmtree(small_mnist / "MNIST")
    with pytest.raises(UsageError, match=r"^--dataset mnist: not found[^\n]*--dataset digits[^\n]*$"):
        DATASETS["mnist"](request(small_mnist))


def test_wrong_md5_is_named(small_mnist: Path) -> None:
    path = small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte\.gz: damaged"):
        DATASETS["mnist"](request(small_mnist))


@pytest.mark.parametrize("size", [0, 3, 6, 15, 16, 4620])
def test_truncated_extracted_file_is_named(small_mnist: Path, size: int) -> None:
    DATASETS["mnist"](request(small_mnist))
    path = small_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match=rf"train-images-idx3-ubyte: damaged \({size} bytes instead of"):
        DATASETS["mnist"](request(small_mnist))


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="MNIST is not in data/")
def test_real_mnist() -> None:
    dataset = DATASETS["mnist"](request())
    assert (len(dataset), dataset.image_shape) == (60_000, (1, 28, 28))
    (train,) = dataset.stream([torch.arange(60_000)])
    assert train.add(1).div(2).mean().item() == pytest.approx(0.1307, abs=1e-4)


def test_workers_that_cannot_share_their_batches_are_refused(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderImages(picture_folder, (3, 64, 64), 2, torch.device("cpu"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(UsageError, match=r"--num-workers 2: they need .* MiB of shared memory"):
        next(source.stream([torch.arange(4)]))


def test_shared_memory_is_asked_for_again_only_by_larger_batches(
    picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is free after the first epoch, the workers hold a part themselves."""
    source = FolderImages(picture_folder, (3, 8, 8), 1, torch.device("cpu"))
    list(source.stream([torch.arange(4), torch.arange(2)]))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert len(list(source.stream([torch.arange(3), torch.arange(4)]))) == 2
    with pytest.raises(UsageError, match="shared memory"):
        next(source.stream([torch.arange(5)]))


@pytest.mark.multiprocess
def test_a_signal_to_the_whole_group_does_not_end_the_workers(picture_folder: Path) -> None:
    source = FolderImages(picture_folder, (1, 8, 8), 1, torch.device("cpu"))
    others = {child.pid for child in multiprocessing.active_children()}
    batches = source.stream([torch.arange(2)] * 20)
    next(batches)
    (worker,) = (child for child in multiprocessing.active_children() if child.pid not in others)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)
    assert len(list(batches)) == 19
    del batches, source
    worker.join(20)
    assert worker.exitcode is not None
