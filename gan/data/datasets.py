"""DATASETS: by name, what loads a dataset. Those of stored images are streamed, the others are in memory."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torchvision
from torch import Tensor

from gan.data.archive import ZipImages
from gan.data.folder import FolderImages
from gan.data.huggingface import HuggingFaceImages
from gan.data.in_memory import InMemoryImages
from gan.data.stored import StoredImages
from gan.data.streamed import StreamedImages
from gan.errors import UsageError, require_known
from gan.images import ImageShape, to_uint8
from gan.process.memory import memory_for_images, parse_size, require_memory
from gan.seeds import derive_seed

SYNTHETIC_NUM_IMAGES = 10_000
SYNTHETIC_BYTES = 2**29
"""Large synthetic images are fewer: as many as this holds, or as a step takes. Throughput needs no more."""
SYNTHETIC_NUM_CLASSES = 10
DEFAULT_IMAGE_SHAPE: ImageShape = (1, 28, 28)
"""The shape of the digits, and of images of SHAPED_DATASETS without `--image-shape`."""


class ImageSource(Protocol):
    """What the loop needs of a dataset."""

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height, width."""

    @property
    def test(self) -> Tensor | None:
        """Held-out uint8 images (N, C, H, W); None if the dataset has none."""

    @property
    def labels(self) -> Tensor | None:
        """Class of each image, int64 (N,) on the training device; None if the dataset has no classes."""

    @property
    def test_labels(self) -> Tensor | None:
        """Class of each held-out image, int64 (N,); None if there are none."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What a user calls the classes, in the order of `labels`; None if they have no names."""

    @property
    def files_sha256(self) -> str | None:
        """Digest that tells other data from these: of a folder its files' names; None without stored images."""

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
        data_root: The directory of its files, or its file.
        image_shape: The shape of images for a dataset in SHAPED_DATASETS.
        num_workers: Processes that read images; None leaves the number to `StreamedImages`.
        device: The training device.
        images_per_step: Real images that a step takes, over all processes.
        check: Read the headers of image files at once, so that a damaged one is named before training begins.
        hub_name: Name of a dataset on the Hugging Face Hub; empty for a directory.
        image_column: The column of images in a dataset with columns; None for the only one.
        label_column: The column of classes; None for the only one, if there is one.
        memory_budget: A size; stored images that take more are streamed. None for a share of the free memory.
        processes_here: Processes on this host that load the dataset.
    """

    data_root: Path
    image_shape: ImageShape
    num_workers: int | None
    device: torch.device
    images_per_step: int = 1
    check: bool = True
    hub_name: str = ""
    image_column: str | None = None
    label_column: str | None = None
    memory_budget: str | None = None
    processes_here: int = 1


def _digits(request: DatasetRequest) -> InMemoryImages:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    large = torch.nn.functional.interpolate(small, DEFAULT_IMAGE_SHAPE[1:], mode="bicubic")
    labels = torch.from_numpy(digits.target).long().to(request.device)
    return InMemoryImages(to_uint8(large.clamp(0, 1) * 2 - 1).to(request.device), labels=labels)


def synthetic_num_images(request: DatasetRequest) -> int:
    """Return how many images the `synthetic` dataset has.

    Raises:
        UsageError: They do not fit into memory.
    """
    image_bytes = math.prod(request.image_shape)
    num_images = min(SYNTHETIC_NUM_IMAGES, max(SYNTHETIC_BYTES // image_bytes, request.images_per_step))
    lower = "--image-shape or --batch-size" if request.images_per_step > 1 else "--image-shape"
    require_memory("--dataset synthetic: its images", num_images * image_bytes, request.device, lower)
    return num_images


def _synthetic(request: DatasetRequest) -> InMemoryImages:
    num_images = synthetic_num_images(request)
    generator = torch.Generator().manual_seed(derive_seed(0, "synthetic"))
    shape = (num_images, *request.image_shape)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(SYNTHETIC_NUM_CLASSES, (num_images,), generator=generator)
    return InMemoryImages(images.to(request.device), labels=labels.to(request.device))


def _stacked_mnist(request: DatasetRequest) -> InMemoryImages:
    """Return images of three MNIST digits, one a channel, in 1,000 classes.

    Metz et al. 2017, arXiv:1611.02163, section 3.3.1. Each channel is a permutation of MNIST, so there are as many
    images as MNIST has. They are the same at every call.
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
    return FolderImages(request.data_root)


def _zip(request: DatasetRequest) -> ZipImages:
    return ZipImages(request.data_root)


def _hugging_face(request: DatasetRequest) -> HuggingFaceImages:
    columns = (request.image_column, request.label_column)
    return HuggingFaceImages(request.hub_name, request.data_root, *columns)


def _streamed(stored: Callable[[DatasetRequest], StoredImages]) -> Callable[[DatasetRequest], StreamedImages]:
    """Return what loads stored images as a dataset."""

    def load(request: DatasetRequest) -> StreamedImages:
        budget = None if request.memory_budget is None else parse_size("--memory-budget", request.memory_budget)
        return StreamedImages(
            stored(request),
            request.image_shape,
            request.num_workers,
            request.device,
            check=request.check,
            memory_bytes=memory_for_images(request.device, request.processes_here, budget),
        )

    return load


