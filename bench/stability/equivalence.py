"""T3, convergence: do two configurations train equally well? Statistics of their seeds' outcomes.

Two means that do not differ significantly may still differ: few seeds show nothing. So the test is turned round.
The hypothesis to be rejected is that the means differ by a margin or more, and few seeds reject nothing. The
margin is one standard deviation between seeds of the reference, which is less than what another seed does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

ERROR_RATE = 0.05
MARGIN_SDS = 1.0
"""In standard deviations between seeds of the reference."""
SD_RATIO_LIMIT = 2.0
LEAST_SEEDS = 3
LEAST_DIVISOR = 1e-300
"""Instead of a standard deviation of 0, if all seeds have the same outcome."""


@dataclass(frozen=True)
class Sample:
    """A metric over seeds: mean, standard deviation (with n - 1) and number."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample":
        """Return the sample of values, one per seed; NaN if one of them is not finite."""
        if not np.isfinite(values).all():
            return cls(math.nan, math.nan, len(values))
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))

    @property
    def variance_of_mean(self) -> float:
        """The squared standard error."""
        return self.sd**2 / self.n


@dataclass(frozen=True)
class Verdict:
    """How a metric compares with the reference. All p-values are corrected for the number of metrics.

    Attributes:
        metric: Its name.
        difference: Of the means, in standard deviations of the reference.
        p_equivalent: Of means that differ by the margin or more. A small one shows equivalence.
        p_different: Of equal means.
        sd_ratio: Of the standard deviations between seeds.
        p_sd: Of equal standard deviations.
    """

    metric: str
    difference: float
    p_equivalent: float
    p_different: float
    sd_ratio: float
    p_sd: float

    @property
    def word(self) -> str:
        """`equivalent`, `different` or `undecided`; more seeds decide.

        Different are also outcomes that are not finite, and seeds that scatter over twice or under half as much.
        """
        if not math.isfinite(self.difference):
            return "different"
        scatters = self.p_sd <= ERROR_RATE and not 1 / SD_RATIO_LIMIT <= self.sd_ratio <= SD_RATIO_LIMIT
        if scatters or (self.p_different <= ERROR_RATE and abs(self.difference) > MARGIN_SDS):
            return "different"
        return "equivalent" if self.p_equivalent <= ERROR_RATE else "undecided"


def samples_of(seeds: Sequence[Mapping[str, float]]) -> dict[str, Sample]:
    """Return each metric over the seeds, from the outcome of each seed."""
    return {name: Sample.of([outcome[name] for outcome in seeds]) for name in seeds[0]}


def two_one_sided(ours: Sample, reference: Sample, margin: float) -> float:
    """Return the p-value of means that differ by `margin` or more (Schuirmann 1987, doi:10.1007/BF01068419).

    Two one-sided tests reject "lower by the margin" and "higher by the margin". Both have to, so the larger
    p-value counts, and needs no correction for there being two.
    """
    if ours == replace(reference, n=ours.n) and not ours.sd:
        return 0.0  # all seeds of both have the same outcome
    difference, error, freedom = _welch(ours, reference)
    p_lower = stats.t.sf((difference + margin) / error, freedom)
    p_higher = stats.t.cdf((difference - margin) / error, freedom)
    return float(max(p_lower, p_higher))


def two_sided(ours: Sample, reference: Sample) -> float:
    """Return the p-value of equal means, by Welch's t."""
    difference, error, freedom = _welch(ours, reference)
    return float(2 * stats.t.sf(abs(difference) / error, freedom))


def _welch(ours: Sample, reference: Sample) -> tuple[float, float, float]:
    """Return the difference of the means, its standard error and the degrees of freedom of its t.

    The two configurations may scatter differently, so their variances are not pooled. Then the error is only about
    a t's, with the degrees of freedom of Welch and Satterthwaite: fewer, the more one sample dominates the error.
    """
    variances = [ours.variance_of_mean, reference.variance_of_mean]
    error = math.sqrt(max(sum(variances), LEAST_DIVISOR))
    weights = sum(
        variance**2 / (sample.n - 1) for variance, sample in zip(variances, (ours, reference), strict=True)
    )
    freedom = sum(variances) ** 2 / weights if weights > 0 else float(ours.n + reference.n - 2)
    return ours.mean - reference.mean, error, freedom


def equal_scatter(ours: Sample, reference: Sample) -> float:
    """Return the p-value of equal standard deviations, by F in both directions."""
    if not reference.sd:
        return float(not ours.sd)
    ratio = (ours.sd / reference.sd) ** 2
    tail = min(stats.f.cdf(ratio, ours.n - 1, reference.n - 1), stats.f.sf(ratio, ours.n - 1, reference.n - 1))
    return float(min(1.0, 2 * tail))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979), so that one error rate holds for all together.

    The smallest of n is multiplied by n, the next by n - 1, and so on: once a claim is made, one fewer can be
    wrong. None may end below a smaller one.

    >>> holm({"loss": 0.01, "fid": 0.04, "coverage": 0.03})
    {'loss': 0.03, 'fid': 0.06, 'coverage': 0.06}
    """
    corrected = {}
    highest = 0.0
    for index, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - index) * p))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def verdicts(ours: Mapping[str, Sample], reference: Mapping[str, Sample]) -> list[Verdict]:
    """Return a verdict for each metric that both have.

    A metric that is not finite is different, and takes no part in the correction for the number of metrics.
    """
    shared = [name for name in reference if name in ours]
    names = [name for name in shared if math.isfinite(ours[name].sd)]
    equivalent = holm(
        {name: two_one_sided(ours[name], reference[name], MARGIN_SDS * reference[name].sd) for name in names}
    )
    different = holm({name: two_sided(ours[name], reference[name]) for name in names})
    scatter = holm({name: equal_scatter(ours[name], reference[name]) for name in names})
    finite = [
        Verdict(
            name,
            (ours[name].mean - reference[name].mean) / max(reference[name].sd, LEAST_DIVISOR),
            equivalent[name],
            different[name],
            ours[name].sd / max(reference[name].sd, LEAST_DIVISOR),
            scatter[name],
        )
        for name in names
    ]
    lost = [name for name in shared if name not in names]
    return finite + [Verdict(name, math.nan, 1.0, 0.0, math.nan, 0.0) for name in lost]
