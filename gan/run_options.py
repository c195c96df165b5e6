"""SampleOptions, EvaluateOptions: what is asked of a run that has been trained; frozen, validated."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gan.command_line import optional, parse, require_at_least, require_at_most
from gan.errors import require_known
from gan.options import EXTRACTOR_HELP, TrainOptions
from gan.process.program import command_of
from gan.quality.extractor import EXTRACTORS
from gan.quality.judge import LEAST_EVALUATION_IMAGES, NUM_EVALUATION_IMAGES
from gan.recipe_files import recipe_named

PictureKind = Literal["all", "grid", "compare", "interpolation", "timeline", "gif"]


@dataclass(frozen=True)
class SampleOptions:
    """Make pictures from a finished or interrupted run. Only its generator and sample grids are needed."""

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    kind: tyro.conf.Positional[PictureKind] = "all"
    """grid: images of fresh latents. compare: real images beside generated ones. interpolation: straight lines
    between two latents. timeline: a column an epoch, the same latents in each. gif: the sample grids as an
    animation."""
    output: Annotated[Path | None, optional(Path, "PATH", "RUN/pictures")] = None
    """Directory to write to; with --best, RUN/pictures_best by default."""
    num_images: int = 64
    """Images in the grid."""
    by_class: bool = False
    """A column for each class in the grid, with --rows images each; for conditional recipes."""
    rows: int = 8
    """Rows of the interpolation, the timeline and the grid by class."""
    steps: int = 8
    """Images from one latent to the other in each row of the interpolation."""
    columns: int = 20
    """Most columns of the timeline; a longer run shows epochs at even distances, the last one included."""
    best: bool = False
    """Take the generator of the best epoch, of a run that was trained with --keep-best."""
    seed: int = 0
    """Of the latents."""
    scale: int = 1
    """Make each pixel a square of so many."""
    recipe: Annotated[str | None, optional(str, "FILE.py", "none")] = None
    """The file of the run's recipe, if it has networks of its own. It is run; a run folder alone runs no code."""

    def validate(self) -> None:
        """Check the numbers, and run a recipe's file; raise UsageError."""
        if self.recipe is not None:
            recipe_named(self.recipe)
        for name in ("num_images", "rows", "scale"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("steps", "columns"):
            require_at_least(name, getattr(self, name), 2)
        for name in ("num_images", "rows", "scale", "steps", "columns"):
            require_at_most(name, getattr(self, name))
        require_at_least("seed", self.seed, 0)


@dataclass(frozen=True)
class EvaluateOptions:
    """Score the images of a finished or interrupted run against its dataset, and write RUN/evaluation.json.

    With --best, write RUN/evaluation_best.json.

    Several processes under `accelerate launch` get the same scores as one.
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run."""
    num_images: int = NUM_EVALUATION_IMAGES
    """Images to generate and real ones to compare with; at most half of the training split."""
    data_root: Annotated[Path | None, optional(Path, "PATH", "the run's")] = None
    """Where datasets are kept."""
    extractor: Annotated[str | None, optional(str, "NAME", "the run's", help=EXTRACTOR_HELP)] = None
    best: bool = False
    """Take the generator of the best epoch, of a run that was trained with --keep-best."""
    seed: int = 0
    """Of latents and classes."""
    recipe: Annotated[str | None, optional(str, "FILE.py", "none")] = None
    """The file of the run's recipe, if it has networks of its own. It is run; a run folder alone runs no code."""
    distributed_timeout: int = TrainOptions.distributed_timeout
    """Seconds that a process waits for another one that is silent or behind it; then all end and name that one."""

    def validate(self) -> None:
        """Check the numbers, and run a recipe's file; raise UsageError."""
        if self.recipe is not None:
            recipe_named(self.recipe)
        require_at_least("num_images", self.num_images, LEAST_EVALUATION_IMAGES)
        require_at_least("distributed_timeout", self.distributed_timeout, 1)
        for name in ("num_images", "distributed_timeout"):
            require_at_most(name, getattr(self, name))
        if self.extractor is not None:
            require_known("--extractor", self.extractor, EXTRACTORS)
        require_at_least("seed", self.seed, 0)


def parse_sample_options(arguments: Sequence[str] | None = None) -> SampleOptions:
    """Parse and validate the sampling command line; raise UsageError."""
    options = parse(SampleOptions, command_of("gan.sample"), sys.argv[1:] if arguments is None else arguments)
    options.validate()
    return options


def parse_evaluate_options(arguments: Sequence[str] | None = None) -> EvaluateOptions:
    """Parse and validate the evaluation's command line; raise UsageError."""
    options = parse(EvaluateOptions, command_of("gan.evaluate"), sys.argv[1:] if arguments is None else arguments)
    options.validate()
    return options
