"""T3, convergence: do two configurations train as well? Equivalence of what their seeds come to.

That two means do not differ significantly proves nothing; that their difference lies within a margin can be shown.
The margin is one standard deviation between seeds of the reference: less than what another seed does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gan.errors import UsageError
from gan.files.json_files import read_json

SCHEMA = "gan-reference/1"
REFERENCES = Path(__file__).resolve().parent.parent.parent / "results" / "reference"
ERROR_RATE = 0.05
MARGIN_SDS = 1.0
SD_RATIO_LIMIT = 2.0
LEAST_SEEDS = 3
MOST = 1e60
"""Fourth powers of larger numbers are not finite."""


@dataclass(frozen=True)
class Sample:
    """A metric over seeds: mean, standard deviation (with n - 1) and number."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """Return the sample of some values, one a seed; nan where one is not finite."""
        if not np.isfinite(values).all():
            return cls(math.nan, math.nan, len(values))
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))

    @property
    def variance_of_mean(self) -> float:
        """The squared standard error."""
        return self.sd**2 / self.n


@dataclass(frozen=True)
class Verdict:
    """What is known of one metric.

    Attributes:
        metric: Its name.
        difference: Of the means, in standard deviations of the reference.
        p_equivalent: Of the two one-sided tests, corrected for the number of metrics.
        p_different: Of the two-sided test, corrected likewise.
        sd_ratio: Of the standard deviations between seeds.
        p_sd: That the ratio is 1, corrected likewise.
    """

    metric: str
    difference: float
    p_equivalent: float
    p_different: float
    sd_ratio: float
    p_sd: float

    @property
    def word(self) -> str:
        """`equivalent`, `different` (also where seeds scatter otherwise or are not finite), or `undecided`.

        More seeds decide.
        """
        if not math.isfinite(self.difference):
            return "different"
        scatter = self.p_sd <= ERROR_RATE and not 1 / SD_RATIO_LIMIT <= self.sd_ratio <= SD_RATIO_LIMIT
        if scatter or (self.p_different <= ERROR_RATE and abs(self.difference) > MARGIN_SDS):
            return "different"
        return "equivalent" if self.p_equivalent <= ERROR_RATE else "undecided"


def samples_of(seeds: Sequence[Mapping[str, float]]) -> dict[str, Sample]:
    """Return each metric over the seeds, of what each came to."""
    return {name: Sample.of([outcome[name] for outcome in seeds]) for name in seeds[0]}


def two_one_sided(ours: Sample, reference: Sample, margin: float) -> float:
    """Return the p-value of means that differ by `margin` or more, by Welch's t in both directions.

    Schuirmann 1987, doi:10.1007/BF01068419.
    """
    difference, error, freedom = _welch(ours, reference)
    if ours == replace(reference, n=ours.n) and not ours.sd:
        return 0.0
    below = stats.t.sf((difference + margin) / error, freedom)
    above = stats.t.cdf((difference - margin) / error, freedom)
    return float(max(below, above))


def two_sided(ours: Sample, reference: Sample) -> float:
    """Return the p-value of equal means, by Welch's t."""
    difference, error, freedom = _welch(ours, reference)
    return float(2 * stats.t.sf(abs(difference) / error, freedom))


def _welch(ours: Sample, reference: Sample) -> tuple[float, float, float]:
    parts = [ours.variance_of_mean, reference.variance_of_mean]
    error = math.sqrt(max(sum(parts), 1e-300))
    weights = sum(part**2 / (sample.n - 1) for part, sample in zip(parts, (ours, reference), strict=True))
    freedom = sum(parts) ** 2 / weights if weights > 0 else float(ours.n + reference.n - 2)
    return ours.mean - reference.mean, error, freedom


