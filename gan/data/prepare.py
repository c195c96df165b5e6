"""`python -m gan.data.prepare OUT.zip …`: the images of a dataset at one size, as a zip.

Large images that do not fit into memory are decoded and resized in every epoch; those of the zip are small.
"""

import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image
from torch import Tensor

from gan.command_line import optional, parse, require_at_least, require_at_most
from gan.data.archive import LABELS
from gan.data.datasets import (
    DEFAULT_IMAGE_SHAPE,
    SHAPED_DATASETS,
    DatasetRequest,
    ImageSource,
    load_dataset,
    require_columns,
    require_dataset,
    split_name,
)
from gan.data.stored import classes_in_words
from gan.data.streamed import StreamedImages
from gan.errors import Interrupted, UsageError
from gan.files.atomic import whole_file
from gan.files.text import printable
from gan.images import ImageShape, to_uint8
from gan.process.launcher import MOST_THREADS
from gan.process.script import exit_code_of
from gan.process.signals import ending_signals, handled

PROGRAM = "python -m gan.data.prepare"
INTERRUPTED = "interrupted; nothing was written"
IMAGES_AT_ONCE = 64
IMAGES_OF_A_FOLDER = 1000
SECONDS_UNTIL_NEWS = 10.0
COMPRESSION = 1
"""Of the PNGs. Photographs become hardly smaller with more, and take many times as long."""


@dataclass(frozen=True)
class PrepareOptions:
    """Write the images of a dataset, resized and centre-cropped to one shape, into a zip in StyleGAN's layout.

    Training reads it with --dataset zip. The images, their order and their classes are those of the dataset.
    """

    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT.zip")]
    """The zip to write; a file that exists is refused."""
    dataset: Annotated[str, tyro.conf.arg(metavar="NAME")] = "folder"
    """folder, zip, hf, hf:NAME, or a dataset with a shape of its own."""
    data_root: Path = Path("data")
    """Directory with the images, or file, as in training."""
    image_shape: Annotated[
        ImageShape | None, tyro.conf.arg(metavar="C H W", help_behavior_hint="(needed for folder, zip and hf)")
    ] = None
    """Channels (1 or 3), height and width. Images are resampled with a Lanczos filter, which antialiases."""
    image_column: Annotated[str | None, optional(str, "NAME", "the only one with images")] = None
    """The column with the images, for --dataset hf."""
    label_column: Annotated[str | None, optional(str, "NAME", "the only one with classes, if any")] = None
    """The column with the classes, for --dataset hf."""
    labels: bool = True
    """Keep the classes. --no-labels is for folders that only sort files."""
    num_workers: Annotated[int | None, optional(int, "INT", "2; 1 on a single core")] = None
    """Processes that read images."""

    def validate(self) -> None:
        """Check what goes together; raise UsageError."""
        require_dataset(self.dataset)
        require_at_least("num_workers", self.num_workers, 0)
        require_at_most("num_workers", self.num_workers, MOST_THREADS)
        shaped = split_name(self.dataset)[0] in SHAPED_DATASETS
        if shaped and self.image_shape is None:
            raise UsageError(f"--dataset {self.dataset}: add --image-shape C H W, as in 3 64 64")
        if self.image_shape is not None:
            shape = f"--image-shape {' '.join(map(str, self.image_shape))}"
            if not shaped:
                raise UsageError(f"{shape}: --dataset {self.dataset} has a shape of its own; leave it out")
            if self.image_shape[0] not in (1, 3) or min(self.image_shape) < 1:
                raise UsageError(
                    f"{shape}: takes 1 or 3 channels and a height and width of at least 1, as in 3 64 64"
                )
        require_columns(self.dataset, self.image_column, self.label_column)
        if self.output.exists():
            raise UsageError(f"{self.output}: exists; remove it, or name another file")


def prepare(options: PrepareOptions, say: Callable[[str], object]) -> None:
    """Write the zip, whole or not at all.

    Args:
        options: What to write.
        say: Prints a line.

    Raises:
        UsageError: The dataset is not there, or an image cannot be read.
    """
    shape = options.image_shape or DEFAULT_IMAGE_SHAPE
    cpu = torch.device("cpu")
    request = DatasetRequest(options.data_root, shape, options.num_workers, cpu)
    request = replace(request, image_column=options.image_column, label_column=options.label_column)
    dataset = load_dataset(options.dataset, request)
    labels = dataset.labels.tolist() if options.labels and dataset.labels is not None else []
    if isinstance(dataset, StreamedImages):
        say(dataset.contents)
    with whole_file(options.output, overwrite=False) as file, zipfile.ZipFile(file, "w") as archive:
        names: list[str] = []
        news_due = time.monotonic() + SECONDS_UNTIL_NEWS
        for image in _images(dataset):
            number = len(names)
            names.append(f"{number // IMAGES_OF_A_FOLDER:05}/img{number:08}.png")
            archive.writestr(_entry(names[-1]), _png(image))
            if time.monotonic() > news_due:
                news_due = time.monotonic() + SECONDS_UNTIL_NEWS
                say(f"{len(names):,} of {len(dataset):,} images")
        pairs = [[name, label] for name, label in zip(names, labels, strict=True)] if labels else None
        archive.writestr(_entry(LABELS), json.dumps({"labels": pairs}))
    size = "×".join(map(str, dataset.image_shape))
    say(f"{options.output}: {len(dataset):,} images of {size} {classes_in_words(labels)}")


def _entry(name: str) -> zipfile.ZipInfo:
    """Return an entry that is dated 1980, so that equal images make equal zips."""
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o644 << 16  # without them, what is unpacked can be read by nobody
    return entry


def _images(dataset: ImageSource) -> Iterator[Tensor]:
    """Yield the images of a dataset, uint8 (C, H, W), in their order."""
    for images in dataset.stream(torch.arange(len(dataset)).split(IMAGES_AT_ONCE)):
        yield from to_uint8(images)


def _png(image: Tensor) -> bytes:
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, format="PNG", compress_level=COMPRESSION)
    return buffer.getvalue()


def parse_prepare_options(arguments: Sequence[str] | None = None) -> PrepareOptions:
    """Parse and validate the command line; raise UsageError."""
    options = parse(PrepareOptions, PROGRAM, sys.argv[1:] if arguments is None else arguments)
    options.validate()
    return options


def main() -> None:
    """Write the zip that the command line asks for."""
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt  # what reads images takes an Exception for damage

    try:
        with handled(ending_signals(), stop):  # or they would leave a half-written zip behind
            prepare(parse_prepare_options(), lambda message: print(printable(message), flush=True))
    except KeyboardInterrupt as interrupt:
        if received:
            raise Interrupted(INTERRUPTED, 128 + received[0]) from interrupt
        raise


if __name__ == "__main__":
    sys.exit(
        exit_code_of(
            main,
            advice="mend this and prepare again",
            interrupted=INTERRUPTED,
            lower="--image-shape",
        )
    )
