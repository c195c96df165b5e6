"""T3, convergence: do two configurations train as well? Equivalence of what their seeds come to.

That two means do not differ significantly proves nothing; that their difference lies within a margin can be shown.
The margin is one standard deviation between seeds of the reference: less than what another seed does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

ERROR_RATE = 0.05
MARGIN_SDS = 1.0
SD_RATIO_LIMIT = 2.0
LEAST_SEEDS = 3


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