def equal_scatter(ours: Sample, reference: Sample) -> float:
    """Return the p-value of equal standard deviations, by F in both directions."""
    if not reference.sd:
        return float(not ours.sd)
    ratio = (ours.sd / reference.sd) ** 2
    tail = min(stats.f.cdf(ratio, ours.n - 1, reference.n - 1), stats.f.sf(ratio, ours.n - 1, reference.n - 1))
    return float(min(1.0, 2 * tail))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979): each claim holds at the rate for all together."""
    corrected, highest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def verdicts(ours: Mapping[str, Sample], reference: Mapping[str, Sample]) -> list[Verdict]:
    """Return what is known of each metric that both have.

    What is not finite differs, and takes no part in the correction for the number of metrics. What is the same in
    all seeds of both is equivalent.
    """
    names = [name for name in reference if name in ours and math.isfinite(ours[name].sd)]
    lost = [name for name in reference if name in ours and name not in names]
    equivalent = holm(
        {name: two_one_sided(ours[name], reference[name], MARGIN_SDS * reference[name].sd) for name in names}
    )
    different = holm({name: two_sided(ours[name], reference[name]) for name in names})
    scatter = holm({name: equal_scatter(ours[name], reference[name]) for name in names})
    return [
        Verdict(
            name,
            (ours[name].mean - reference[name].mean) / max(reference[name].sd, 1e-300),
            equivalent[name],
            different[name],
            ours[name].sd / max(reference[name].sd, 1e-300),
            scatter[name],
        )
        for name in names
    ] + [Verdict(name, math.nan, 1.0, 0.0, math.nan, 0.0) for name in lost]


@dataclass(frozen=True)
class Reference:
    """What a recipe comes to: made once on a trusted configuration, and compared with from then on."""

    configuration: dict[str, Any]
    metrics: dict[str, Sample]
    environment: dict[str, Any]

    def require(self, protocol: Mapping[str, Any], outcomes: Sequence[str], path: Path) -> None:
        """Raise UsageError where it was made by another protocol than what is compared with it, or lacks one."""
        if lacking := set(outcomes) - self.metrics.keys():
            raise UsageError(f"{path}: lacks {', '.join(sorted(lacking))}; make it again with: {making(path)}")
        for key, value in protocol.items():
            if (made := self.configuration.get(key)) != value:
                raise UsageError(
                    f"{path}: made with {key} {made}, which is now {value}; make it again with: {making(path)}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the file's content."""
        return {
            "schema": SCHEMA,
            "configuration": self.configuration,
            "metrics": {name: asdict(sample) for name, sample in self.metrics.items()},
            "environment": self.environment,
        }


def reference_path(recipe: str, global_batch_size: int) -> Path:
    """Return where a recipe's reference is."""
    return REFERENCES / f"{recipe}-b{global_batch_size}.json"


def making(path: Path) -> str:
    """Return the command that makes the reference which `reference_path` names."""
    recipe, _, batch_size = path.stem.rpartition("-b")
    return f"python -m bench reference --recipe {recipe} --batch-size {batch_size} --make"


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        UsageError: It is missing, damaged or of another version.
    """
    again = f"make it again with: {making(path)}"
    data = read_json(path, missing=f"make it with: {making(path)}")
    if not isinstance(data, dict) or "schema" not in data:
        raise UsageError(f"{path}: damaged (it names no schema); {again}")
    if (schema := data["schema"]) != SCHEMA:
        raise UsageError(f"{path}: schema {str(schema)[:40]}; this version reads {SCHEMA}; {again}")
    for name in ("configuration", "metrics", "environment"):
        if not isinstance(data.get(name), dict):
            raise UsageError(f"{path}: damaged ({name} is no object); {again}")
    for name, sample in data["metrics"].items():
        if not _is_sample(sample):
            raise UsageError(
                f"{path}: damaged ({name} must have a mean, an sd of at least 0 and an n of at least 2); {again}"
            )
    metrics = {name: Sample(**sample) for name, sample in data["metrics"].items()}
    return Reference(data["configuration"], metrics, data["environment"])


def _is_sample(sample: Any) -> bool:
    if not isinstance(sample, dict) or sample.keys() != {"mean", "sd", "n"}:
        return False
    mean, sd, n = sample["mean"], sample["sd"], sample["n"]
    numbers = all(type(value) in (int, float) and abs(value) <= MOST for value in (mean, sd))
    return numbers and sd >= 0 and type(n) is int and 2 <= n <= MOST
