"""The folder of a run: where its files are, and which directory is the next run's."""

import glob
import re
import reprlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.errors import UsageError
from gan.files.atomic import UNFINISHED
from gan.files.json_files import read_json

DEFAULT_OUTPUTS = Path("runs")
RUN_SCHEMA = "gan-run/1"
MEND_CONFIG = "restore it, or begin a run in another --output"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by role. They need not exist."""

    root: Path

    @property
    def config(self) -> Path:
        """Options, recipe, strategy and environment; its existence makes the directory a run."""
        return self.root / "config.json"

    @property
    def resume_flags(self) -> str:
        """The options that continue the run, to be typed in a shell."""
        return f"--resume --output {shlex.quote(str(self.root))}"

    def require_new(self) -> None:
        """Raise UsageError if the directory holds a run, or what is left of one."""
        another = "choose another directory"
        if self.config.exists():
            raise UsageError(f"--output {self.root}: already holds a run; continue it with --resume, or {another}")
        if remains := _remains(self):
            raise UsageError(
                f"--output {self.root}: holds {', '.join(remains)} of a run whose config.json is gone; "
                f"{another}, or restore the file and --resume"
            )

    @property
    def metrics(self) -> Path:
        """Losses, probabilities and scores, one JSON line per epoch."""
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Written when a run has trained to its end."""
        return self.root / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The directory of the last checkpoints."""
        return self.root / "checkpoints"

    @property
    def generator(self) -> Path:
        """G's weights at the last checkpoint."""
        return self.root / "generator.safetensors"

    @property
    def best_generator(self) -> Path:
        """G's weights at the best epoch so far, of a run that keeps it."""
        return self.root / "generator_best.safetensors"

    @property
    def generator_config(self) -> Path:
        """The architecture of G, from which it is rebuilt."""
        return self.root / "generator.json"

    def generator_of(self, epoch: int) -> Path:
        """G's weights at the end of an epoch, of a run that keeps a generator per epoch."""
        return self.root / "generators" / f"epoch_{epoch:04d}.safetensors"

    @property
    def evaluation(self) -> Path:
        """Scores of the generator, written by gan/evaluate.py."""
        return self.root / "evaluation.json"

    @property
    def best_evaluation(self) -> Path:
        """Scores of the best generator, written by gan/evaluate.py."""
        return self.root / "evaluation_best.json"

    @property
    def curves(self) -> Path:
        """Losses and probabilities over epochs."""
        return self.root / "curves.png"

    @property
    def animation(self) -> Path:
        """The sample grids, one after another."""
        return self.root / "progress.gif"

    def sample(self, epoch: int) -> Path:
        """The sample grid of an epoch; the latents are the same in every epoch."""
        return self.root / "samples" / f"epoch_{epoch:04d}.png"

    @property
    def real(self) -> Path:
        """A grid of real images, as D sees them."""
        return self.root / "samples" / "real.png"

    def remove_unfinished(self) -> None:
        """Delete the half-written files that a kill in the middle of training has left.

        Those of an evaluation stay: it may be writing its file now, and takes no lock.
        """
        for directory in ("", "samples", "checkpoints", "generators"):
            for path in (self.root / directory).glob(f".*{UNFINISHED}"):
                if re.fullmatch(rf"\.(?!{self.evaluation.stem}[._]).+\.\d+{re.escape(UNFINISHED)}", path.name):
                    path.unlink(missing_ok=True)

    @property
    def of_training(self) -> list[Path]:
        """The files and directories that training writes, besides config.json."""
        return [
            *(self.metrics, self.summary, self.checkpoints),
            *(self.generator, self.best_generator, self.generator_config),
            *(self.generator_of(1).parent, self.sample(1).parent),
            *(self.curves, self.animation),
        ]

    def samples(self) -> list[Path]:
        """Return the sample grids that exist, in order of their epochs."""
        epochs: dict[Path, int] = {}
        for path in self.root.glob("samples/epoch_*.png"):
            if match := re.fullmatch(r"epoch_(\d+)\.png", path.name):
                epochs[path] = int(match[1])
        return sorted((path for path, epoch in epochs.items() if epoch > 0), key=lambda path: epochs[path])


def _remains(folder: RunFolder) -> list[str]:
    """Return the names of what shows that a directory without config.json once held a run."""
    return [
        path.name for path in (*folder.of_training, folder.evaluation, folder.best_evaluation) if path.exists()
    ]


def default_output(recipe: str) -> Path:
    """Return runs/RECIPE, or runs/RECIPE-N if that is taken, where N is one more than the highest that exists."""
    highest = max(_default_output_numbers(recipe), default=0)
    return _default_output(recipe, highest + 1)


def newest_default_output(recipe: str) -> Path | None:
    """Return the one of runs/RECIPE, runs/RECIPE-2, … with the highest number that holds files of a run."""
    folders = map(RunFolder, default_outputs(recipe))
    return next((folder.root for folder in folders if folder.config.exists() or _remains(folder)), None)


def default_outputs(recipe: str) -> list[Path]:
    """Return those of runs/RECIPE, runs/RECIPE-2, … that exist, the highest number first."""
    return [_default_output(recipe, number) for number in sorted(_default_output_numbers(recipe), reverse=True)]


def _default_output_numbers(recipe: str) -> list[int]:
    """Return the numbers N of the directories runs/RECIPE-N that exist; runs/RECIPE is number 1."""
    names = rf"{re.escape(recipe)}(?:-([2-9]|[1-9]\d+))?"
    matches = (re.fullmatch(names, path.name) for path in DEFAULT_OUTPUTS.glob(f"{glob.escape(recipe)}*"))
    return [int(match[1] or 1) for match in matches if match]


def _default_output(recipe: str, number: int) -> Path:
    return DEFAULT_OUTPUTS / (recipe if number == 1 else f"{recipe}-{number}")


def read_config(path: Path) -> dict[str, Any]:
    """Return the config.json of a run; its `options`, `identity` and `strategy` are objects.

    Raises:
        UsageError: The file is missing, damaged, or of another version.
    """
    data = read_json(path, missing="name a directory that training wrote", mend=MEND_CONFIG)
    sections = ("options", "identity", "strategy")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), dict) for name in sections):
        raise UsageError(f"{path}: damaged (lacks {', '.join(sections)}, or one of them); {MEND_CONFIG}")
    if data.get("schema") != RUN_SCHEMA:
        schema = reprlib.repr(data.get("schema"))
        raise UsageError(f"{path}: damaged (schema {schema} instead of {RUN_SCHEMA!r}); {MEND_CONFIG}")
    return data
