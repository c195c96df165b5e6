"""The script: `python gan/sample.py RUN [grid|interpolation|timeline|gif]`, pictures from a run."""

import sys
from pathlib import Path

if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from gan.checkpoints import load_generator
from gan.errors import UsageError
from gan.figures import evenly, image_grid, interpolate, save_animation, save_image, timeline
from gan.options import SampleOptions, parse_sample_options
from gan.records import RunFolder
from gan.script import exit_code_of
from gan.seeds import derive_seed


def sample(options: SampleOptions) -> list[Path]:
    """Make the pictures that `options` ask for and return their paths; ``all`` are those the run has enough for.

    Raises:
        UsageError: The run lacks what a picture needs.
    """
    folder, output = RunFolder(options.run), options.output or options.run / "pictures"
    if not folder.root.is_dir():
        raise UsageError(f"{folder.root}: no such run; name a directory that gan/train.py wrote")
    makers = {"grid": _grid, "interpolation": _interpolation, "timeline": _timeline, "gif": _gif}
    if options.kind != "all":
        return [makers[options.kind](options, folder, output)]
    possible = makers if folder.samples() else {"grid": _grid, "interpolation": _interpolation}
    return [make(options, folder, output) for make in possible.values()]


def _grid(options: SampleOptions, folder: RunFolder, output: Path) -> Path:
    generator = load_generator(folder.generator, folder.generator_config)
    latents = _latents(options, "grid", options.num_images, generator.latent_dim)
    with torch.inference_mode():
        save_image(output / "grid.png", image_grid(generator.network(latents)))
    return output / "grid.png"


def _interpolation(options: SampleOptions, folder: RunFolder, output: Path) -> Path:
    generator = load_generator(folder.generator, folder.generator_config)
    start, end = _latents(options, "interpolation", 2 * options.rows, generator.latent_dim).chunk(2)
    with torch.inference_mode():
        images = generator.network(interpolate(start, end, options.steps))
    save_image(output / "interpolation.png", image_grid(images, columns=options.steps))
    return output / "interpolation.png"


def _timeline(options: SampleOptions, folder: RunFolder, output: Path) -> Path:
    grids = evenly(_sample_grids(folder), options.columns)
    generator = load_generator(folder.generator, folder.generator_config)
    save_image(output / "timeline.png", timeline(grids, generator.image_shape[1:], options.rows))
    return output / "timeline.png"


def _gif(options: SampleOptions, folder: RunFolder, output: Path) -> Path:  # noqa: ARG001
    save_animation(output / "progress.gif", _sample_grids(folder))
    return output / "progress.gif"


def _sample_grids(folder: RunFolder) -> list[Path]:
    grids = folder.samples()
    if not grids:
        raise UsageError(f"{folder.root / 'samples'}: no sample grids yet; train for at least one epoch")
    return grids


def _latents(options: SampleOptions, purpose: str, count: int, latent_dim: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(derive_seed(options.seed, purpose))
    return torch.randn(count, latent_dim, generator=source)


def main() -> None:
    """Make pictures and say where they are."""
    for path in sample(parse_sample_options()):
        print(path)


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
