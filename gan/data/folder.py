"""Images that are streamed from files."""

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
