"""Every kind of image file against pixels that numpy computes from its samples."""

import contextlib
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan.data.decoding import has_frames, read_image
from gan.errors import UsageError

HEIGHT, WIDTH = 4, 5
Pixels = np.ndarray


def noise(channels: int, top: int = 255, kind: type = np.uint8) -> Pixels:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(channels + top).integers(0, top, shape, endpoint=True).astype(kind)


def png(samples: Pixels, colour_type: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples (H, W) or (H, W, C), with chunks before its data."""
    flat = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = np.unpackbits(flat[..., None].astype(np.uint8), axis=-1)[..., -depth:].reshape(len(flat), -1)
        rows = [np.packbits(row).tobytes() for row in bits]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in flat]
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, colour_type, 0, 0, 0)
    data = (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    written = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), *chunks, data, (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        written += struct.pack(">I", len(content)) + kind + content + checksum
    return written


def tiff(samples: Pixels, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A little-endian greyscale TIFF in one strip."""
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    short, long = 3, 4
    height, width = samples.shape
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, samples.itemsize * 8),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8),
        (277, short, 1),
        (278, long, height),
        (279, long, len(data)),
        (339, short, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def saved(path: Path, image: Image.Image, **settings: object) -> Path:
    image.save(path, **settings)
    return path


def on_white(colour: Pixels, alpha: Pixels) -> Pixels:
    weight = alpha[..., None] / 255
    return colour * weight + 255 * (1 - weight)


def grey(levels: Pixels) -> Pixels:
    return np.repeat(levels[..., None], 3, -1)


L, RGB, ALPHA, BINARY = noise(1), noise(3), noise(1, 254), noise(1, 1)
WIDE, WIDE_RGB = noise(1, 65535, np.uint16), noise(3, 65535, np.uint16)
FRACTIONS = (L / 255).astype(np.float32)
FEW = noise(1, 3)
PALETTE = np.random.default_rng(0).integers(0, 256, (4, 3), dtype=np.uint8)
PALETTE_ALPHA = np.array([0, 128, 255, 255])
RGBA, LA = np.dstack([RGB, ALPHA]), np.dstack([L, ALPHA])
CMYK = noise(4)
PALETTED = Image.fromarray(FEW).convert("P")
PALETTED.putpalette(PALETTE.flatten().tolist())

Maker = Callable[[Path], object]


def is_png(samples: Pixels, colour_type: int, depth: int, *chunks: tuple[bytes, bytes]) -> Maker:
    return lambda path: path.with_suffix(".png").write_bytes(png(samples, colour_type, depth, *chunks))


def is_tiff(samples: Pixels, **tags: int) -> Maker:
    return lambda path: path.with_suffix(".tif").write_bytes(tiff(samples, **tags))


def is_saved(image: Image.Image, suffix: str, **settings: object) -> Maker:
    return lambda path: image.save(path.with_suffix(suffix), **settings)


def keyed(samples: Pixels, key: Pixels | int, shown: Pixels) -> Pixels:
    """What is shown where one colour is transparent."""
    matches = samples == key if samples.ndim == 2 else (samples == key).all(-1)
    return np.where(matches[..., None], 255, shown)


CASES: dict[str, tuple[Maker, Pixels]] = {
    "L": (is_saved(Image.fromarray(L), ".png"), grey(L)),
    "RGB": (is_saved(Image.fromarray(RGB), ".bmp"), RGB),
    "pgm": (is_saved(Image.fromarray(L), ".pgm"), grey(L)),
    "16-bit pgm": (lambda path: path.with_suffix(".pgm").write_bytes(
        f"P5 {WIDTH} {HEIGHT} 65535\n".encode() + WIDE.astype(">u2").tobytes()), grey(WIDE / 257)),
    "1": (is_png(BINARY, 0, 1), grey(BINARY * 255)),
    "1 in TIFF": (is_saved(Image.fromarray(BINARY * 255).convert("1"), ".tif"), grey(BINARY * 255)),
    "2-bit grey": (is_png(FEW, 0, 2), grey(FEW * 85)),
    "16-bit grey PNG": (is_png(WIDE, 0, 16), grey(WIDE / 257)),
    "16-bit RGB PNG": (is_png(WIDE_RGB, 2, 16), WIDE_RGB / 257),
    "16-bit grey TIFF": (is_tiff(WIDE), grey(WIDE / 257)),
    "16-bit grey TIFF, big-endian": (
        is_saved(Image.frombytes("I;16B", (WIDTH, HEIGHT), WIDE.astype(">u2").tobytes()), ".tif"), grey(WIDE / 257)
    ),
    "16-bit grey TIFF, white is 0": (is_tiff(WIDE, photometric=0), grey(255 - WIDE / 257)),
    "8-bit grey TIFF, white is 0": (is_tiff(L, photometric=0), grey(255 - L)),
    "signed 16-bit TIFF": (
        is_tiff((WIDE >> 1).astype(np.int16), sample_format=2), grey((WIDE >> 1) / 32767 * 255)
    ),
    "32-bit TIFF": (is_tiff(WIDE.astype(np.int32), sample_format=2), grey(WIDE / 257)),
    "float TIFF": (is_tiff(FRACTIONS, sample_format=3), grey(L)),
    "float TIFF, white is 0": (is_tiff(FRACTIONS, sample_format=3, photometric=0), grey(255 - L)),
    "RGBA": (is_saved(Image.fromarray(RGBA), ".png"), on_white(RGB, ALPHA)),
    "RGBA in WebP": (is_saved(Image.fromarray(RGBA), ".webp", lossless=True, exact=True), on_white(RGB, ALPHA)),
    "RGBA in TIFF": (is_saved(Image.fromarray(RGBA), ".tif"), on_white(RGB, ALPHA)),
    "16-bit RGBA PNG": (is_png(np.dstack([WIDE_RGB, WIDE]), 6, 16), on_white(WIDE_RGB / 257, WIDE / 257)),
    "LA": (is_saved(Image.fromarray(LA), ".png"), on_white(grey(L), ALPHA)),
    "LA in TIFF": (is_saved(Image.fromarray(LA), ".tif"), on_white(grey(L), ALPHA)),
    "16-bit LA PNG": (is_png(np.dstack([WIDE, WIDE]), 4, 16), on_white(grey(WIDE / 257), WIDE / 257)),
    "palette": (is_saved(PALETTED, ".png"), PALETTE[FEW]),
    "palette in GIF": (is_saved(PALETTED, ".gif"), PALETTE[FEW]),
    "palette, one entry transparent": (is_saved(PALETTED, ".png", transparency=2), keyed(FEW, 2, PALETTE[FEW])),
    "GIF, one entry transparent": (is_saved(PALETTED, ".gif", transparency=2), keyed(FEW, 2, PALETTE[FEW])),
    "palette with alpha": (
        is_png(FEW, 3, 8, (b"PLTE", PALETTE.tobytes()), (b"tRNS", bytes([0, 128]))),
        on_white(PALETTE[FEW], PALETTE_ALPHA[FEW]),
    ),
    "1, black is transparent": (is_png(BINARY, 0, 1, (b"tRNS", struct.pack(">H", 0))), grey(BINARY * 0 + 255)),
    "1, white is transparent": (is_png(BINARY, 0, 1, (b"tRNS", struct.pack(">H", 1))), grey(BINARY * 255)),
    "2-bit grey, one level transparent": (
        is_png(FEW, 0, 2, (b"tRNS", struct.pack(">H", 1))), keyed(FEW, 1, grey(FEW * 85))
    ),
    "L, one level transparent": (
        is_png(L, 0, 8, (b"tRNS", struct.pack(">H", L[1, 2]))), keyed(L, L[1, 2], grey(L))
    ),
    "16-bit grey, one level transparent": (
        is_png(WIDE, 0, 16, (b"tRNS", struct.pack(">H", WIDE[1, 2]))), keyed(WIDE, WIDE[1, 2], grey(WIDE / 257))
    ),
    "RGB, one colour transparent": (
        is_png(RGB, 2, 8, (b"tRNS", struct.pack(">3H", *RGB[1, 2]))), keyed(RGB, RGB[1, 2], RGB)
    ),
    "16-bit RGB, one colour transparent": (
        is_png(WIDE_RGB, 2, 16, (b"tRNS", struct.pack(">3H", *WIDE_RGB[1, 2]))),
        keyed(WIDE_RGB, WIDE_RGB[1, 2], WIDE_RGB / 257),
    ),
    "CMYK": (
        is_saved(Image.fromarray(CMYK, "CMYK"), ".tif"),
        (255 - CMYK[..., :3].astype(float)) * (255 - CMYK[..., 3:].astype(float)) / 255,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_what_the_samples_say(name: str, tmp_path: Path) -> None:
    maker, expected = CASES[name]
    maker(tmp_path / "image")
    (path,) = tmp_path.iterdir()
    colour = read_image(path, (3, HEIGHT, WIDTH))
    assert (colour.dtype, colour.shape) == (np.uint8, (3, HEIGHT, WIDTH))
    assert np.abs(colour.transpose(1, 2, 0) - expected).max() <= 1.6  # Pillow rounds down here and there
    luma = expected @ [0.299, 0.587, 0.114]
    assert np.abs(read_image(path, (1, HEIGHT, WIDTH))[0] - luma).max() <= 1.6


ORIENTED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""EXIF orientation to how the stored rows and columns are to be shown."""


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg", "16-bit .png"])
def test_pictures_stand_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image{suffix}"
    coarse = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((8, 8), np.uint8))
    if suffix.startswith("16"):
        path.write_bytes(png(coarse.astype(np.uint16) * 257, 0, 16, (b"eXIf", exif.tobytes()[6:])))
    else:
        settings = {"quality": 100, "exif": exif, **({"lossless": True} if suffix == ".webp" else {})}
        Image.fromarray(coarse).save(path, **settings)
    expected = ORIENTED[orientation](coarse)
    assert np.abs(read_image(path, (1, *expected.shape))[0].astype(int) - expected).max() <= 2


def test_damaged_metadata_do_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png(L, 0, 8, (b"eXIf", b"II*\0\xff\xff\xff\xff")))
    assert np.array_equal(read_image(path, (1, HEIGHT, WIDTH))[0], L)


def test_lab_and_jpegs(tmp_path: Path) -> None:
    """Solid colours; (L, a, b) as Pillow stores it, a and b as signed bytes."""
    lab = Image.frombytes("LAB", (8, 8), bytes([138, 80 % 256, 67 % 256]) * 64)  # sRGB's red, nearly
    red, green, blue = read_image(saved(tmp_path / "lab.tif", lab), (3, 8, 8))[:, 4, 4].astype(int)
    assert (red, green, blue) == pytest.approx((255, 0, 0), abs=12)
    for mode in ("RGB", "YCbCr", "CMYK", "L"):
        image = Image.new("RGB", (8, 8), (200, 60, 30)).convert(mode)
        pixel = read_image(saved(tmp_path / f"{mode}.jpg", image, quality=100), (3, 8, 8))[:, 4, 4].astype(int)
        assert pixel == pytest.approx([101] * 3 if mode == "L" else [200, 60, 30], abs=4), mode


def test_sizes_change_after_the_colours_are_known(tmp_path: Path) -> None:
    """Neither palette numbers nor the lower of 16 bits are averaged; what is hidden does not shine through."""
    stripes = np.tile([0, 1], (8, 8)).astype(np.uint8)
    palette = Image.fromarray(stripes).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    path = saved(tmp_path / "palette.png", palette)
    mixed = read_image(path, (3, 4, 8))[:, 2, 2:6].astype(int).T
    assert mixed == pytest.approx(np.tile([127, 0, 127], (4, 1)), abs=12)
    hidden = np.zeros((8, 16, 4), np.uint8)
    path = saved(tmp_path / "hidden.png", Image.fromarray(hidden))
    assert (read_image(path, (3, 4, 8)) == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 9), (31, 33)])
def test_any_size_fills_the_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    path = saved(tmp_path / "image.png", Image.new("RGB", size, (10, 20, 30)))
    pixels = read_image(path, (3, 64, 48))
    assert (pixels == np.array([10, 20, 30], np.uint8)[:, None, None]).all()


def test_the_middle_is_kept(tmp_path: Path) -> None:
    wide = np.full((8, 24), 255, np.uint8)
    wide[:, 8:16] = 100
    tall = wide.T
    for pixels in (wide, tall):
        path = saved(tmp_path / "image.png", Image.fromarray(pixels))
        assert (read_image(path, (1, 8, 8)) == 100).all()


RED, BLUE = (Image.new("RGB", (6, 6), colour) for colour in ("red", "blue"))


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("a.gif", {}, True),
        ("a.png", {}, True),
        ("a.webp", {"lossless": True}, True),
        ("a.tif", {}, True),
        ("a.jpg", {"format": "MPO"}, False),
    ],
)
def test_the_first_of_several_frames_is_taken(
    tmp_path: Path, name: str, settings: dict[str, object], more: bool
) -> None:
    path = saved(tmp_path / name, RED, save_all=True, append_images=[BLUE], **settings)
    assert has_frames(path) is more
    assert read_image(path, (3, 6, 6))[:, 3, 3].astype(int) == pytest.approx([255, 0, 0], abs=2)
    path = saved(tmp_path / name, BLUE)
    assert not has_frames(path)


REFUSED = {
    "text": ("x.png", b"no image", "none of PNG, JPEG"),
    "empty": ("x.png", b"", "empty file"),
    "truncated": ("x.png", png(L, 0, 8)[:50], ""),
    "a huge size": ("x.png", png(L, 0, 8)[:16] + struct.pack(">II5B", 60_000, 60_000, 8, 0, 0, 0, 0), ""),
    "PostScript": ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of PNG, JPEG"),
    "32 bits, as if of 8": ("x.tif", tiff(L.astype(np.int32), sample_format=2), "whole numbers of 32 bits from"),
    "32 bits, above 16": ("x.tif", tiff(L.astype(np.int32) * 1000, sample_format=2), "to 254000, where"),
    "negative": ("x.tif", tiff(L.astype(np.int16) - 300, sample_format=2), "from -"),
    "float above 1": ("x.tif", tiff(L.astype(np.float32), sample_format=3), "floating point from"),
    "not finite": ("x.tif", tiff(np.full((4, 5), np.nan, np.float32), sample_format=3), "from nan to nan"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    file, content, reason = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        read_image(path, (3, 8, 8))
    message = str(refusal.value)
    assert message.startswith(f"{path}: not a readable image (")
    assert reason in message
    assert message.endswith("; repair or remove it")
    assert "\n" not in message


def test_damage_of_any_kind_is_a_line_or_a_picture(tmp_path: Path) -> None:
    """Bytes flipped and files cut, with a fixed seed."""
    random = np.random.default_rng(0)
    files = []
    for name, (maker, _) in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        maker(folder / "image")
        files += list(folder.iterdir())
    for path in files:
        content = path.read_bytes()
        for _ in range(10):
            damaged = bytearray(content[: random.integers(1, len(content) + 1)])
            damaged[random.integers(len(damaged))] = random.integers(256)
            path.write_bytes(damaged)
            with warnings.catch_warnings(action="error"), contextlib.suppress(UsageError):
                assert read_image(path, (3, 4, 4)).shape == (3, 4, 4)
