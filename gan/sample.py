"""The script: `python gan/sample.py RUN [grid|compare|interpolation|timeline|gif]`, pictures from a run."""

import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from PIL import Image

from gan.display.figures import (
    enlarged,
    evenly,
    grid_size,
    image_grid,
    interpolate,
    open_grid,
    save_animation,
    save_image,
    side_by_side,
    timeline,
)
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.files.text import printable
from gan.models.networks import apply
from gan.process.script import exit_code_of
from gan.process.spinning import adapt_spinning
from gan.run_options import SampleOptions, parse_sample_options
from gan.session.generator import generator_of_run, which_generator
from gan.session.sampling import classes_in_turn, latents_for, prepare_sampling
from gan.training.checkpoints import TrainedGenerator

MOST_CLASSES = 20
"""Most columns of a grid by class."""
Load = Callable[[], TrainedGenerator]
"""Loads the generator of the run, once."""


def sample(options: SampleOptions) -> list[Path]:
    """Make the pictures that `options` ask for and return their paths; ``all`` makes those that the run allows.

    Raises:
        UsageError: The run lacks what a picture needs.
    """
    folder = RunFolder(options.run)
    output = options.output or options.run / ("pictures_best" if options.best else "pictures")
    if not folder.root.is_dir():
        raise UsageError(f"{folder.root}: no such run; name a directory that training wrote")
    makers = {
        "grid": _grid,
        "compare": _compare,
        "interpolation": _interpolation,
        "timeline": _timeline,
        "gif": _gif,
    }
    load = cache(lambda: _generator(options, folder))
    if options.kind != "all":
        return [makers[options.kind](options, folder, output, load)]
    if not folder.samples():
        del makers["timeline"], makers["gif"]
    if not folder.real.exists():
        del makers["compare"]
    return [make(options, folder, output, load) for make in makers.values()]


def _generator(options: SampleOptions, folder: RunFolder) -> TrainedGenerator:
    generator = generator_of_run(folder, options.recipe, best=options.best)
    for note in filter(None, (generator.note, which_generator(folder, generator))):
        print(printable(f"note: {note}"), file=sys.stderr)
    prepare_sampling(generator, options, folder.root, torch.device("cpu"))
    return generator


def _save(options: SampleOptions, path: Path, picture: Image.Image) -> Path:
    save_image(path, enlarged(picture, options.scale))
    return path


def _grid(options: SampleOptions, folder: RunFolder, output: Path, load: Load) -> Path:
    generator = load()
    if options.by_class and not generator.num_classes:
        raise UsageError(f"--by-class: the generator of {folder.root} knows no classes; leave it out")
    columns = min(MOST_CLASSES, len(generator.classes)) if options.by_class else None
    count = options.rows * columns if columns else options.num_images
    latents = latents_for("grid", count, generator, options)
    labels = classes_in_turn(generator, count, columns or generator.num_classes)
    with torch.inference_mode():
        images = apply(generator.network, latents, labels)
    return _save(options, output / "grid.png", image_grid(images, columns))


def _compare(options: SampleOptions, folder: RunFolder, output: Path, load: Load) -> Path:
    if not folder.real.exists():
        raise UsageError(f"{folder.real}: no grid of real images; train on with {folder.resume_flags}")
    generator = load()
    real = open_grid(folder.real)
    rows, columns = grid_size(real, generator.image_shape[1:])
    if min(rows, columns) < 1:
        raise UsageError(f"{folder.real}: not of this run, whose images are larger; remove it, and --resume")
    latents = latents_for("compare", rows * columns, generator, options)
    labels = classes_in_turn(generator, rows * columns, columns)
    with torch.inference_mode():
        generated = image_grid(apply(generator.network, latents, labels), columns)
    return _save(options, output / "compare.png", side_by_side({"real": real, "generated": generated}))


def _interpolation(options: SampleOptions, _folder: RunFolder, output: Path, load: Load) -> Path:
    generator = load()
    start, end = latents_for("interpolation", 2 * options.rows, generator, options).chunk(2)
    labels = classes_in_turn(generator, options.rows, generator.num_classes)
    if labels is not None:
        labels = labels.repeat_interleave(options.steps)
    with torch.inference_mode():
        images = apply(generator.network, interpolate(start, end, options.steps), labels)
    return _save(options, output / "interpolation.png", image_grid(images, columns=options.steps))


def _timeline(options: SampleOptions, folder: RunFolder, output: Path, load: Load) -> Path:
    grids = evenly(_sample_grids(folder), options.columns)
    generator = load()
    return _save(options, output / "timeline.png", timeline(grids, generator.image_shape[1:], options.rows))


def _gif(options: SampleOptions, folder: RunFolder, output: Path, _load: Load) -> Path:
    save_animation(output / "progress.gif", _sample_grids(folder), options.scale)
    return output / "progress.gif"


def _sample_grids(folder: RunFolder) -> list[Path]:
    grids = folder.samples()
    if not grids:
        raise UsageError(f"{folder.root / 'samples'}: no sample grids yet; train for at least one epoch")
    return grids


def main() -> None:
    """Make pictures and say where they are."""
    options = parse_sample_options()
    adapt_spinning()
    for path in sample(options):
        print(printable(path))


def run() -> int:
    """Run `main` and return the exit code."""
    return exit_code_of(
        main,
        advice="mend this and draw again",
        interrupted="interrupted; pictures that were complete are kept",
        lower="--num-images, --rows, --steps or --standing-statistics",
    )


if __name__ == "__main__":
    sys.exit(run())
