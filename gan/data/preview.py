"""What is known of a dataset without loading or downloading its images."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torchvision.datasets.utils import check_integrity

from gan.data.datasets import (
    SYNTHETIC_NUM_CLASSES,
    DatasetRequest,
    ImageSource,
    load_dataset,
    require_undamaged,
    split_name,
    synthetic_num_images,
    torchvision_folder,
)
from gan.data.in_memory import InMemoryImages
from gan.data.streamed import StreamedImages
from gan.errors import UsageError
from gan.images import ImageShape
from gan.process.memory import require_memory


@dataclass(frozen=True)
class _Published:
    """A dataset of torchvision's, with the sizes that its authors give."""

    files: type[torchvision.datasets.VisionDataset]
    image_shape: ImageShape
    num_classes: int
    num_images: int = 60_000
    num_test_images: int = 10_000


PUBLISHED = {
    "mnist": _Published(torchvision.datasets.MNIST, (1, 28, 28), 10),
    "fashion_mnist": _Published(torchvision.datasets.FashionMNIST, (1, 28, 28), 10),
    "cifar10": _Published(torchvision.datasets.CIFAR10, (3, 32, 32), 10, num_images=50_000),
    "cifar100": _Published(torchvision.datasets.CIFAR100, (3, 32, 32), 100, num_images=50_000),
    "stacked_mnist": _Published(torchvision.datasets.MNIST, (3, 28, 28), 1000),
}


@dataclass(frozen=True)
class DatasetPreview:
    """A dataset whose images need not be there.

    Attributes:
        images: Tensors of the right shapes and types on the meta device, which have no contents. Image files are
            listed as in training, and the bundled digits are loaded, because both take little.
        num_classes: 0 without labels.
        origin: Where training finds the images, for a reader.
    """

    images: ImageSource
    num_classes: int
    origin: str

    @property
    def num_bytes(self) -> int:
        """Bytes that the dataset takes on the training device of each process; no images that are streamed."""
        names = ("train", "test", "labels", "test_labels")
        tensors = (getattr(self.images, name, None) for name in names)
        num_bytes: int = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        if isinstance(self.images, StreamedImages) and self.images.fits:
            num_bytes += self.images.num_bytes
        return num_bytes


def preview(name: str, request: DatasetRequest) -> DatasetPreview:
    """Return what is known of the dataset `name` before it is loaded.

    Raises:
        UsageError: What training would refuse: files that are damaged or not there, or too little memory.
    """
    if name == "synthetic":
        num_images = synthetic_num_images(request)
        images = _without_contents(request.image_shape, num_images, 0)
        return DatasetPreview(images, SYNTHETIC_NUM_CLASSES, "random pixels, made when training begins")
    if name in PUBLISHED:
        published = PUBLISHED[name]
        require_undamaged(published.files, request.data_root)
        image_bytes = math.prod(published.image_shape)
        require_memory(f"--dataset {name}: its images", published.num_images * image_bytes, request.device)
        images = _without_contents(published.image_shape, published.num_images, published.num_test_images)
        folder = torchvision_folder(published.files, request.data_root)
        there = _place_of(published.files, folder)
        origin = f"in {there}"
        if there is None:
            _require_directory_for(name, folder, request)
            origin = f"not in {folder} yet, or not all of it, so training downloads it"
        return DatasetPreview(images, published.num_classes, origin)
    dataset = load_dataset(name, request)
    num_classes = 0 if dataset.labels is None else int(dataset.labels.max()) + 1
    return DatasetPreview(dataset, num_classes, _origin(name, request))


def _origin(name: str, request: DatasetRequest) -> str:
    """Say where a dataset is that was read."""
    key, hub_name = split_name(name)
    if hub_name:
        return "from the Hugging Face Hub, in the cache of its library"
    stored = {
        "folder": f"image files below {request.data_root}",
        "zip": f"image files in {request.data_root}",
        "hf": f"rows of the files below {request.data_root}",
    }
    return stored.get(key, "bundled with scikit-learn")


def _place_of(files: type[torchvision.datasets.VisionDataset], folder: Path) -> Path | None:
    """Return where torchvision would find all files of a dataset, or their archives; None if it downloads some."""
    if batches := (*getattr(files, "train_list", ()), *getattr(files, "test_list", ())):
        if all(check_integrity(folder / name, md5) for name, md5 in batches):
            return folder
        archive = folder.parent / getattr(files, "filename", "")
        return archive if check_integrity(archive, getattr(files, "tgz_md5", None)) else None
    archives = [folder / name for name, _ in getattr(files, "resources", ())]
    unpacked = [path.with_suffix("") for path in archives]
    return folder if any(all(path.exists() for path in paths) for paths in (unpacked, archives)) else None


def _require_directory_for(name: str, folder: Path, request: DatasetRequest) -> None:
    """Raise UsageError where a download could not be kept, because a part of the path is a file."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(
            f"--dataset {name}: not found under --data-root {request.data_root}, where {existing} is not a "
            "directory; choose another, or use --dataset digits, which needs no download"
        )


def _without_contents(image_shape: ImageShape, num_images: int, num_test_images: int) -> InMemoryImages:
    with torch.device("meta"):
        return InMemoryImages(
            train=torch.empty(num_images, *image_shape, dtype=torch.uint8),
            test=torch.empty(num_test_images, *image_shape, dtype=torch.uint8) if num_test_images else None,
            labels=torch.empty(num_images, dtype=torch.int64),
            test_labels=torch.empty(num_test_images, dtype=torch.int64) if num_test_images else None,
        )
