"""SampleOptions, EvaluateOptions: what is asked of a run that has been trained; frozen, validated."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gan.command_line import optional, parse, require_at_least, require_at_most
from gan.data.datasets import SHAPED_DATASETS, require_dataset, split_name
from gan.errors import UsageError, require_known
from gan.images import ImageShape
from gan.options import EXTRACTOR_HELP, TrainOptions
from gan.process.program import command_of
from gan.quality.extractor import EXTRACTORS
from gan.quality.inception import Resize
from gan.quality.judge import NUM_EVALUATION_IMAGES
from gan.quality.paper import BATCH_SIZE
from gan.quality.real_images import LEAST_EVALUATION_IMAGES
from gan.quality.weights import require_sha256
from gan.recipe_files import recipe_named

Backbone = Literal["classifier", "inception"]
OF_INCEPTION = ("inception_weights", "inception_sha256", "resize", "num_real", "batch_size", "cache")
"""Fields of EvaluateOptions that have no effect with another backbone."""
OF_GENERATORS = ("best", "recipe", "ppl", "truncation", "standing_statistics")
"""Fields of EvaluateOptions that have no effect on images of files."""
MOST_NEIGHBOURS = 100
TRUNCATION_HELP = (
    "Draw latents from the normal distribution truncated to [-T, T]; of a style-based generator, move styles to T "
    "times their distance from the average style instead. Lower values: less variety, often cleaner images."
)
STANDING_HELP = "Batches of 64 images over which BatchNorm's statistics are taken anew; 0 takes those of training."
PictureKind = Literal["all", "grid", "compare", "interpolation", "timeline", "gif"]
OF_GENERATED = ("grid", "compare", "interpolation")
KINDS_OF = {
    "num_images": ("grid",),
    "by_class": ("grid",),
    "rows": ("grid", "interpolation", "timeline"),
    "steps": ("interpolation",),
    "columns": ("timeline",),
    "recipe": (*OF_GENERATED, "timeline"),
    **dict.fromkeys(("best", "truncation", "standing_statistics", "seed"), OF_GENERATED),
}
"""By fields of SampleOptions, the pictures that they have an effect on."""


@dataclass(frozen=True)
class SampleOptions:
    """Make pictures from a finished or interrupted run. Only its generator and sample grids are needed."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of the run."""
    kind: tyro.conf.Positional[PictureKind] = "all"
    """grid: images of fresh latents. compare: real images beside generated ones. interpolation: straight lines
    between two latents. timeline: a column per epoch, the same latents in each. gif: the sample grids as an
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
    """Most columns of the timeline. A run of more epochs shows some of them, evenly spaced, with the last one."""
    best: bool = False
    """Take the generator of the best epoch, of a run that was trained with --keep-best."""
    truncation: Annotated[float | None, optional(float, "T", "none", help=TRUNCATION_HELP)] = None
    standing_statistics: Annotated[int, tyro.conf.arg(help=STANDING_HELP)] = 0
    seed: int = 0
    """Seed of the latents."""
    scale: int = 1
    """Draw each pixel as a square of so many pixels a side."""
    recipe: Annotated[str | None, optional(str, "FILE.py", "none")] = None
    """The file of the run's recipe, if it has networks of its own. It is run; a run folder alone runs no code."""

    def validate(self) -> None:
        """Check the numbers, and run a recipe's file; raise UsageError."""
        if self.recipe is not None:
            recipe_named(self.recipe, takes_settings=False)
        for name in ("num_images", "rows", "scale"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("steps", "columns"):
            require_at_least(name, getattr(self, name), 2)
        for name in ("num_images", "rows", "scale", "steps", "columns"):
            require_at_most(name, getattr(self, name))
        require_at_least("seed", self.seed, 0)
        _require_sampling(self.truncation, self.standing_statistics)
        self._require_effects()

    def _require_effects(self) -> None:
        """Raise UsageError for an option that no picture asked for takes."""
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for name in given:
            kinds = KINDS_OF.get(name, ())
            flag = f"--{name.replace('_', '-')}"
            if kinds and self.kind not in ("all", *kinds):
                raise UsageError(f"{flag}: is for {', '.join(kinds)}, not for {self.kind}; leave it out")
        if self.by_class and "num_images" in given:
            raise UsageError("--num-images: --by-class draws --rows images of each class; leave one of them out")
        if self.kind == "grid" and "rows" in given and not self.by_class:
            raise UsageError("--rows: a grid takes it with --by-class; add that, or give --num-images instead")


@dataclass(frozen=True)
class EvaluateOptions:
    """Score the images of a finished or interrupted run against its dataset, and write RUN/evaluation.json.

    With --best, write RUN/evaluation_best.json. With --images, score the images of a folder or zip instead.

    Several processes under `accelerate launch` get the same scores as one.
    """

    run: Annotated[
        tyro.conf.Positional[Path | None], optional(Path, "[RUN]", "none; --images PATH --dataset NAME instead")
    ] = None
    """Directory of the run."""
    num_images: int = NUM_EVALUATION_IMAGES
    """Images to generate and real ones to compare with; at most half of the training split. With --backbone
    inception, images to generate; papers take 50000."""
    data_root: Annotated[Path | None, optional(Path, "PATH", "the run's, or data")] = None
    """Where datasets are kept."""
    extractor: Annotated[str | None, optional(str, "NAME", "the run's", help=EXTRACTOR_HELP)] = None
    best: bool = False
    """Take the generator of the best epoch, of a run that was trained with --keep-best."""
    seed: int = 0
    """Seed of latents and classes."""
    truncation: Annotated[float | None, optional(float, "T", "none", help=TRUNCATION_HELP)] = None
    standing_statistics: Annotated[int, tyro.conf.arg(help=STANDING_HELP)] = 0
    recipe: Annotated[str | None, optional(str, "FILE.py", "none")] = None
    """The file of the run's recipe, if it has networks of its own. It is run; a run folder alone runs no code."""
    distributed_timeout: int = TrainOptions.distributed_timeout
    """Seconds that a process waits for another one that is silent or behind it; then all end and name that one."""
    backbone: Backbone = "classifier"
    """Whose features are scored. classifier: those of a small classifier of the dataset. inception: those of
    Inception-v3, as papers score photographs."""
    inception_weights: Annotated[Path | None, optional(Path, "FILE", "in the directory of torch.hub")] = None
    """File of Inception-v3's weights, pt_inception-2015-12-05-6726825d.pth; nothing is downloaded."""
    inception_sha256: Annotated[str | None, optional(str, "DIGEST", "that of the published file")] = None
    """Accept other weights, with this SHA-256; their scores compare with no paper's."""
    resize: Resize = "clean"
    """How images are resized to Inception-v3's 299x299. clean: bicubic and antialiased (arXiv:2104.11222). legacy:
    bilinear without antialiasing, as torch-fidelity and older papers."""
    num_real: Annotated[int | None, optional(int, "INT", "all of the training split")] = None
    """Real images to compare with, with --backbone inception."""
    batch_size: int = BATCH_SIZE
    """Images to generate and to read at once, with --backbone inception; which latents are drawn depends on it."""
    cache: Annotated[Path | None, optional(Path, "PATH|none", "~/.cache/gan-bench")] = None
    """Directory that keeps the features of real images, with --backbone inception."""
    neighbours: int = 0
    """Also draw this many generated images, those nearest to real ones, each beside its nearest real images: it
    shows what G has memorised."""
    ppl: bool = False
    """Also measure the perceptual path length of a style-based generator over --num-images paths. With
    --truncation, the styles of the paths are truncated, which papers' are not."""
    vgg16_weights: Annotated[Path | None, optional(Path, "FILE", "in the directory of torch.hub")] = None
    """File of VGG-16's weights, vgg16-397923af.pth, for --ppl; nothing is downloaded."""
    lpips_weights: Annotated[Path | None, optional(Path, "FILE", "as torchmetrics installs it")] = None
    """File of the weights of LPIPS 0.1 for VGG-16, vgg.pth, for --ppl."""
    images: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Score the image files of this folder or zip, whoever made them, and write PATH-evaluation.json."""
    dataset: Annotated[str | None, optional(str, "NAME", "the run's")] = None
    """Real images that those of --images are compared with."""
    image_shape: Annotated[
        ImageShape | None, tyro.conf.arg(metavar="C H W", help_behavior_hint="(default: the dataset's)")
    ] = None
    """Channels (1 or 3), height and width to which --images and --dataset folder, zip or hf are read."""
    image_column: Annotated[str | None, optional(str, "NAME", "the run's, or the only one with images")] = None
    """The column with the real images, for --dataset hf."""
    label_column: Annotated[str | None, optional(str, "NAME", "the run's, or the only one with classes")] = None
    """The column with their classes, for --dataset hf; none for no classes."""
    output: Annotated[Path | None, optional(Path, "FILE", "evaluation.json of the run")] = None
    """File to write the scores to."""

    def validate(self) -> None:
        """Check the numbers and what goes together, and run a recipe's file; raise UsageError."""
        if self.recipe is not None:
            recipe_named(self.recipe, takes_settings=False)
        require_at_least("num_images", self.num_images, LEAST_EVALUATION_IMAGES)
        require_at_least("num_real", self.num_real, 2 * LEAST_EVALUATION_IMAGES)
        for name in ("distributed_timeout", "batch_size"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("seed", "neighbours"):
            require_at_least(name, getattr(self, name), 0)
        for name in ("num_images", "num_real", "batch_size", "distributed_timeout"):
            require_at_most(name, getattr(self, name))
        require_at_most("neighbours", self.neighbours, MOST_NEIGHBOURS)
        if self.extractor is not None:
            require_known("--extractor", self.extractor, EXTRACTORS)
        _require_sampling(self.truncation, self.standing_statistics)
        require_sha256("--inception-sha256", self.inception_sha256)
        for name in ("vgg16_weights", "lpips_weights"):
            if getattr(self, name) is not None and not self.ppl:
                raise UsageError(f"--{name.replace('_', '-')}: is for --ppl; add that, or leave it out")
        self._require_backbone()
        self._require_scored()

    def _require_backbone(self) -> None:
        """Raise UsageError for an option of the other backbone."""
        if self.backbone == "inception":
            if self.extractor is not None:
                raise UsageError("--extractor: names a classifier; leave it out with --backbone inception")
            return
        defaults = {field.name: field.default for field in fields(self)}
        for name in OF_INCEPTION:
            if getattr(self, name) != defaults[name]:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag}: is for --backbone inception; add that, or leave {flag} out")

    def _require_scored(self) -> None:
        """Raise UsageError unless the options say whose images are scored, and against which."""
        if self.run is None and self.images is None:
            raise UsageError("no RUN: name the directory of a run, or images with --images PATH --dataset NAME")
        if self.images is not None:
            for name in OF_GENERATORS:
                if getattr(self, name):
                    flag = f"--{name.replace('_', '-')}"
                    raise UsageError(f"{flag}: is about a run's generator; leave it out with --images")
            if (self.run is None) == (self.dataset is None):
                raise UsageError(
                    "--images: compare with --dataset NAME or with a run's dataset: give one of the two"
                )
        for name in ("dataset", "image_shape"):
            if self.run is not None and getattr(self, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')}: the run has one; leave it out")
        if self.dataset is not None:
            require_dataset(self.dataset)
            shaped = split_name(self.dataset)[0] in SHAPED_DATASETS
            if shaped and self.image_shape is None:
                raise UsageError(f"--dataset {self.dataset}: add --image-shape C H W, as in 3 64 64")
            if not shaped and self.image_shape is not None:
                raise UsageError(f"--image-shape: --dataset {self.dataset} has images of one shape; leave it out")
        if self.image_shape is not None and (self.image_shape[0] not in (1, 3) or min(self.image_shape) < 1):
            shape = " ".join(map(str, self.image_shape))
            raise UsageError(
                f"--image-shape {shape}: must be 1 or 3 channels, then height and width, as in 3 64 64"
            )


def _require_sampling(truncation: float | None, standing_statistics: int) -> None:
    """Raise UsageError for values that no generator can be sampled with."""
    if truncation is not None and not 0 < truncation < math.inf:
        raise UsageError(f"--truncation {truncation}: must be greater than 0 and finite, as 0.5 or 1")
    require_at_least("standing_statistics", standing_statistics, 0)
    require_at_most("standing_statistics", standing_statistics)


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
