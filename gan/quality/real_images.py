"""The real images that others are compared with: which ones, and how often their classes occur."""

import torch
from torch import Tensor

from gan.data.datasets import ImageSource
from gan.errors import UsageError
from gan.seeds import derive_seed

LEAST_EVALUATION_IMAGES = 100
"""With fewer images than features (64) a covariance is singular, and few images have near neighbours."""


def require_enough_images(name: str, num_images: int) -> None:
    """Raise UsageError if a dataset has too few images to be scored: each of two halves needs the least number."""
    if num_images < 2 * LEAST_EVALUATION_IMAGES:
        raise UsageError(
            f"--dataset {name}: has {num_images:,} images; to be scored it needs {2 * LEAST_EVALUATION_IMAGES}"
        )


def order_of_real(num_images: int) -> Tensor:
    """Return the rows of a dataset in the order in which real images are compared with, int64 (N,)."""
    source = torch.Generator().manual_seed(derive_seed(0, "real images"))
    return torch.randperm(num_images, generator=source)


def label_frequencies_of(dataset: ImageSource) -> Tensor:
    """Return the frequency of each class of a dataset, shape (C,); one class without labels."""
    labels = torch.zeros(1, dtype=torch.int64) if dataset.labels is None else dataset.labels.cpu()
    return torch.bincount(labels).double() / len(labels)


def class_frequencies(labels: Tensor, channels: int) -> Tensor:
    """Return the frequency of each class, shape (10 ** channels,).

    A class has a decimal digit for each channel. The digits were drawn independently of each other, so the
    frequency of a class is the product of its digits' frequencies. For a thousand classes that is less noisy than
    counting.

    >>> class_frequencies(torch.tensor([0, 11, 1, 10]), channels=2)[[0, 1, 10, 11, 12]].tolist()
    [0.25, 0.25, 0.25, 0.25, 0.0]

    Args:
        labels: Class of each image (N,).
        channels: Channels of an image.
    """
    joint = torch.ones(1, dtype=torch.float64)
    for exponent in reversed(range(channels)):
        digits = torch.bincount(labels // 10**exponent % 10, minlength=10).double() / len(labels)
        joint = torch.outer(joint, digits).flatten()
    return joint