def _torchvision(
    name: str, dataset: type[torchvision.datasets.VisionDataset]
) -> Callable[[DatasetRequest], InMemoryImages]:
    """Return what loads a dataset of torchvision's, downloaded if it is not there."""

    def load(request: DatasetRequest) -> InMemoryImages:
        folder = torchvision_folder(dataset, request.data_root)
        require_undamaged(dataset, request.data_root)
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


def torchvision_folder(dataset: type[torchvision.datasets.VisionDataset], data_root: Path) -> Path:
    """Return the directory below `data_root` in which torchvision keeps the files of a dataset."""
    return data_root / getattr(dataset, "base_folder", f"{dataset.__name__}/raw")


def require_undamaged(dataset: type[torchvision.datasets.VisionDataset], data_root: Path) -> None:
    """Raise UsageError for an archive with a wrong MD5, or an extracted file of another size than its header says.

    Files that are not there are not missed.
    """
    folder = torchvision_folder(dataset, data_root)
    resources: Sequence[tuple[str, str]] = getattr(dataset, "resources", [])
    for name, md5 in resources:
        archive = folder / name
        extracted = folder / Path(name).stem
        if archive.exists() and hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise UsageError(f"{archive}: damaged (its MD5 is not {md5}); delete it to have it downloaded again")
        if extracted.exists():
            size = extracted.stat().st_size
            expected = _idx_size(extracted)
            if size != expected:
                raise UsageError(
                    f"{extracted}: damaged ({size} bytes instead of {expected}); delete it to have it made again"
                )


def _idx_size(path: Path) -> int:
    """Return the size in bytes that the header of an IDX file announces; a huge one if the header is cut short."""
    with path.open("rb") as file:
        header = file.read(4)
        num_dimensions = header[3] if len(header) == 4 else 0
        dimensions = file.read(4 * num_dimensions).ljust(4 * num_dimensions, b"\xff")
    sizes = np.frombuffer(dimensions, dtype=">u4")
    return 4 + 4 * num_dimensions + math.prod(int(size) for size in sizes)


DATASETS: dict[str, Callable[[DatasetRequest], ImageSource]] = {
    "digits": _digits,
    "mnist": _torchvision("mnist", torchvision.datasets.MNIST),
    "fashion_mnist": _torchvision("fashion_mnist", torchvision.datasets.FashionMNIST),
    "cifar10": _torchvision("cifar10", torchvision.datasets.CIFAR10),
    "cifar100": _torchvision("cifar100", torchvision.datasets.CIFAR100),
    "stacked_mnist": _stacked_mnist,
    "synthetic": _synthetic,
    "folder": _streamed(_folder),
    "zip": _streamed(_zip),
    "hf": _streamed(_hugging_face),
}
STORED_DATASETS = ("folder", "zip", "hf")
"""Datasets of stored images, which are kept in memory only if they fit."""
SHAPED_DATASETS = ("synthetic", *STORED_DATASETS)
"""Datasets whose images have no shape of their own, and get it from `--image-shape`."""


def split_name(name: str) -> tuple[str, str]:
    """Return the key of DATASETS for a dataset, and its name on the Hugging Face Hub, if it has one.

    >>> split_name("hf:ylecun/mnist"), split_name("mnist")
    (('hf', 'ylecun/mnist'), ('mnist', ''))
    """
    key, colon, hub_name = name.partition(":")
    return (key, hub_name) if key == "hf" and colon else (name, "")


def require_dataset(name: str) -> None:
    """Raise UsageError unless `name` is that of a dataset."""
    key, hub_name = split_name(name)
    require_known("--dataset", key, DATASETS)
    if key != name and not hub_name.strip():
        raise UsageError(f"--dataset {name}: a name is missing, as in hf:ylecun/mnist; hf alone reads --data-root")


def require_columns(dataset: str, image_column: str | None, label_column: str | None) -> None:
    """Raise UsageError for an option that names a column of a dataset without columns."""
    for flag, value in (("--image-column", image_column), ("--label-column", label_column)):
        if value is not None and split_name(dataset)[0] != "hf":
            raise UsageError(f"{flag} {value}: --dataset {dataset} has no columns; leave it out, or use hf")


def classes_of(dataset: ImageSource) -> list[int]:
    """Return the classes that images have, sorted; numbers up to the largest may be missing."""
    return [] if dataset.labels is None else dataset.labels.unique().tolist()


def load_dataset(name: str, request: DatasetRequest) -> ImageSource:
    """Load a dataset; stored images are not read yet (`held`).

    Raises:
        UsageError: It is not there, or damaged.
    """
    key, hub_name = split_name(name)
    return DATASETS[key](replace(request, hub_name=hub_name))


def held(dataset: ImageSource, say: Callable[[str], object]) -> ImageSource:
    """Return a dataset with its images in memory if they fit, and else as it is.

    Args:
        dataset: What `load_dataset` returned.
        say: Prints a line about what takes long.

    Raises:
        UsageError: An image cannot be read.
    """
    return dataset.in_memory(say) if isinstance(dataset, StreamedImages) and dataset.fits else dataset
