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
"""Pixels between the images of a grid, and around it."""
GIF_SECONDS = 6.0
GIF_COLOURS = 32
MAX_GIF_FRAMES = 60
TITLE_HEIGHT = 14
MOST_PIXELS = 2**27

LOSS_LABELS = {"loss_d": "D", "loss_g": "G"}
PROBABILITY_LABELS = {
    "p_real": "D on real images",
    "p_fake": "D on generated images",
    "test_p_real": "D on test images",
    "test_p_fake": "D on generated images, evaluation mode",
}

Item = TypeVar("Item")


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return images (N, C, H, W) in [-1, 1] as a grid, row by row; as square as possible without `columns`."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    grid = make_grid(to_uint8(images.cpu()), nrow=columns, padding=PADDING)
    return Image.fromarray(grid.permute(1, 2, 0).numpy())


def save_image(path: Path, image: Image.Image, *, parents: bool = True) -> None:
    """Write a PNG, whole or not at all; `parents` as in `whole_file`."""
    with whole_file(path, parents=parents) as file:
        image.save(file, format="PNG")


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points at equal distances on the lines from latents `start` to `end`, ends included.

    Args:
        start: Shape (R, D).
        end: Shape (R, D).
        steps: Points on each line.

    Returns:
        Shape (R * steps, D), line by line.
    """
    weights = torch.linspace(0, 1, steps).view(1, steps, 1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), weights).flatten(0, 1)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items at even distances, the first and the last among them.

    >>> evenly(range(10), 4)
    [0, 3, 6, 9]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def cells_by_class(labels: Tensor, classes: Sequence[int], rows: int) -> list[int | None]:
    """Return the index of the image in each cell, row by row, of a grid with one class per column.

    >>> cells_by_class(torch.tensor([0, 7, 0]), classes=[0, 7], rows=2)
    [0, 1, 2, None]

    Args:
        labels: Class of each image (N,).
        classes: The class of each column.
        rows: Images of each class, at most. They are taken at even distances; a class with fewer has None.
    """
    images_of_class = [evenly((labels == label).nonzero().flatten().tolist(), rows) for label in classes]
    num_rows = max(map(len, images_of_class))
    return [images[row] if row < len(images) else None for row in range(num_rows) for images in images_of_class]


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """Make each pixel a square of `scale` × `scale` pixels.

    Raises:
        UsageError: The picture would have more than MOST_PIXELS.
    """
    width = picture.width * scale
    height = picture.height * scale
    if width * height > MOST_PIXELS:
        raise UsageError(
            f"--scale {scale}: the picture would have {width:,} × {height:,} pixels, of at most {MOST_PIXELS:,}; "
            "give a smaller one"
        )
    return picture.resize((width, height), Image.Resampling.NEAREST)


def titled(picture: Image.Image, titles: Sequence[tuple[int, str]]) -> Image.Image:
    """Add a row of titles above a picture; those that do not fit are left out.

    Args:
        picture: The picture.
        titles: The pixel column at which a title is centred, and its text; from left to right.
    """
    canvas = Image.new("RGB", (picture.width, picture.height + TITLE_HEIGHT))
    canvas.paste(picture, (0, TITLE_HEIGHT))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    free_from = 0.0
    for centre, title in titles:
        width = draw.textlength(title, font)
        left = centre - width / 2
        if free_from <= left and left + width <= picture.width:
            draw.text((round(left), 1), title, "white", font)
            free_from = left + width + PADDING
    return canvas


def side_by_side(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Put pictures of one height beside one another, with their names above."""
    gap = TITLE_HEIGHT
    width = sum(picture.width for picture in pictures.values()) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (width, max(picture.height for picture in pictures.values())))
    titles = []
    left = 0
    for name, picture in pictures.items():
        whole.paste(picture, (left, 0))
        titles.append((left + picture.width // 2, name))
        left += picture.width + gap
    return titled(whole, titles)


def grid_size(grid: Image.Image, image_size: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of rows and columns of a grid of images of this height and width."""
    height, width = image_size
    return (grid.height - PADDING) // (height + PADDING), (grid.width - PADDING) // (width + PADDING)


def timeline(grids: Sequence[Path], image_size: tuple[int, int], rows: int) -> Image.Image:
    """Show samples over epochs: a column for each sample grid, under its epoch. A row has the same latents.

    Args:
        grids: Sample grids, in order of their epochs.
        image_size: Height and width of an image.
        rows: Images from the beginning of each grid; all, if a grid has fewer.

    Raises:
        UsageError: A sample grid is damaged, or has another number of images than the first.
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
    """Return a grid that `save_image` wrote, as RGB; raise UsageError if it cannot be read."""
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
    """Write sample grids as a looping GIF that rests on the last one.

    Args:
        path: The file.
        grids: Sample grids; of very many, MAX_GIF_FRAMES at even distances.
        scale: As in `enlarged`.
        parents: As in `whole_file`.

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
    """Draw losses and probabilities over epochs, with a line at 0.5, where D cannot tell real from generated.

    Args:
        path: The PNG to write.
        epochs: Lines of metrics.jsonl.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    losses, probabilities = figure.subplots(1, 2)
    figure.subplots_adjust(
        left=0.06, right=0.99, bottom=0.12, top=0.92, wspace=0.13
    )  # a layout engine draws twice
    x = [line["epoch"] for line in epochs]
    marker = "o" if len(x) == 1 else None
    for axes, labels in ((losses, LOSS_LABELS), (probabilities, PROBABILITY_LABELS)):
        for name, label in labels.items():
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
