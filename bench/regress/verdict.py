"""The statistics of the regression check: pure functions of the log ratios d of launch pairs, one a pair.

Is HEAD slower than BASE by more than the margin? One-sided signed-rank tests answer, after a few fixed numbers of
pairs. They are exact, and share the error that a check may make. docs/regression.md says it in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

MARGIN = math.log(1.005)
"""A change is called slower only if its log ratio is surely above this."""
FASTER_MARGIN = math.log(1.01)
"""A change is called faster only if it is surely better than by this."""
ALARM_BOUND = 1e-3
"""Largest share of checks at the margin that may end in an alarm, over all figures and looks of a check."""
PASS_ERROR = 0.05
"""Largest share of checks in which a figure that is worse by the tolerance may pass, over all looks."""
LEAST_PAIRS = 6
"""Of the first look, which may pass but raise no alarm."""
FIRST_PASS_PART = 0.5
"""The part of PASS_ERROR that it may make."""
FIRST_ALARM_PART = 0.5
"""The part of ALARM_BOUND that the first look that may raise one spends."""
LATER_LOOKS = (
    (2 / 3, 0.0, 0.1),
    (5 / 6, 0.0, 0.1),
    (1, FIRST_ALARM_PART, 0.1),
    (4 / 3, 0.2, 0.05),
    (5 / 3, 0.1, 0.05),
    (2, 0.1, 0.05),
    (3, 0.05, 0.025),
    (4, 0.05, 0.025),
)
"""Pairs as multiples of the fewest that can raise an alarm, and the parts of both errors that a look may make."""
CLEAR = 0.2
"""Before the last look a figure passes only if the p-value against the margin is above this."""
SHOWN_ERROR = 0.025
"""One-sided error of the bounds and changes that are shown, and of the word FASTER."""
LEAST_MEMORY_PAIRS = 3

REGRESSION = "REGRESSION"
INCONCLUSIVE = "INCONCLUSIVE"
FASTER = "FASTER"
PASS = "PASS"
REFUSED = "REFUSED"
"""Of a whole check, if a benchmark has disappeared."""
EXIT_CODES = {PASS: 0, FASTER: 0, REGRESSION: 1, REFUSED: 2, INCONCLUSIVE: 3}

Values = NDArray[np.float64]


@cache
def null_tail(num_pairs: int) -> tuple[float, ...]:
    """Return P(W ≥ w) for w = 0, 1, … of the signed-rank sum W of values symmetric about 0, exactly.

    The number of sets of ranks 1 … n that sum to w is counted rank by rank.
    """
    counts = [1]
    for rank in range(1, num_pairs + 1):
        longer = counts + [0] * rank
        for total, count in enumerate(counts):
            longer[total + rank] += count
        counts = longer
    tail = []
    at_least = 0
    for count in reversed(counts):
        at_least += count
        tail.append(at_least / 2**num_pairs)
    return tuple(reversed(tail))


def p_greater(values: Sequence[float]) -> float:
    """Return the exact one-sided p-value of a signed-rank test against a center of at most 0 (Wilcoxon 1945).

    Ties in size are broken against the alternative, and a zero counts as negative, so that p is never too small.

    >>> p_greater([0.02, 0.01, 0.03, 0.04, 0.05, 0.06]) == 1 / 2**6
    True
    """
    ordered = sorted(values, key=lambda value: (abs(value), value <= 0))
    return null_tail(len(ordered))[sum(rank for rank, value in enumerate(ordered, 1) if value > 0)]


def _walsh(values: ArrayLike) -> Values:
    """Return the means of all pairs of values, with themselves too, in ascending order (Walsh averages)."""
    array = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(array))
    return np.sort((array[first] + array[second]) / 2)


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs of values (Hodges & Lehmann 1963)."""
    return float(np.median(_walsh(values)))


