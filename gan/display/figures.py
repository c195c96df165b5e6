"""Pictures: sample grids, curves, timelines, animations."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from gan.errors import UsageError
from gan.files.atomic import require_regular, whole_file
from gan.images import to_uint8

PADDING = 2
GIF_SECONDS = 6.0
GIF_COLOURS = 32
MAX_GIF_FRAMES = 60
TITLE_HEIGHT = 14
MOST_PIXELS = 2**27

Item = TypeVar("Item")


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Lay out images (N, C, H, W) in [-1, 1] as a grid, by default as square as can be."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    grid = make_grid(to_uint8(images.cpu()), nrow=columns, padding=PADDING)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def save_image(path: Path, image: Image.Image, *, parents: bool = True) -> None:
    """Write a PNG, whole or not at all; `parents` as for `whole_file`."""
    with whole_file(path, parents=parents) as file:
        image.save(file, format="PNG")


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return the straight lines from `start` to `end`, each (R, D), as latents (R * steps, D), row by row."""
    weights = torch.linspace(0, 1, steps).view(1, steps, 1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), weights).flatten(0, 1)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def cells_by_class(labels: Tensor, columns: int, rows: int) -> list[int | None]:
    """Return which image stands in each cell, row by row, of a grid with a column for each of the first classes.

    Args:
        labels: Class of each image (N,).
        columns: How many classes.
        rows: Most images of a class, at even distances; where there are fewer, cells are None.
    """
    chosen = [evenly((labels == label).nonzero().flatten().tolist(), rows) for label in range(columns)]
    tallest = max(map(len, chosen))
    return [column[row] if row < len(column) else None for row in range(tallest) for column in chosen]


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """Make each pixel a square of `scale` pixels.

    Raises:
        UsageError: It would have more than MOST_PIXELS.
    """
    width, height = picture.width * scale, picture.height * scale
    if width * height > MOST_PIXELS:
        raise UsageError(
            f"--scale {scale}: the picture would have {width:,} × {height:,} pixels, of at most {MOST_PIXELS:,}; "
            "give a smaller one"
        )
    return picture.resize((width, height), Image.Resampling.NEAREST)


def titled(picture: Image.Image, titles: Sequence[tuple[int, str]]) -> Image.Image:
    """Add a row of titles above a picture, each centred at its pixel; leave out those that do not fit."""
    canvas = Image.new("RGB", (picture.width, picture.height + TITLE_HEIGHT))
    canvas.paste(picture, (0, TITLE_HEIGHT))
    draw, font, free = ImageDraw.Draw(canvas), ImageFont.load_default(), 0.0
    for centre, title in titles:
        width = draw.textlength(title, font)
        left = centre - width / 2
        if free <= left and left + width <= picture.width:
            draw.text((round(left), 1), title, "white", font)
            free = left + width + PADDING
    return canvas


def side_by_side(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Put pictures of one height beside one another, each under its name."""
    gap = TITLE_HEIGHT
    width = sum(picture.width for picture in pictures.values()) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (width, max(picture.height for picture in pictures.values())))
    titles, left = [], 0
    for name, picture in pictures.items():
        whole.paste(picture, (left, 0))
        titles.append((left + picture.width // 2, name))
        left += picture.width + gap
    return titled(whole, titles)


def grid_size(grid: Image.Image, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns of images of that height and width a grid has."""
    height, width = image_size
    return (grid.height - PADDING) // (height + PADDING), (grid.width - PADDING) // (width + PADDING)


def timeline(grids: Sequence[Path], image_size: tuple[int, int], rows: int) -> Image.Image:
    """Put the first `rows` cells of each sample grid into a column under its epoch, the same latents in each.

    Args:
        grids: Sample grids, one a column.
        image_size: Height and width of a cell.
        rows: Cells from each grid; fewer where the grid has fewer.

    Raises:
        UsageError: A sample grid is damaged, or unlike the first.
    """
    height, width = image_size
    columns = [_cells(open_grid(path), height, width)[:rows] for path in grids]
    for path, column in zip(grids, columns, strict=True):
        if len(column) != len(columns[0]) or not column:
            raise UsageError(f"{path}: not a sample grid of this run ({len(column)} cells of {width}×{height})")
    cells = torch.stack([column[row] for row in range(len(columns[0])) for column in columns])
    picture = Image.fromarray(make_grid(cells, nrow=len(columns), padding=PADDING).permute(1, 2, 0).numpy())
    epochs = [path.stem.removeprefix("epoch_").lstrip("0") for path in grids]
    centres = [PADDING + index * (width + PADDING) + width // 2 for index in range(len(grids))]
    return titled(picture, list(zip(centres, epochs, strict=True)))


def open_grid(path: Path) -> Image.Image:
    """Return a grid that `save_image` wrote, as RGB; raise UsageError where it cannot be read."""
    require_regular(path)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["PNG"]) as image:
            return image.convert("RGB")
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise UsageError(f"{path}: not a readable image ({error}); remove it") from error


def _cells(grid: Image.Image, height: int, width: int) -> list[Tensor]:
    """Cut a grid made by `image_grid` into its images, uint8 (3, H, W)."""
    pixels = torch.from_numpy(np.array(grid)).permute(2, 0, 1)
    return [
        pixels[:, top : top + height, left : left + width]
        for top in range(PADDING, pixels.shape[1] - height + 1, height + PADDING)
        for left in range(PADDING, pixels.shape[2] - width + 1, width + PADDING)
    ]


def save_animation(path: Path, grids: Sequence[Path], scale: int = 1, *, parents: bool = True) -> None:
    """Write sample grids, enlarged, as a looping GIF that rests on the last one; `parents` as for `whole_file`.

    Raises:
        UsageError: A sample grid is damaged, or there is none.
    """
    if not grids:
        raise UsageError("there are no sample grids")
    # few colours and no dithering: noise is what makes these files large
    frames = [
        enlarged(open_grid(grid).quantize(GIF_COLOURS, dither=Image.Dither.NONE), scale)
        for grid in evenly(grids, MAX_GIF_FRAMES)
    ]
    milliseconds = max(40, min(500, round(1000 * GIF_SECONDS / len(frames))))
    durations = [*[milliseconds] * (len(frames) - 1), 2000]
    with whole_file(path, parents=parents) as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def save_curves(path: Path, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses and probabilities over epochs, with the line at 0.5 where D cannot tell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, probabilities = figure.subplots(1, 2)
    x = [line["epoch"] for line in epochs]
    marker = "o" if len(x) == 1 else None
    for axes, names in (
        (losses, {"loss_d": "D", "loss_g": "G"}),
        (
            probabilities,
            {
                "p_real": "D on real images",
                "p_fake": "D on generated images",
                "test_p_real": "D on test images",
                "test_p_fake": "D on generated images, evaluation mode",
            },
        ),
    ):
        for name, label in names.items():
            values = [math.nan if line[name] is None else line[name] for line in epochs]
            if not all(map(math.isnan, values)):
                axes.plot(x, values, label=label, marker=marker, linestyle="--" if "test" in name else "-")
        axes.set_xlabel("epoch")
    losses.set_title("losses")
    losses.legend()
    probabilities.axhline(0.5, color="grey", linewidth=1, linestyle=":")
    probabilities.set_ylim(0, 1)
    probabilities.set_title("probability of being real, according to D")
    probabilities.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with whole_file(path, parents=False) as file:
        file.write(buffer.getvalue())
