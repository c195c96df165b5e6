"""DATASETS: the datasets by name."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torchvision
from torch import Tensor

from gan.data.folder import FolderImages
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.images import ImageShape, to_uint8
from gan.process.memory import require_memory
from gan.seeds import derive_seed

SYNTHETIC_NUM_IMAGES = 10_000
SYNTHETIC_BYTES = 2**29
"""Of large images there are as many as this holds, or as a step takes: throughput needs no more."""
SYNTHETIC_NUM_CLASSES = 10
DEFAULT_IMAGE_SHAPE: ImageShape = (1, 28, 28)


class ImageSource(Protocol):
    """What the loop needs of a dataset."""

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height, width."""

    @property
    def test(self) -> Tensor | None:
        """Held-out uint8 images (N, C, H, W), where the dataset has them."""

    @property
    def labels(self) -> Tensor | None:
        """Class of each image, int64 (N,) on the training device, where the dataset has them."""

    @property
    def test_labels(self) -> Tensor | None:
        """Class of each held-out image."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What a user calls the classes, in the order of `labels`; None where they have no names of their own."""

    @property
    def files_sha256(self) -> str | None:
        """Of the names of the image files, relative to their root and in order; None where there are none."""

    @property
    def description(self) -> str | None:
        """What a user should know of what was read, in one line."""

    def __len__(self) -> int: ...

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images (B, C, H, W) of each batch of indices, fp32 in [-1, 1], on the training device."""


@dataclass(frozen=True)
class DatasetRequest:
    """What a dataset loader may need to know.

    Attributes:
        data_root: Where its files are.
        image_shape: What images without a shape of their own are made to.
        num_workers: Processes that read images.
        device: Where what lives in memory does.
        images_per_step: Real images that a step takes, over all processes.
        check: Read the headers of image files at once, so that a damaged one is named before training begins.
    """

    data_root: Path
    image_shape: ImageShape
    num_workers: int
    device: torch.device
    images_per_step: int = 1
    check: bool = True


def _digits(request: DatasetRequest) -> InMemoryImages:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    large = torch.nn.functional.interpolate(small, DEFAULT_IMAGE_SHAPE[1:], mode="bicubic")
    labels = torch.from_numpy(digits.target).long().to(request.device)
    return InMemoryImages(to_uint8(large.clamp(0, 1) * 2 - 1).to(request.device), labels=labels)


def _synthetic(request: DatasetRequest) -> InMemoryImages:
    image_bytes = math.prod(request.image_shape)
    at_hand = max(SYNTHETIC_BYTES // image_bytes, request.images_per_step)
    num_images = min(SYNTHETIC_NUM_IMAGES, at_hand)
    require_memory("--dataset synthetic: its images", num_images * image_bytes, request.device)
    generator = torch.Generator().manual_seed(derive_seed(0, "synthetic"))
    shape = (num_images, *request.image_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(SYNTHETIC_NUM_CLASSES, (num_images,), generator=generator)
    return InMemoryImages(images.to(request.device), labels=labels.to(request.device))


def _stacked_mnist(request: DatasetRequest) -> InMemoryImages:
    """Three MNIST digits drawn without replacement as the channels of an image: 1,000 classes.

    Metz et al. 2017 (arXiv:1611.02163, section 3.3.1); as many images as MNIST has, the same at every call.
    """
    digits = _torchvision("stacked_mnist", torchvision.datasets.MNIST)(request)
    generator = torch.Generator().manual_seed(derive_seed(0, "stacked"))

    def stacked(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        orders = [torch.randperm(len(images), generator=generator).to(images.device) for _ in range(3)]
        hundreds, tens, ones = (labels[order] for order in orders)
        return torch.cat([images[order] for order in orders], 1), 100 * hundreds + 10 * tens + ones

    assert digits.test is not None
    assert digits.labels is not None
    assert digits.test_labels is not None
    train, labels = stacked(digits.train, digits.labels)
    test, test_labels = stacked(digits.test, digits.test_labels)
    return InMemoryImages(train, test, labels, test_labels)


def _folder(request: DatasetRequest) -> FolderImages:
    if not request.data_root.is_dir():
        raise UsageError(
            f"--data-root {request.data_root}: not a directory; --dataset folder reads images below it"
        )
    return FolderImages(
        request.data_root, request.image_shape, request.num_workers, request.device, check=request.check
    )


def _torchvision(
    name: str, dataset: type[torchvision.datasets.VisionDataset]
) -> Callable[["DatasetRequest"], InMemoryImages]:
    def load(request: DatasetRequest) -> InMemoryImages:
        folder = request.data_root / getattr(dataset, "base_folder", f"{dataset.__name__}/raw")
        _reject_damaged(folder, getattr(dataset, "resources", []))
        splits: list[Tensor] = []
        labels: list[Tensor] = []
        for train in (True, False):
            try:
                split = dataset(request.data_root, train=train, download=True)
            except (RuntimeError, ValueError, OSError, EOFError) as error:
                raise UsageError(
                    f"--dataset {name}: not found under --data-root {request.data_root} and not downloaded "
                    f"({' '.join(str(error).split())}); put its files into {folder}, or use --dataset digits, "
                    "which needs no download"
                ) from error
            images = torch.as_tensor(split.data)
            images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
            require_memory(f"--dataset {name}: its images", images.nbytes, request.device)
            splits.append(images.to(request.device))
            labels.append(torch.as_tensor(split.targets).long().to(request.device))
        return InMemoryImages(splits[0], splits[1], labels[0], labels[1])

    return load


def _reject_damaged(folder: Path, resources: Sequence[tuple[str, str]]) -> None:
    """Raise for an archive whose MD5 is wrong, or an extracted file that differs from its archive in size."""
    for name, md5 in resources:
        archive, extracted = folder / name, folder / Path(name).stem
        if archive.exists() and hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise UsageError(f"{archive}: damaged (its MD5 is not {md5}); delete it to have it downloaded again")
        if extracted.exists():
            size, expected = extracted.stat().st_size, _idx_size(extracted)
            if size != expected:
                raise UsageError(
                    f"{extracted}: damaged ({size} bytes instead of {expected}); delete it to have it made again"
                )


def _idx_size(path: Path) -> int:
    """Return the size in bytes that an IDX file's own header announces."""
    with path.open("rb") as file:
        header = file.read(4)
        num_dimensions = header[3] if len(header) == 4 else 0
        dimensions = file.read(4 * num_dimensions).ljust(4 * num_dimensions, b"\xff")
    sizes = np.frombuffer(dimensions, dtype=">u4")
    return 4 + 4 * num_dimensions + math.prod(int(size) for size in sizes)


Loader = Callable[[DatasetRequest], ImageSource]
DATASETS: dict[str, Loader] = {
    "digits": _digits,
    "mnist": _torchvision("mnist", torchvision.datasets.MNIST),
    "fashion_mnist": _torchvision("fashion_mnist", torchvision.datasets.FashionMNIST),
    "cifar10": _torchvision("cifar10", torchvision.datasets.CIFAR10),
    "stacked_mnist": _stacked_mnist,
    "synthetic": _synthetic,
    "folder": _folder,
}
SHAPED_DATASETS = ("synthetic", "folder")
"""Datasets that take `--image-shape`."""
