"""A submission: the seeds of one recipe on one machine, each with its course; kept after every seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scipy import stats

from bench.quality.rules import RULES_VERSION, Rules
from bench.results.environment import SessionEnvironment, recorded_machine
from gan.errors import UsageError
from gan.files.json_files import read_json, write_json
from gan.process.program import command_of

SCHEMA = "gan-time-to-quality/1"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Point:
    """An evaluation.

    Attributes:
        images: Real images seen by then.
        seconds: Of training until then.
        fid: The Fréchet distance.
    """

    images: int
    seconds: float
    fid: float


@dataclass(frozen=True)
class Seed:
    """How a seed fared; its course ends with the evaluation that met the target, or with the last one.

    Attributes:
        seed: Its number.
        reached: Whether it met the target.
        diverged: Whether its losses were not finite.
        course: Its evaluations.
        lost_seconds: Of training after the course, until the seed diverged.
        revision: Of the code that trained it, with `+` if files differed from it; "" if it is not known, as in
            files before it was recorded.
    """

    seed: int
    reached: bool
    diverged: bool
    course: tuple[Point, ...]
    lost_seconds: float = 0.0
    revision: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Seed":
        """Return what `asdict` made; raise KeyError, TypeError or ValueError if it is not that."""
        points = tuple(Point(int(p["images"]), float(p["seconds"]), float(p["fid"])) for p in data["course"])
        ended = (int(data["seed"]), bool(data["reached"]), bool(data["diverged"]))
        return cls(*ended, points, float(data.get("lost_seconds", 0.0)), str(data.get("revision", "")))

    @property
    def images(self) -> int:
        """Images seen at the end."""
        return self.course[-1].images if self.course else 0

    @property
    def seconds(self) -> float:
        """Seconds of training at the end."""
        return (self.course[-1].seconds if self.course else 0.0) + self.lost_seconds


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and half the width of its 95 % interval by Student's t; NaN for a single seed."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Return the interval of at least one value."""
        if len(values) < 2:
            return cls(values[0], math.nan)
        error = statistics.stdev(values) / math.sqrt(len(values))
        return cls(statistics.fmean(values), float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error)


@dataclass(frozen=True)
class Submission:
    """Everything that was measured.

    Attributes:
        recipe: Its name, or the file and name.
        row: The recipe's values, as in a run's identity.
        batch_size: Real images of an update of D.
        subject: Core or plain.
        settings: How it ran: device, precision, compiler, threads.
        rules: What had to be reached.
        seeds: In the order in which they ran.
        environment: Machine and versions, and the revision of the first session.
    """

    recipe: str
    row: Mapping[str, Any]
    batch_size: int
    subject: str
    settings: Mapping[str, Any]
    rules: Rules
    seeds: tuple[Seed, ...]
    environment: Mapping[str, Any]

    @property
    def reached(self) -> list[Seed]:
        """The seeds that met the target."""
        return [seed for seed in self.seeds if seed.reached]

    @property
    def images_per_step(self) -> int:
        """Most real images of a step: the last batch of an epoch may be smaller."""
        return self.batch_size * int(self.row.get("discriminator_steps", 1))

    @property
    def num_failed(self) -> int:
        """How many seeds did not meet the target."""
        return len(self.seeds) - len(self.reached)

    @property
    def seconds_per_success(self) -> float:
        """Seconds of all seeds, failed ones too, over the number that met the target; infinite if none did."""
        return sum(seed.seconds for seed in self.seeds) / len(self.reached) if self.reached else math.inf

    @property
    def name(self) -> str:
        """Recipe, dataset and subject."""
        return f"{self.recipe} on {self.rules.dataset}, {self.subject}"

    @property
    def terms(self) -> tuple[object, ...]:
        """What must agree between two submissions whose images are compared."""
        return self.row, self.batch_size, self.rules

    @property
    def machine(self) -> str:
        """Machine and versions in one line."""
        return recorded_machine(self.environment)

    def with_seed(self, seed: Seed) -> "Submission":
        """Return it with one seed more."""
        return replace(self, seeds=(*self.seeds, seed))

    def to_json(self) -> dict[str, Any]:
        """Return the file's content."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Submission":
        """Return what `to_json` made; raise AttributeError, KeyError, TypeError or ValueError if it is not."""
        SessionEnvironment.of(data["environment"])
        seeds = tuple(map(Seed.of, data["seeds"]))
        if len({seed.seed for seed in seeds}) < len(seeds):
            raise ValueError("a seed is there twice")
        texts = (str(data["recipe"]), dict(data["row"]), int(data["batch_size"]), str(data["subject"]))
        others = (dict(data["settings"]), Rules.parse(data["rules"]), seeds, dict(data["environment"]))
        submission = cls(*texts, *others)
        if submission.images_per_step < 1:
            raise ValueError(f"a step takes {submission.images_per_step} images")
        return submission

    def require_consistent(self, path: Path) -> None:
        """Raise UsageError if a seed's course does not say what the seed says, or is not by the rules."""
        for seed in self.seeds:
            images = [point.images for point in seed.course]
            seconds = [point.seconds for point in seed.course]
            met = [point.fid <= self.rules.target for point in seed.course]
            complaints = {
                "its images or seconds do not grow": images != sorted(set(images)) or seconds != sorted(seconds),
                "it went on after it had met the target": any(met[:-1]),
                "its last evaluation is not what it says": seed.reached != bool(met and met[-1]),
                "it ended early": not (seed.reached or seed.diverged or images[-1:] >= [self.rules.most]),
            }
            for complaint, applies in complaints.items():
                if applies:
                    raise UsageError(f"{path}: seed {seed.seed}: {complaint}")


def write_submission(path: Path, submission: Submission) -> None:
    """Write a submission, whole or not at all."""
    write_json(path, submission.to_json())


def read_submission(path: Path) -> Submission:
    """Read a submission; raise UsageError if it is missing, damaged, contradicts itself or has other rules."""
    data = read_json(path, missing=f"make it with: {command_of('bench')} time-to-quality --recipe NAME")
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise UsageError(f"{path}: schema {str(schema)[:40]}; this version reads {SCHEMA}")
    try:
        submission = Submission.of(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({str(error)[:200]})") from error
    if submission.rules.version != RULES_VERSION:
        raise UsageError(
            f"{path}: by version {submission.rules.version} of the rules, which is now {RULES_VERSION}"
        )
    submission.require_consistent(path)
    return submission
