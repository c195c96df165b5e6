"""From an image file to uint8 pixels: one rule for each kind of file, and one line for a file that breaks it.

- Samples of 16 bits keep their full range: 0 is black, 65535 white. Whole numbers of 32 bits have no white of
  their own, and are read in the same way; refused are those above 65535, and files with all below 256.
- Floating point is black at 0 and white at 1; what lies outside is refused.
- What shows through is composed on white: alpha, transparent palette entries, transparent colours.
- The orientation in a file's metadata is applied. Colour profiles are not.
- Of an animation or several pages, the first is taken.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gan.errors import UsageError
from gan.images import ImageShape

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What a file may be whatever its name says. Others are not tried: some run programs."""
LEAST_16_BITS, MOST_16_BITS = 256, 65535
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""TIFF tags."""
WHITE_IS_ZERO, SIGNED = 0, 2
"""Values of PHOTOMETRIC and SAMPLE_FORMAT."""
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Pillow's raw modes of few bits, and what it multiplies their samples with."""


def read_image(path: Path, image_shape: ImageShape) -> NDArray[np.uint8]:
    """Return an image resized and centre-cropped to `image_shape`, as (C, H, W).

    Raises:
        UsageError: It cannot be read, in one line that names it.
    """
    channels, height, width = image_shape
    with _opened(path) as image:
        pixels = _in_eight_bits(image).convert("L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(pixels, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)


def has_frames(path: Path) -> bool:
    """Read a file's header and say whether more than one frame or page follows; raise UsageError as `read_image`.

    A photograph with a preview of itself (MPO) has one.
    """
    with _opened(path) as image:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever a damaged or hostile one makes Pillow raise becomes one line.

    Pillow is given no path, because it maps a file that it has the path of: one that shrinks then ends the
    process, and TIFFs that lie on their side come out as noise (13.0).
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            path.open("rb") as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            yield image
    except Exception as error:
        raise UsageError(f"{path}: not a readable image ({_reason(path, error)}); repair or remove it") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        empty = path.stat().st_size == 0
        return "empty file" if empty else f"none of {', '.join(FORMATS)}, or damaged at its beginning"
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _in_eight_bits(file: Image.Image) -> Image.Image:
    """Return an opened image upright, as opaque L or RGB."""
    tiles = getattr(file, "tile", [])
    raw_mode = tiles[0][3] if tiles else None
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
    """Apply the orientation that the metadata tell; where they are damaged, the pixels still count."""
    try:
        return image.copy() if image.format == "TIFF" else ImageOps.exif_transpose(image)  # TIFFs are loaded so
    except Exception:
        return image.copy()


def _grey(image: Image.Image, tags: Mapping[int, Any]) -> NDArray[np.uint8]:
    """Return samples of more than 8 bits as uint8, by the TIFF tags or, without any, as 16 bits."""
    samples = np.asarray(image)
    lowest, highest = float(samples.min()), float(samples.max())
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    signed = tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    if image.mode == "F":
        white, kind, fits = 1, "floating point", 0 <= lowest <= highest <= 1  # NaN does not
    else:
        white, kind = MOST_16_BITS if bits > 16 else 2 ** (bits - signed) - 1, f"whole numbers of {bits} bits"
        fits = lowest >= 0 and highest <= white and (bits <= 16 or highest == 0 or highest >= LEAST_16_BITS)
    if not fits:
        raise ValueError(
            f"{kind} from {lowest:g} to {highest:g}, where 0 is black and {white} white; save it with 8 bits"
        )
    grey: NDArray[np.uint8] = np.rint(samples.astype(np.float32) * np.float32(255 / white)).astype(np.uint8)
    return 255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey


def _transparent_colour(image: Image.Image, grey_step: int, *, wide: bool) -> NDArray[np.uint8] | None:
    """Return where a PNG's pixels have the one colour that it declares transparent, 0 or 255; None without one.

    Pillow compares it with pixels that it has scaled or cut to 8 bits, and finds it in few of the cases.

    Args:
        image: Loaded.
        grey_step: What samples of fewer than 8 bits were multiplied with.
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
