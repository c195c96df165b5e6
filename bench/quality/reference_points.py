"""Has a submission seen the images that its recipe takes? Compared with reference points, in both directions.

MLPerf's reference convergence points ask only whether a submission converged in fewer epochs than the reference.
Here one that takes more images is as doubtful: its arithmetic may differ, or its recipe.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.quality.rules import LEAST_SEEDS
from bench.quality.submission import CONFIDENCE, Submission

ERROR_RATE = 0.01
"""Of a submission that is called different and is not; both directions together."""
FEWER = "fewer images"
MORE = "more images"
CONSISTENT = "consistent"
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    """A submission beside the reference points of its recipe.

    Attributes:
        ratio: Geometric mean of the images to the target, over that of the reference; of seeds that met it. NaN if
            none did.
        low: Lower end of the ratio's 95 % interval; NaN with fewer than two such seeds on a side.
        high: Upper end.
        p: Of the two having seeds of one kind (Mann and Whitney 1947, doi:10.1214/aoms/1177730491), two-sided; NaN
            if that is undecided.
        word: FEWER, MORE, CONSISTENT or UNDECIDED.
    """

    ratio: float
    low: float
    high: float
    p: float
    word: str


def compare(ours: Submission, reference: Submission) -> Comparison:
    """Compare the images that seeds took to the target. A seed that failed took more than any that did not."""
    ratio, low, high = _ratio(ours, reference)
    if min(len(ours.seeds), len(reference.seeds)) < LEAST_SEEDS:
        return Comparison(ratio, low, high, math.nan, UNDECIDED)
    p, direction = _mann_whitney(_images(ours), _images(reference))
    word = CONSISTENT if p > ERROR_RATE else (MORE if direction > 0 else FEWER)
    return Comparison(ratio, low, high, p, word)


def _images(submission: Submission) -> list[float]:
    return [float(seed.images) if seed.reached else math.inf for seed in submission.seeds]


def _mann_whitney(ours: list[float], reference: list[float]) -> tuple[float, float]:
    """Return the two-sided p-value, and a number above 0 if ours are larger."""
    ranks = stats.rankdata([*ours, *reference])
    if len(set(ranks)) == 1:
        return 1.0, 0.0
    result = stats.mannwhitneyu(ranks[: len(ours)], ranks[len(ours) :], alternative="two-sided")
    return float(result.pvalue), float(result.statistic) - len(ours) * len(reference) / 2


def _ratio(ours: Submission, reference: Submission) -> tuple[float, float, float]:
    """Return the ratio of geometric means and its interval by Welch's t of the logarithms; NaN without seeds."""
    logs = [np.log([seed.images for seed in side.reached]) for side in (ours, reference)]
    if min(map(len, logs)) < 1:
        return math.nan, math.nan, math.nan
    difference = float(logs[0].mean() - logs[1].mean())
    if min(map(len, logs)) < 2 or not sum(float(log.std()) for log in logs):
        return math.exp(difference), math.nan, math.nan
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(CONFIDENCE)
    return math.exp(difference), math.exp(interval.low), math.exp(interval.high)
