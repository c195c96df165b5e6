"""Datasets as uint8 images, and batches as a function of (seed, epoch, position, rank).

Everything but `folder` lives in memory as one uint8 tensor on the training device: a batch is index, convert,
scale. A folder streams through a DataLoader with workers, in the same order.
"""

import hashlib
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan.data.decoding import read_image
from gan.data.listing import check_headers, list_images
from gan.errors import UsageError
from gan.models.networks import ImageShape
from gan.process.memory import require_memory
from gan.process.signals import ending_signals
from gan.seeds import derive_seed

SECONDS_TO_SAVE = 5
GATHERED_BYTES = 4 * 2**20
"""Memory for small batches that are gathered and scaled at once, because their own costs are mostly starts."""
SYNTHETIC_NUM_IMAGES = 10_000
SYNTHETIC_BYTES = 2**29
"""Of large images there are as many as this holds, or as a step takes: throughput needs no more."""
SYNTHETIC_NUM_CLASSES = 10
DEFAULT_IMAGE_SHAPE: ImageShape = (1, 28, 28)


class Sampling(StrEnum):
    """How an epoch's batches are drawn from N images."""

    SHUFFLE = "shuffle"
    """Every image once; the last batch may be smaller."""
    SHUFFLE_DROP_LAST = "shuffle-drop-last"
    """Every image at most once; a smaller last batch is dropped."""
    WITH_REPLACEMENT = "with-replacement"
    """N // batch batches of independent draws."""


def epoch_batches(
    num_images: int, global_batch_size: int, sampling: Sampling, *, seed: int, epoch: int
) -> tuple[Tensor, ...]:
    """Return the indices of each global batch of an epoch, int64 tensors on the CPU.

    The order depends on the seed and the epoch alone, so a position in it is all that resuming needs.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    full_batches = num_images // global_batch_size
    if sampling is Sampling.WITH_REPLACEMENT:
        shape = (full_batches, global_batch_size)
        return torch.randint(num_images, shape, generator=generator).unbind()
    order = torch.randperm(num_images, generator=generator)
    batches: tuple[Tensor, ...] = order.split(global_batch_size)
    return batches[:full_batches] if sampling is Sampling.SHUFFLE_DROP_LAST else batches


def batches_per_epoch(num_images: int, global_batch_size: int, sampling: Sampling) -> int:
    """Return how many batches `epoch_batches` gives."""
    if sampling is Sampling.SHUFFLE:
        return -(-num_images // global_batch_size)
    return num_images // global_batch_size


def shard(batch: Tensor, rank: int, num_processes: int, updates: int = 1) -> Tensor:
    """Return one process's rows of a global batch; sizes differ by at most one, and none is repeated.

    A batch for several updates is shared update by update.
    """
    return torch.cat([part.tensor_split(num_processes)[rank] for part in batch.tensor_split(updates)])


def to_unit_range(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Map uint8 images to [-1, 1]."""
    if dtype == torch.float32:
        return images.div(127.5).sub_(1)  # converts and divides in one pass
    return images.to(dtype).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Map images in [-1, 1] to uint8, rounding to nearest: the inverse of `to_unit_range`."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


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
class InMemoryImages:
    """A dataset as one uint8 tensor (N, C, H, W) on the training device."""

    train: Tensor
    test: Tensor | None = None
    labels: Tensor | None = None
    test_labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    files_sha256: str | None = None
    description: str | None = None

    @property
    def image_shape(self) -> ImageShape:
        """Channels, height, width."""
        _, channels, height, width = self.train.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.train)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices."""
        batch_bytes = 4 * math.prod(self.image_shape) * max(map(len, batches), default=0)
        at_once = max(1, GATHERED_BYTES // max(1, batch_bytes))
        sizes = [len(batch) for batch in batches]
        indices = torch.cat([torch.empty(0, dtype=torch.int64), *batches]).to(self.train.device)
        for first in range(0, len(batches), at_once):
            gathered = sizes[first : first + at_once]
            now, indices = indices.tensor_split([sum(gathered)])
            yield from to_unit_range(self.train[now]).split(gathered)


class _Files(Dataset[Tensor | UsageError]):
    def __init__(self, paths: list[Path], image_shape: ImageShape) -> None:
        self.paths = paths
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | UsageError:
        try:
            return torch.from_numpy(read_image(self.paths[index], self.image_shape).copy())
        except UsageError as error:  # returned, because what a worker raises arrives as the text of its traceback
            return error


def _leave_signals_to_the_owner(_: int) -> None:
    """Let a worker outlive a signal to its whole group for as long as the training takes to save itself."""
    for number in ending_signals() if hasattr(signal, "alarm") else ():
        signal.signal(number, lambda *_: signal.alarm(SECONDS_TO_SAVE))  # which then ends it


def _batch(images: list[Tensor | UsageError]) -> Tensor | UsageError:
    """Stack images, or return the first complaint."""
    complaint = next((image for image in images if isinstance(image, UsageError)), None)
    return complaint or torch.stack([image for image in images if isinstance(image, Tensor)])


class _Plan:
    """A batch sampler whose plan is replaced between epochs, so that workers can persist."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class FolderImages:
    """Image files below a directory, as `read_image` reads them, with the classes of `list_images`."""

    test: Tensor | None = None
    test_labels: Tensor | None = None

    def __init__(
        self, root: Path, image_shape: ImageShape, num_workers: int, device: torch.device, *, check: bool = True
    ) -> None:
        listing = list_images(root)
        self.image_shape = image_shape
        self.device = device
        self.class_names = listing.class_names
        self.labels = torch.tensor(listing.labels, device=device) if listing.labels else None
        names = b"\0".join(os.fsencode(path.relative_to(root)) for path in listing.paths)
        self.files_sha256 = hashlib.sha256(names).hexdigest()
        frames = check_headers(listing.paths) if check else ""
        self.description = f"{listing}; {frames}" if frames else str(listing)
        self._files = _Files(listing.paths, image_shape)
        self._plan = _Plan()
        self._loader = DataLoader(
            self._files,
            batch_sampler=self._plan,
            num_workers=num_workers,
            collate_fn=_batch,
            worker_init_fn=_leave_signals_to_the_owner,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._files)

    def _require_shared_memory(self, batch_size: int) -> None:
        """Raise UsageError where what workers hold ready does not fit; they would wait for ever."""
        place, workers = Path("/dev/shm"), self._loader.num_workers
        if not workers or not place.is_dir():
            return
        needed = workers * (self._loader.prefetch_factor or 0) * batch_size * math.prod(self.image_shape)
        free = shutil.disk_usage(place).free
        if needed > free:
            raise UsageError(
                f"--num-workers {workers}: they need {needed / 2**20:,.0f} MiB of shared memory, and {place} has "
                f"{free / 2**20:,.0f} free; use --num-workers 0, a smaller --batch-size, or docker --shm-size"
            )

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices; an empty batch gives (0, C, H, W)."""
        self._plan.batches = [batch.tolist() for batch in batches if len(batch)]
        self._require_shared_memory(max(map(len, batches), default=0))
        loaded = iter(self._loader)
        for batch in batches:
            if not len(batch):
                yield torch.empty(0, *self.image_shape, device=self.device)
                continue
            images: Tensor | UsageError = next(loaded)
            if isinstance(images, UsageError):
                raise images
            yield to_unit_range(images.to(self.device, non_blocking=True))


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
