"""Image files to uint8 pixels: one rule for each kind of file, and one line for a file that breaks it.

- Samples of 16 bits keep their full range: 0 is black, 65535 is white.
- Whole numbers of 32 bits do not say what white is, and are read as if they had 16 bits. A file is refused if one
  is above 65535, or if all are below 256.
- Floating point is black at 0 and white at 1. A file with other values is refused.
- Transparency (alpha, transparent palette entries, a transparent colour) is composed on white.
- The orientation in a file's metadata is applied. Colour profiles are not.
- The first image of an animation, or of several pages, is taken.
"""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gan.errors import UsageError
from gan.images import ImageShape

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Formats that are tried, whatever a file's name says. Others are not: some run programs."""
WHITE_16_BITS = 65535
LEAST_MAXIMUM_32_BITS = 256
"""Whole numbers of 32 bits that are all smaller are taken for 8 bits in disguise, and refused."""
BITS_PER_SAMPLE = 258
"""A TIFF tag, as the next two."""
PHOTOMETRIC = 262
SAMPLE_FORMAT = 339
WHITE_IS_ZERO = 0
"""A value of PHOTOMETRIC."""
SIGNED = 2
"""A value of SAMPLE_FORMAT."""
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""By Pillow's raw modes of few bits, the factor by which it multiplies their samples."""


@dataclass(frozen=True)
class ImageBytes:
    """The contents of an image file that is a part of another file.

    Attributes:
        name: What messages call it.
        content: Its bytes.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def open(self, _mode: str) -> BinaryIO:
        """Return the contents as an open file, as `Path.open` does."""
        return io.BytesIO(self.content)


ImageFile = Path | ImageBytes
"""An image file: encoded pixels."""


def read_image(source: ImageFile, image_shape: ImageShape) -> NDArray[np.uint8]:
    """Return an image resized and centre-cropped to `image_shape`, as (C, H, W).

    Raises:
        UsageError: The file cannot be read; the line names it and says why.
    """
    channels, height, width = image_shape
    with _opened(source) as image:
        pixels = _in_eight_bits(image).convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(pixels, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)


def has_frames(source: ImageFile) -> bool:
    """Read a file's header and say whether it has several frames or pages.

    A photograph with a preview of itself (MPO) has one.

    Raises:
        UsageError: The header cannot be read.
    """
    with _opened(source) as image:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))


@contextmanager
def _opened(source: ImageFile) -> Iterator[Image.Image]:
    """Open an image; whatever a damaged or hostile file makes Pillow raise becomes one UsageError.

    Pillow gets an open file, not a path. It would map a path's file into memory: a file that shrinks then ends the
    process, and TIFFs that lie on their side come out as noise (Pillow 13.0).
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            source.open("rb") as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            yield image
    except Exception as error:
        raise unreadable(source, _reason(source, error)) from error


def unreadable(source: object, reason: str) -> UsageError:
    """Return the error for an image that cannot be read.

    Args:
        source: Its name, or what has its name.
        reason: Why it cannot be read.
    """
    return UsageError(f"{source}: not a readable image ({reason}); repair or remove it")


def _reason(source: ImageFile, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with source.open("rb") as file:
            is_empty = not file.read(1)
        return "empty file" if is_empty else f"none of {', '.join(FORMATS)}, or damaged at its beginning"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _in_eight_bits(file: Image.Image) -> Image.Image:
    """Return an opened image upright, as opaque L or RGB."""
    tiles = getattr(file, "tile", [])
    raw_mode = tiles[0][3] if tiles else None  # loading forgets it
    file.load()
    tags = dict(getattr(file, "tag_v2", {}))
    image = _upright(file)
    transparent = _transparent_colour(image, GREY_STEPS.get(str(raw_mode), 1), wide=raw_mode == "RGB;16B")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_grey(image, tags))
    if transparent is not None:
        image = image.convert("RGB")
        image.paste("white", mask=Image.fromarray(transparent))
    elif _has_alpha(image):
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
        image = opaque
    image.info.pop("transparency", None)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation in the metadata. Damaged metadata are ignored: the pixels still count."""
    try:
        return image.copy() if image.format == "TIFF" else ImageOps.exif_transpose(image)  # TIFFs load upright
    except Exception:
        return image.copy()


def _grey(image: Image.Image, tags: Mapping[int, Any]) -> NDArray[np.uint8]:
    """Return samples of more than 8 bits as uint8, scaled as the TIFF tags say; without tags they have 16 bits.

    Raises:
        ValueError: Samples lie outside of black to white.
    """
    samples = np.asarray(image)
    lowest = float(samples.min())
    highest = float(samples.max())
    if image.mode == "F":
        kind = "floating point"
        white = 1
        fits = 0 <= lowest <= highest <= white  # false for NaN
    else:
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
        kind = f"whole numbers of {bits} bits"
        white = WHITE_16_BITS if bits > 16 else 2 ** (bits - signed) - 1
        disguised = bits > 16 and 0 < highest < LEAST_MAXIMUM_32_BITS
        fits = lowest >= 0 and highest <= white and not disguised
    if not fits:
        raise ValueError(
            f"{kind} from {lowest:g} to {highest:g}, where 0 is black and {white} white; save it with 8 bits"
        )
    grey: NDArray[np.uint8] = np.rint(samples.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    return 255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey


def _transparent_colour(image: Image.Image, grey_step: int, *, wide: bool) -> NDArray[np.uint8] | None:
    """Return 255 where a PNG's pixels have the one colour that it declares transparent, else 0; None without one.

    Pillow scales or cuts samples to 8 bits, but not the colour, and would seldom find it. It is scaled here.

    Args:
        image: A loaded image.
        grey_step: The factor by which samples of fewer than 8 bits were multiplied.
        wide: Whether 16 bits a channel were cut to their upper 8.
    """
    colour = image.info.get("transparency")
    if colour is None or image.mode not in ("1", "L", "I", "I;16", "RGB"):
        return None
    if image.mode == "RGB":
        matches = (np.asarray(image) == [level >> 8 if wide else level for level in colour]).all(-1)
    else:
        matches = np.asarray(image.convert("L") if image.mode == "1" else image) == colour * grey_step
    return np.where(matches, np.uint8(255), np.uint8(0))


def _has_alpha(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in WITH_ALPHA or "transparency" in image.info or palette.endswith("A")
