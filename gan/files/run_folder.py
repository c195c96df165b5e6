"""The folder of a run: where its files are, and which directory is the next run's."""

import glob
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan.errors import UsageError
from gan.files.atomic import UNFINISHED
from gan.files.json_files import read_json

DEFAULT_OUTPUTS = Path("runs")
RUN_SCHEMA = "gan-run/1"
MEND_CONFIG = "restore it, or begin a run in another --output"
REMAINS = (
    *("metrics.jsonl", "summary.json", "checkpoints", "generator.safetensors", "generator.json"),
    *("generators", "samples", "evaluation.json", "curves.png", "progress.gif"),
)
"""What a run without its config.json can be told by."""


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    root: Path

    @property
    def config(self) -> Path:
        """Options, recipe, strategy and environment; its existence makes the directory a run."""
        return self.root / "config.json"

    def require_new(self) -> None:
        """Raise UsageError where the directory holds a run, or what is left of one."""
        another = "choose another directory"
        if self.config.exists():
            raise UsageError(f"--output {self.root}: already holds a run; continue it with --resume, or {another}")
        if remains := [name for name in REMAINS if (self.root / name).exists()]:
            raise UsageError(
                f"--output {self.root}: holds {', '.join(remains)} of a run whose config.json is gone; "
                f"{another}, or restore the file and --resume"
            )

    @property
    def metrics(self) -> Path:
        """A line an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The end of a run that came to its end."""
        return self.root / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The last checkpoints."""
        return self.root / "checkpoints"

    @property
    def generator(self) -> Path:
        """G's weights at the last checkpoint."""
        return self.root / "generator.safetensors"

    @property
    def generator_config(self) -> Path:
        """What rebuilds G."""
        return self.root / "generator.json"

    def generator_of(self, epoch: int) -> Path:
        """G's weights at the end of an epoch, where they are kept."""
        return self.root / "generators" / f"epoch_{epoch:04d}.safetensors"

    @property
    def evaluation(self) -> Path:
        """Scores of the generator, which gan/evaluate.py writes."""
        return self.root / "evaluation.json"

    @property
    def curves(self) -> Path:
        """Losses and probabilities over epochs."""
        return self.root / "curves.png"

    @property
    def animation(self) -> Path:
        """The sample grids, one after another."""
        return self.root / "progress.gif"

    def sample(self, epoch: int) -> Path:
        """The sample grid of an epoch, from latents that stay the same."""
        return self.root / "samples" / f"epoch_{epoch:04d}.png"

    @property
    def real(self) -> Path:
        """A grid of real images as the networks get them."""
        return self.root / "samples" / "real.png"

    def remove_unfinished(self) -> None:
        """Delete what a kill in the middle of training has left; evaluations and pictures may be in the making."""
        for directory in ("", "samples", "checkpoints", "generators"):
            for path in (self.root / directory).glob(f".*{UNFINISHED}"):
                if re.fullmatch(rf"\.(?!{self.evaluation.name}\.).+\.\d+{re.escape(UNFINISHED)}", path.name):
                    path.unlink(missing_ok=True)

    def samples(self) -> list[Path]:
        """Return the sample grids there are, in order of their epochs."""
        numbers = {path: _number(r"epoch_(\d+)\.png", path) for path in self.root.glob("samples/epoch_*.png")}
        return sorted((path for path in numbers if numbers[path]), key=lambda path: numbers[path] or 0)


def default_output(recipe: str) -> Path:
    """Return runs/RECIPE where there is none yet, or runs/RECIPE-N, N one more than the highest there is."""
    highest = max(_default_outputs(recipe), default=0)
    return _default_output(recipe, highest + 1)


def newest_default_output(recipe: str) -> Path | None:
    """Return the one of runs/RECIPE, runs/RECIPE-2, ... with the highest number that holds files of a run."""
    for number in sorted(_default_outputs(recipe), reverse=True):
        path = _default_output(recipe, number)
        if any((path / name).exists() for name in ("config.json", *REMAINS)):
            return path
    return None


def _default_outputs(recipe: str) -> list[int]:
    """Return the numbers of the directories there are."""
    names = rf"{re.escape(recipe)}(?:-([2-9]|[1-9]\d+))?"
    matches = (re.fullmatch(names, path.name) for path in DEFAULT_OUTPUTS.glob(f"{glob.escape(recipe)}*"))
    return [int(match[1] or 1) for match in matches if match]


def _default_output(recipe: str, number: int) -> Path:
    return DEFAULT_OUTPUTS / (recipe if number == 1 else f"{recipe}-{number}")


def _number(pattern: str, path: Path) -> int | None:
    match = re.fullmatch(pattern, path.name)
    return int(match[1]) if match else None


def read_config(path: Path) -> dict[str, Any]:
    """Return a run's configuration, of which `options`, `identity` and `strategy` are objects.

    Raises:
        UsageError: It is missing or damaged, or of another version.
    """
    data = read_json(path, missing="name a directory that gan/train.py wrote", mend=MEND_CONFIG)
    sections = ("options", "identity", "strategy")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), dict) for name in sections):
        raise UsageError(f"{path}: damaged (lacks {', '.join(sections)}, or one of them); {MEND_CONFIG}")
    if data.get("schema") != RUN_SCHEMA:
        schema = reprlib.repr(data.get("schema"))
        raise UsageError(f"{path}: damaged (schema {schema} instead of {RUN_SCHEMA!r}); {MEND_CONFIG}")
    return data