@cache
def _num_beyond(num_pairs: int, level: float) -> int:
    """Return how many Walsh averages lie beyond a one-sided bound of error `level`; -1 if there is no bound."""
    # The signed-rank sum of `c - values` is the number of Walsh averages below c (Tukey 1949). c is rejected as
    # too large once that sum is critical, which leaves at most so many averages above c: the next is the bound.
    tail = null_tail(num_pairs)
    return sum(1 for at_least in tail if at_least <= level) - 1


def upper_bound(values: Sequence[float], level: float) -> float:
    """Return a bound that the center exceeds with probability at most `level`: the signed-rank test inverted.

    Infinite if there are too few values for any bound.
    """
    beyond = _num_beyond(len(values), level)
    return math.inf if beyond < 0 else float(_walsh(values)[-1 - beyond])


def lower_bound(values: Sequence[float], level: float) -> float:
    """Return a bound that the center falls below with probability at most `level`."""
    return -upper_bound([-value for value in values], level)


def pair_log_ratio(base: Sequence[float], head: Sequence[float]) -> float:
    """Return d of a launch pair: the median over its quads of ½ [ln(B₁/A₁) + ln(B₂/A₂)].

    Args:
        base: Seconds of BASE's windows A, two a quad.
        head: Seconds of HEAD's windows B, two a quad.

    >>> round(pair_log_ratio([1.0, 2.0, 1.0, 1.0], [1.1, 2.2, 1.1, 1.1]), 4) == round(math.log(1.1), 4)
    True
    """
    ratios = np.log(np.asarray(head, dtype=np.float64) / np.asarray(base, dtype=np.float64))
    return float(np.median(ratios.reshape(-1, 2).mean(1)))


@dataclass(frozen=True)
class Look:
    """A number of pairs after which a check may decide.

    Attributes:
        pairs: The number.
        level: Level of the test that raises an alarm; 0 if none may be raised yet.
        pass_level: Error of the upper bound that a pass needs.
    """

    pairs: int
    level: float
    pass_level: float


def looks_for(num_figures: int) -> tuple[Look, ...]:
    """Return the looks of a check that tests so many figures.

    The figures share ALARM_BOUND evenly, and the looks of each share its part: by Bonferroni's inequality the
    probability of an alarm at the margin is at most the sum of the levels.

    >>> [look.pairs for look in looks_for(2)]
    [6, 8, 10, 12, 16, 20, 24, 36, 48]
    """
    bound = ALARM_BOUND / max(1, num_figures)
    fewest = math.ceil(-math.log2(bound * FIRST_ALARM_PART))  # the smallest p of n pairs is 2**-n
    later = [
        Look(math.ceil(round(fewest * multiple, 6)), bound * alarm_part, PASS_ERROR * pass_part)
        for multiple, alarm_part, pass_part in LATER_LOOKS
    ]
    return (Look(LEAST_PAIRS, 0.0, PASS_ERROR * FIRST_PASS_PART), *later)


@dataclass(frozen=True)
class Decision:
    """What is known of a figure after some pairs.

    Attributes:
        word: The verdict; None if more pairs decide.
        pairs: The number of pairs that the verdict took, or that the next decision takes.
    """

    word: str | None
    pairs: int


