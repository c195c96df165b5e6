"""Stored images: encoded images by index, which is all that a new source of images must offer."""

import time
from collections.abc import Sequence
from typing import Protocol

from gan.data.decoding import ImageFile, has_frames
from gan.errors import UsageError

CHECK_SECONDS = 10.0
"""Headers are read for at most so long; one takes 0.1 to 0.3 ms from a local disk."""
MOST_CLASSES = 2**20
"""A class number from here on is taken for a mistake: the networks would have an embedding for each number."""


class ImageFiles(Protocol):
    """Image files by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ImageFile:
        """Return an image file; raise UsageError where it cannot be read."""


class StoredImages(ImageFiles, Protocol):
    """Image files with their classes. Worker processes get a copy, so what is open must not travel with it."""

    @property
    def labels(self) -> Sequence[int]:
        """Class of each image; empty without classes."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What a user calls the classes, in the order of `labels`; None if they have no names."""

    @property
    def sha256(self) -> str:
        """Digest that tells other data from these."""

    @property
    def description(self) -> str:
        """What was read, in one line."""


def check_headers(images: ImageFiles, seconds: float = CHECK_SECONDS) -> str:
    """Read the headers of image files for at most `seconds`, and return remarks on them; "" if there are none.

    Raises:
        UsageError: Some are no readable images; the line names the first, and says how many.
    """
    end = time.monotonic() + seconds
    damaged: list[str] = []
    num_checked = 0
    num_animated = 0
    for index in range(len(images)):
        if time.monotonic() > end:
            break
        try:
            num_animated += has_frames(images[index])
        except UsageError as error:
            damaged.append(str(error))
        num_checked += 1
    if damaged:
        more = (
            f" (and {len(damaged) - 1:,} more of {num_checked:,} that were looked at)" if len(damaged) > 1 else ""
        )
        raise UsageError(f"{damaged[0]}{more}")
    remarks = [f"of {num_animated:,} with several frames or pages the first is taken"] if num_animated else []
    if num_checked < len(images):
        remarks.append(f"the headers of {num_checked:,} were checked in {seconds:.0f} s")
    return "; ".join(remarks)


def classes_in_words(labels: Sequence[int]) -> str:
    """Say in how many classes images are; the networks have all numbers up to the largest.

    >>> classes_in_words([0, 1, 1]), classes_in_words([3, 7]), classes_in_words([])
    ('in 2 classes', 'in 2 of 8 classes', 'without classes')
    """
    if not labels:
        return "without classes"
    num_taken = len(set(labels))
    num_classes = max(labels) + 1
    some = f"{num_taken:,} of " if num_taken < num_classes else ""
    return f"in {some}{num_classes:,} class{'' if num_classes == 1 else 'es'}"


def require_class(what: str, label: int) -> None:
    """Raise UsageError unless a class is a number from 0 to MOST_CLASSES - 1.

    Args:
        what: Names the image and where its class stands; begins the error.
        label: The class.
    """
    if not 0 <= label < MOST_CLASSES:
        raise UsageError(f"{what} is {label}; classes are numbers from 0 to {MOST_CLASSES - 1:,}")
