"""Datasets are what they say they are, or refused: bundled, synthetic, and from files of our own."""

import gzip
import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.data.preview import preview
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


@pytest.mark.parametrize(
    ("name", "images_per_step", "advice"),
    [
        ("cifar10", 64, "free some"),
        ("synthetic", 64, "give a smaller --image-shape or --batch-size, or free some"),
        ("synthetic", 1, "give a smaller --image-shape, or free some"),
    ],
)
def test_too_little_memory_names_what_the_dataset_takes(
    name: str, images_per_step: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan.process.memory.free_on_host", lambda: 1)
    with pytest.raises(UsageError, match=f"are free; {advice}$"):
        preview(name, replace(request(), images_per_step=images_per_step))


def test_networks_that_do_not_fit_into_memory_are_refused_before_they_are_made(
    run_training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gan.data.datasets.SYNTHETIC_BYTES", 1)
    monkeypatch.setattr("gan.session.run.build_state", lambda *_, **__: pytest.fail("it has begun to make them"))
    line = r"^--image-shape: networks of [\d,]+ parameters for images of 3×8192×8192 take [\d,.]+ GiB of memory"
    with pytest.raises(UsageError, match=line):
        run_training(dataset="synthetic", image_shape=(3, 8192, 8192), batch_size=2, steps=1)
    assert not list(tmp_path.iterdir())


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images"):
        DATASETS["folder"](request(tmp_path))
    with pytest.raises(UsageError, match="not a directory"):
        DATASETS["folder"](request(tmp_path / "nowhere"))


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
