"""How often the convolutional networks halve an image."""

from gan.errors import UsageError
from gan.images import ImageShape


def num_halvings(image_shape: ImageShape, least: int, name: str) -> int:
    """Return how often an image is halved until a side is below twice `least`.

    Raises:
        UsageError: A side is odd before that, or the image is too small to be halved.
    """
    _, height, width = image_shape
    halvings = 0
    while min(height, width) >= 2 * least and not height % 2 and not width % 2:
        height, width, halvings = height // 2, width // 2, halvings + 1
    if not halvings or min(height, width) >= 2 * least or max(height, width) >= 4 * least:
        raise UsageError(
            f"--image-shape {' '.join(map(str, image_shape))}: {name} halves images until a side is {least} to "
            f"{2 * least - 1}; use a height and width such as 28, 32 or 64"
        )
    return halvings
