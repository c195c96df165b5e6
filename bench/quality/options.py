"""QualityOptions: what is asked of `python -m bench time-to-quality`."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.quality.rules import MOST_IMAGES, SUBMITTED_SEEDS, TARGETS
from bench.quality.trainees import TRAINEES
from bench.results.folder import fitting_name, results_folder
from bench.suite.cases import AXES
from gan.command_line import optional, require_at_least, require_at_most
from gan.errors import UsageError, require_known
from gan.options import SETTING_HELP, TrainOptions
from gan.surface import NOWHERE

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""What Accelerate calls them."""


@dataclass(frozen=True)
class QualityOptions:
    """Train several seeds to a Fréchet distance, and write their seconds and images: docs/time-to-quality.md.

    Each seed that is done is kept at once. Exit code 0: every seed met the target. 1: some did not.
    """

    recipe: str = "mlp"
    """The GAN: a row of gan/recipes.py, or FILE.py or FILE.py:NAME."""
    dataset: Annotated[str, tyro.conf.arg(metavar="NAME", help=f"{', '.join(TARGETS)}; each has a target.")] = (
        "mnist"
    )
    data_root: Path = Path("data")
    """Where datasets are kept."""
    subject: Annotated[
        str, tyro.conf.arg(metavar="NAME", help="core, or plain for the plain loop of the recipe.")
    ] = "core"
    seeds: int = SUBMITTED_SEEDS
    """How many seeds to train: 0, 1, 2 and so on."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "fp32"
    """fp32, bf16 or fp16."""
    compile: str = "no"
    """no, inductor, or another backend of torch.compile."""
    set: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="KEY=VALUE", help=f"{SETTING_HELP}gan/train.py --dry-run shows the fields."),
    ] = ()
    most_images: int = MOST_IMAGES
    """Images after which a seed has failed; fewer than the default make a trial, which is no submission."""
    output: Annotated[Path | None, optional(Path, "FILE", "results/time-to-quality/…")] = None
    """The file to write."""
    go_on: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """Go on with the seeds that --output lacks; on the same machine, with the same settings. A complete file is
    only shown, on any machine."""
    against: Annotated[Path | None, optional(Path, "FILE", "none")] = None
    """Also show how many times as fast the seeds are as those of the submission in this file."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""

    def validate(self) -> None:
        """Check what needs no data; raise UsageError."""
        self.train_options(0).validate()
        for flag, value, known in (
            ("--dataset", self.dataset, TARGETS),
            ("--subject", self.subject, TRAINEES),
            ("--device", self.device, AXES["device"].known),
            ("--precision", self.precision, PRECISIONS),
            ("--compile", self.compile, AXES["compile"].known),
        ):
            require_known(flag, value, known)
        for name in ("seeds", "most_images"):
            require_at_least(name, getattr(self, name), 1)
            require_at_most(name, getattr(self, name))
        plain_takes = {"--precision": (self.precision, "fp32"), "--compile": (self.compile, "no")}
        for flag, (value, only) in plain_takes.items():
            if self.subject == "plain" and value != only:
                raise UsageError(f"{flag} {value}: the plain loop is always fp32 and eager; leave it out")

    def train_options(self, seed: int) -> TrainOptions:
        """Return the options that a seed is trained with."""
        return TrainOptions(
            recipe=self.recipe,
            dataset=self.dataset,
            data_root=self.data_root,
            set=self.set,
            seed=seed,
            steps=self.most_images,  # more than it takes
            output=NOWHERE,
        )

    @property
    def path(self) -> Path:
        """The file to write."""
        if self.output is not None:
            return self.output
        words = [self.train_options(0).label, self.dataset, self.subject]
        words += [word for word in (self.precision, self.compile) if word not in ("fp32", "no")]
        words += ["gpu"] if self.device == "cuda" else []
        words += [re.sub(r"[^\w.,=-]+", "_", setting) for setting in self.set]
        words += [f"{self.most_images}-images"] if self.most_images != MOST_IMAGES else []
        return results_folder() / "time-to-quality" / f"{fitting_name('-'.join(words))}.json"
