"""Stored images as a dataset: decoded by worker processes, batch by batch, or once and for all into memory."""

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan.data.decoding import read_image, unreadable
from gan.data.in_memory import InMemoryImages
from gan.data.stored import StoredImages, check_headers
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.images import ImageShape, to_unit_range
from gan.process.memory import size_in_words
from gan.process.signals import ending_signals

SECONDS_TO_SAVE = 60
"""A worker goes on for so long after a signal, so that the training can save itself. Several ranks look for a
signal every five seconds, and launchers wait for half a minute before they kill them."""
SHARED_MEMORY = Path("/dev/shm")
BYTES_AT_ONCE = 2**22
"""Images that are read into memory come from the workers in batches of this size."""
FEW_IMAGES = 256
"""So few are read into memory sooner than workers begin."""
MOST_BY_DEFAULT = 2
"""Processes that read images where nobody says how many, at most."""
SECONDS_UNTIL_NEWS = 3.0
"""Reading into memory is announced if it takes longer."""


class StreamedImages:
    """Stored images, as `read_image` reads them; the attributes are those of `datasets.ImageSource`.

    `contents` is the `description` without what becomes of the images in a training.

    Args:
        stored: The image files and their classes.
        image_shape: Channels, height and width that every image is made to.
        num_workers: Processes that read images; 0 reads them in this one. None for MOST_BY_DEFAULT, or as many as
            there are cores.
        device: Where batches go.
        check: Read the headers of files at once.
        memory_bytes: Most bytes that the images may take in memory.

    Raises:
        UsageError: If checked, a file is no readable image.
    """

    test: Tensor | None = None
    test_labels: Tensor | None = None

    def __init__(
        self,
        stored: StoredImages,
        image_shape: ImageShape,
        num_workers: int | None,
        device: torch.device,
        *,
        check: bool = True,
        memory_bytes: int = 0,
    ) -> None:
        if num_workers is None:
            num_workers = min(MOST_BY_DEFAULT, num_available_cores())
        self.image_shape = image_shape
        self.device = device
        self.class_names = stored.class_names
        self.labels = torch.tensor(stored.labels, device=device) if stored.labels else None
        self.files_sha256 = stored.sha256
        self.num_bytes = len(stored) * math.prod(image_shape)
        self.fits = self.num_bytes <= memory_bytes
        remarks = check_headers(stored) if check else ""
        self._size = size_in_words(self.num_bytes)
        kept = (
            f"in memory, {self._size}"
            if self.fits
            else f"streamed, because {self._size} are more than the memory budget, {size_in_words(memory_bytes)}"
        )
        self.contents = "; ".join(filter(None, (stored.description, remarks)))
        self.description = f"{self.contents}; {kept}"
        self._decoded = _Decoded(stored, image_shape)
        self._batches = _ReplaceableBatches()
        self._fits_batch_size = 0
        self._loader = DataLoader(
            self._decoded,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=_collate,
            worker_init_fn=_outlive_signals_to_the_group,
            persistent_workers=num_workers > 0,
            pin_memory=device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._decoded)

    def stream(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, fp32 in [-1, 1]; an empty batch gives (0, C, H, W).

        Raises:
            UsageError: An image cannot be read, or batches do not fit into shared memory.
        """
        loaded = self._load([batch for batch in batches if len(batch)])
        num_left = len(batches)
        try:
            for batch in batches:
                if len(batch):
                    images = to_unit_range(next(loaded).to(self.device, non_blocking=True))
                else:
                    images = torch.empty(0, *self.image_shape, device=self.device)
                num_left -= 1
                yield images
        finally:
            if num_left:  # an error, or an epoch that is left
                self._end_workers()

    def encoded(self, index: int) -> bytes:
        """Return the contents of an image's file.

        Raises:
            UsageError: It cannot be read.
        """
        source = self._decoded.stored[index]
        try:
            with source.open("rb") as file:
                return file.read()
        except OSError as error:
            raise unreadable(source, error.strerror or type(error).__name__) from error

    def in_memory(self, say: Callable[[str], object]) -> InMemoryImages:
        """Read all images, in their order, into one tensor on the device.

        Args:
            say: Prints a line, which is due if this takes long.

        Raises:
            UsageError: An image cannot be read.
        """
        batches = torch.arange(len(self)).split(max(1, BYTES_AT_ONCE // math.prod(self.image_shape)))
        images = torch.empty(len(self), *self.image_shape, dtype=torch.uint8, device=self.device)
        news = f"reading {len(self):,} images into memory, {self._size}; --memory-budget 0 would stream them"
        news_due = time.monotonic() + SECONDS_UNTIL_NEWS
        loaded = self._load(batches) if len(self) > FEW_IMAGES else self._load_here(batches)
        try:
            for batch in batches:
                images[batch[0] : batch[-1] + 1] = next(loaded)
                if time.monotonic() > news_due:
                    say(news)
                    news_due = math.inf
        finally:
            self._end_workers()
        return InMemoryImages(
            images,
            labels=self.labels,
            class_names=self.class_names,
            files_sha256=self.files_sha256,
            description=self.description,
        )

    def _load(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each batch of indices, uint8, as the workers read them."""
        self._batches.batches = [batch.tolist() for batch in batches]
        self._require_shared_memory(max(map(len, batches), default=0))
        return map(_images_or_raise, self._loader)

    def _end_workers(self) -> None:
        """End the workers at once. If Python ends them as it exits, that takes ten seconds.

        `DataLoader` has no public way: its iterator does so when it is freed, and a traceback may hold it.
        """
        iterator: Any = self._loader._iterator
        if iterator is not None:
            iterator._shutdown_workers()
            self._loader._iterator = None

    def _load_here(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the same without the workers."""
        for batch in batches:
            yield _images_or_raise(_collate([self._decoded[index] for index in batch.tolist()]))

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
                f"{SHARED_MEMORY}: has {free_bytes / 2**20:,.0f} MiB of shared memory free, and {num_workers} "
                f"processes that read images need {needed_bytes / 2**20:,.0f}; enlarge it (docker --shm-size), or "
                "lower --num-workers or --batch-size, if the command has them"
            )
        self._fits_batch_size = batch_size


class _Decoded(Dataset[Tensor | UsageError]):
    """Images by index, as uint8 (C, H, W).

    A complaint is returned, not raised: what a worker raises arrives as the text of its traceback.
    """

    def __init__(self, stored: StoredImages, image_shape: ImageShape) -> None:
        self.stored = stored
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> Tensor | UsageError:
        try:
            return torch.from_numpy(read_image(self.stored[index], self.image_shape).copy())
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


def _images_or_raise(images: Tensor | UsageError) -> Tensor:
    if isinstance(images, UsageError):
        raise images
    return images


def _outlive_signals_to_the_group(_worker: int) -> None:
    """Let a worker outlive a signal to its whole process group while the training saves itself.

    torchrun passes Ctrl-C on to the group, too. It may come to a worker that began before the training handled it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began the worker ends it
    for number in ending_signals() if hasattr(signal, "alarm") else ():
        signal.signal(number, lambda *_: signal.alarm(SECONDS_TO_SAVE))  # the alarm then ends the worker
