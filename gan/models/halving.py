"""How far the convolutional networks halve an image."""

from gan.errors import UsageError
from gan.images import ImageShape

LEAST_SIDE = 4
"""Pixels; images are halved until their shorter side is below twice this."""


def halve(image_shape: ImageShape, network: str) -> tuple[int, tuple[int, int]]:
    """Return how often an image is halved, and the height and width that are left.

    >>> halve((1, 28, 28), "dcgan")
    (2, (7, 7))
    >>> halve((3, 64, 64), "dcgan")
    (4, (4, 4))

    Args:
        image_shape: Channels, height, width.
        network: Whose images they are; named in the error.

    Raises:
        UsageError: A side is odd while it is still too long, one is more than twice as long as the other, or the
            image is too small to be halved once.
    """
    _, height, width = image_shape
    num_halvings = 0
    while min(height, width) >= 2 * LEAST_SIDE and height % 2 == 0 and width % 2 == 0:
        height //= 2
        width //= 2
        num_halvings += 1
    if num_halvings == 0 or min(height, width) >= 2 * LEAST_SIDE or max(height, width) >= 4 * LEAST_SIDE:
        raise UsageError(
            f"--image-shape {' '.join(map(str, image_shape))}: {network} halves images until a side is "
            f"{LEAST_SIDE} to {2 * LEAST_SIDE - 1}; use a height and width such as 28, 32 or 64"
        )
    return num_halvings, (height, width)
