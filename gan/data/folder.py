"""Images that are streamed from files by worker processes, in the same order as images in memory."""

import hashlib
import math
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan.data.decoding import read_image
from gan.data.listing import check_headers, list_images
from gan.errors import UsageError
from gan.images import ImageShape, to_unit_range
from gan.process.signals import ending_signals

SECONDS_TO_SAVE = 5
"""A worker goes on for so long after a signal, so that the training can save itself."""
SHARED_MEMORY = Path("/dev/shm")


class FolderImages:
    """Image files below a directory, as `read_image` reads them, with the classes of `list_images`.

    Args:
        root: The directory.
        image_shape: Channels, height and width that every image is made to.
        num_workers: Processes that read images; 0 reads them in this one.
        device: Where batches go.
        check: Read the headers of files at once.

    Raises:
        UsageError: There are no images, or, if checked, a file is no readable image.
    """

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
        remarks = check_headers(listing.paths) if check else ""
        self.description = f"{listing}; {remarks}" if remarks else str(listing)
        self._files = _Files(listing.paths, image_shape)
        self._batches = _ReplaceableBatches()
        self._fits_batch_size = 0
        self._loader = DataLoader(
            self._files,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=_collate,
            worker_init_fn=_outlive_signals_to_the_group,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._files)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, fp32 in [-1, 1]; an empty batch gives (0, C, H, W).

        Raises:
            UsageError: An image cannot be read, or batches do not fit into shared memory.
        """
        self._batches.batches = [batch.tolist() for batch in batches if len(batch)]
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

    def _require_shared_memory(self, batch_size: int) -> None:
        """Raise UsageError where the batches that workers hold ready do not fit; they would wait for ever.

        It is asked again only for larger batches: from then on some of the memory is taken by the workers' own.
        """
        num_workers = self._loader.num_workers
        if batch_size <= self._fits_batch_size or not num_workers or not SHARED_MEMORY.is_dir():
            return
        num_batches = num_workers * (self._loader.prefetch_factor or 0)
        needed_bytes = num_batches * batch_size * math.prod(self.image_shape)
        free_bytes = shutil.disk_usage(SHARED_MEMORY).free
        if needed_bytes > free_bytes:
            raise UsageError(
                f"--num-workers {num_workers}: they need {needed_bytes / 2**20:,.0f} MiB of shared memory, and "
                f"{SHARED_MEMORY} has {free_bytes / 2**20:,.0f} free; use --num-workers 0, a smaller "
                "--batch-size, or docker --shm-size"
            )
        self._fits_batch_size = batch_size


class _Files(Dataset[Tensor | UsageError]):
    """Image files by index, as uint8 (C, H, W).

    A complaint is returned, not raised: what a worker raises arrives as the text of its traceback.
    """

    def __init__(self, paths: list[Path], image_shape: ImageShape) -> None:
        self.paths = paths
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | UsageError:
        try:
            return torch.from_numpy(read_image(self.paths[index], self.image_shape).copy())
        except UsageError as error:
            return error


class _ReplaceableBatches:
    """A batch sampler whose batches are replaced between epochs, so that the loader's workers can persist."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _collate(images: list[Tensor | UsageError]) -> Tensor | UsageError:
    """Stack images, or return the first complaint."""
    complaint = next((image for image in images if isinstance(image, UsageError)), None)
    return complaint or torch.stack([image for image in images if isinstance(image, Tensor)])


def _outlive_signals_to_the_group(_worker: int) -> None:
    """Let a worker outlive a signal to its whole process group while the training saves itself."""
    for number in ending_signals() if hasattr(signal, "alarm") else ():
        signal.signal(number, lambda *_: signal.alarm(SECONDS_TO_SAVE))  # the alarm then ends the worker