def decide(values: Sequence[float], looks: Sequence[Look], tolerance: float) -> Decision:
    """Judge the log ratios of the pairs so far. Pairs that come after a verdict do not change it.

    A figure passes if the upper bound excludes the tolerance, and if the pairs scatter so little that they would
    have shown a slowdown of this size: noise is no pass.

    Args:
        values: d of the pairs, in the order in which they were measured.
        looks: When to judge.
        tolerance: A slowdown, as a fraction, that a PASS excludes.

    >>> steady = [0.001, -0.002, 0.0015, -0.0005, 0.0025, -0.0012]
    >>> decide(steady, looks_for(2), tolerance=0.05)
    Decision(word='PASS', pairs=6)
    >>> slower = [0.05 + value for value in steady]
    >>> decide(slower, looks_for(2), tolerance=0.05)  # six pairs raise no alarm, however slow HEAD is
    Decision(word=None, pairs=8)
    >>> decide(slower + slower, looks_for(2), tolerance=0.05)
    Decision(word='REGRESSION', pairs=12)
    """
    for look in looks:
        if len(values) < look.pairs:
            return Decision(None, look.pairs)
        seen = [float(value) for value in values[: look.pairs]]
        p_slower = p_greater([value - MARGIN for value in seen])
        if p_slower <= look.level:
            return Decision(REGRESSION, look.pairs)
        clear = p_slower > CLEAR or look == looks[-1]
        excluded = upper_bound(seen, look.pass_level) < math.log1p(tolerance)
        if clear and excluded and smallest_change(seen) <= math.log1p(tolerance):
            faster = p_greater([-value - FASTER_MARGIN for value in seen]) <= SHOWN_ERROR
            return Decision(FASTER if faster else PASS, look.pairs)
    return Decision(INCONCLUSIVE, looks[-1].pairs)


def smallest_change(values: Sequence[float]) -> float:
    """Return the least log ratio that values that scatter as these do would have shown to be above the margin."""
    # They show it if their lower bound is at the margin or above it, and the bound moves with them.
    return MARGIN + hodges_lehmann(values) - lower_bound(values, SHOWN_ERROR)


@dataclass(frozen=True)
class Judgement:
    """A figure's verdict and what it rests on. Changes are fractions; above 0 is worse.

    Attributes:
        word: REGRESSION, INCONCLUSIVE, PASS or FASTER.
        pairs: The number of pairs that it rests on.
        change: The Hodges–Lehmann estimate over the pairs.
        low: Lower end of the 95 % interval; -1 if there are too few pairs for one.
        high: Upper end of the interval; infinite if there are too few pairs.
        smallest: The least change that these pairs could have shown to be slower, at 2.5 %.
        p_slower: p-value of the signed-rank test against the margin.
        p_zero: p-value of the test against no change.
    """

    word: str
    pairs: int
    change: float
    low: float
    high: float
    smallest: float
    p_slower: float
    p_zero: float

    @property
    def has_interval(self) -> bool:
        """Whether there are enough pairs for the interval; a change without it is not shown."""
        return self.low > -1 and self.high < math.inf


def judge_time(values: Sequence[float], looks: Sequence[Look], tolerance: float) -> Judgement:
    """Judge a time's log ratios as they are now; INCONCLUSIVE if they end before a verdict."""
    decision = decide(values, looks, tolerance)
    used = list(map(float, values[: decision.pairs] if decision.word else values))
    effect = hodges_lehmann(used)
    return Judgement(
        word=decision.word or INCONCLUSIVE,
        pairs=len(used),
        change=math.expm1(effect),
        low=math.expm1(lower_bound(used, SHOWN_ERROR)),
        high=math.expm1(upper_bound(used, SHOWN_ERROR)),
        smallest=math.expm1(smallest_change(used)),
        p_slower=p_greater([value - MARGIN for value in used]),
        p_zero=p_greater(used),
    )


def judge_memory(values: Sequence[float], tolerance: float) -> Judgement:
    """Judge log ratios of peak memory, which hardly vary: by their median against the tolerance."""
    median = float(np.median(values))
    limit = math.log1p(tolerance)
    low = math.expm1(min(values))
    high = math.expm1(max(values))
    if len(values) < LEAST_MEMORY_PAIRS:
        word = INCONCLUSIVE
        low = -1.0
        high = math.inf
    elif median > limit:
        word = REGRESSION
    else:
        word = PASS
    return Judgement(word, len(values), math.expm1(median), low, high, tolerance, math.nan, math.nan)


def overall(words: Sequence[str]) -> str:
    """Return the word of a whole check: the worst of its figures; FASTER if one is and all others pass."""
    return next(word for word in (REGRESSION, INCONCLUSIVE, FASTER, PASS) if word in words)
