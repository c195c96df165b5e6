"""The statistics of the regression check: pure functions of what launch pairs measured, one log ratio d a pair.

Is HEAD slower than BASE by more than the margin? Exact one-sided signed-rank tests at a few fixed numbers of
pairs; a suspicion has to be confirmed on as many fresh pairs. docs/regression.md says it in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

MARGIN = math.log(1.01)
"""A change is called slower only where it is by more than this log ratio."""
ALARM_BOUND = 1e-3
"""Most checks of an unchanged HEAD that may end in an alarm, over all figures and looks of a check."""
PASS_ERROR = 0.05
"""Most checks in which a figure that is worse by the tolerance may pass, over all looks."""
SPENT = (0.5, 0.25, 0.25)
"""Which part of both errors each look may make."""
LEAST_PAIRS = 6
CLEAR = 0.2
"""Before the last look a figure passes only where the p-value against the margin is above this."""
LEAST_MEMORY_PAIRS = 3

REGRESSION, INCONCLUSIVE, FASTER, PASS = "REGRESSION", "INCONCLUSIVE", "FASTER", "PASS"
EXIT_CODES = {PASS: 0, FASTER: 0, REGRESSION: 1, INCONCLUSIVE: 3}

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
    tail, at_least = [], 0
    for count in reversed(counts):
        at_least += count
        tail.append(at_least / 2**num_pairs)
    return tuple(reversed(tail))


def p_greater(values: Sequence[float]) -> float:
    """Return the exact one-sided p-value of a signed-rank test against a center of at most 0 (Wilcoxon 1945).

    Ties in size are broken against the alternative, and a zero counts as negative, so that p is never too small.
    """
    ordered = sorted(values, key=lambda value: (abs(value), value <= 0))
    return null_tail(len(ordered))[sum(rank for rank, value in enumerate(ordered, 1) if value > 0)]


def _walsh(values: ArrayLike) -> Values:
    """Return the means of all pairs of values, each with itself included, in ascending order."""
    array = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(len(array))
    return np.sort((array[first] + array[second]) / 2)


def hodges_lehmann(values: Sequence[float]) -> float:
    """Return the median of the means of all pairs of values (Hodges & Lehmann 1963)."""
    return float(np.median(_walsh(values)))


@cache
def _num_beyond(num_pairs: int, level: float) -> int:
    """Return how many Walsh averages lie beyond a one-sided bound of error `level`; -1 where none can be given."""
    tail = null_tail(num_pairs)
    return sum(1 for at_least in tail if at_least <= level) - 1


def upper_bound(values: Sequence[float], level: float) -> float:
    """Return a bound that the center exceeds with probability at most `level`: the signed-rank test inverted."""
    beyond = _num_beyond(len(values), level)
    return math.inf if beyond < 0 else float(_walsh(values)[-1 - beyond])


def lower_bound(values: Sequence[float], level: float) -> float:
    """Return a bound that the center falls below with probability at most `level`."""
    return -upper_bound([-value for value in values], level)


def pair_log_ratio(base: Sequence[float], head: Sequence[float]) -> float:
    """Return d of a launch pair: the median over its quads of the mean of ln(HEAD / BASE) of its two rounds.

    Args:
        base: Seconds of BASE's windows, two a quad.
        head: HEAD's.
    """
    ratios = np.log(np.asarray(head, dtype=np.float64) / np.asarray(base, dtype=np.float64))
    return float(np.median(ratios.reshape(-1, 2).mean(1)))


@dataclass(frozen=True)
class Look:
    """When a figure is judged.

    Attributes:
        pairs: After so many; a suspicion is confirmed on as many more.
        level: Of the test that suspects, and of the one that confirms.
        pass_level: Error of the upper bound that a pass needs.
    """

    pairs: int
    level: float
    pass_level: float


def looks_for(num_figures: int) -> tuple[Look, ...]:
    """Return a check's looks, for so many figures that are tested.

    An alarm takes two tests of disjoint pairs, so that its probability at the margin is at most the sum over looks
    of level². Figures share ALARM_BOUND evenly. The first look is after the fewest pairs that can reach its level,
    each other one after twice the pairs of the one before.
    """
    levels = [math.sqrt(ALARM_BOUND * spent / max(1, num_figures)) for spent in SPENT]
    first = max(LEAST_PAIRS, math.ceil(-math.log2(levels[0])))
    return tuple(
        Look(first * 2**index, level, PASS_ERROR * spent)
        for index, (level, spent) in enumerate(zip(levels, SPENT, strict=True))
    )


@dataclass(frozen=True)
class Decision:
    """What is known after some pairs.

    Attributes:
        word: The verdict, or None where more pairs decide.
        pairs: How many it took, or how many the next step takes.
        suspected: A suspicion awaits, or failed, its confirmation.
    """

    word: str | None
    pairs: int
    suspected: bool = False


def decide(values: Sequence[float], looks: Sequence[Look], tolerance: float) -> Decision:
    """Judge the log ratios of the pairs so far, in order; what comes after a verdict does not change it.

    A figure passes where the upper bound excludes the tolerance, and the pairs scatter so little that a slowdown
    of this size would have been suspected: noise is no pass.

    Args:
        values: d of each pair.
        looks: When to judge.
        tolerance: A slowdown, as a fraction, that a PASS excludes.
    """
    suspected = False
    for look in looks:
        if len(values) < look.pairs:
            return Decision(None, look.pairs, suspected)
        seen = [float(value) for value in values[: look.pairs]]
        p_slower = p_greater([value - MARGIN for value in seen])
        if p_slower <= look.level:
            suspected = True
            if len(values) < 2 * look.pairs:
                return Decision(None, 2 * look.pairs, suspected)
            fresh = values[look.pairs : 2 * look.pairs]
            if p_greater([value - MARGIN for value in fresh]) <= look.level:
                return Decision(REGRESSION, 2 * look.pairs, suspected)
            continue
        clear = p_slower > CLEAR or look == looks[-1]
        excluded = upper_bound(seen, look.pass_level) < math.log1p(tolerance)
        if clear and excluded and smallest_change(seen, look.level) <= math.log1p(tolerance):
            faster = p_greater([-value - MARGIN for value in seen]) <= look.level
            return Decision(FASTER if faster else PASS, look.pairs, suspected)
    return Decision(INCONCLUSIVE, min(len(values), 2 * looks[-1].pairs), suspected)


def smallest_change(values: Sequence[float], level: float) -> float:
    """Return the least log ratio that would have been suspected with values that scatter as these do."""
    return MARGIN + hodges_lehmann(values) - lower_bound(values, level)


@dataclass(frozen=True)
class Judgement:
    """A figure's verdict and what it rests on; changes are fractions, above 0 is worse.

    Attributes:
        word: REGRESSION, INCONCLUSIVE, PASS or FASTER.
        pairs: How many it rests on.
        change: Hodges–Lehmann over the pairs.
        low: Its 95 % interval; infinite where there are too few pairs for one.
        high: Likewise.
        smallest: The least change that these pairs could have shown to be slower.
        p_slower: Of the signed-rank test against the margin.
        p_zero: Of the same against no change.
        suspected: Whether some look suspected it.
    """

    word: str
    pairs: int
    change: float
    low: float
    high: float
    smallest: float
    p_slower: float
    p_zero: float
    suspected: bool = False

    @property
    def has_interval(self) -> bool:
        """Whether there were pairs enough for one; before, the change is no finding."""
        return self.low > -1 and self.high < math.inf


def judge_time(values: Sequence[float], looks: Sequence[Look], tolerance: float) -> Judgement:
    """Judge a figure's log ratios as they are now; INCONCLUSIVE where they end before a verdict."""
    decision = decide(values, looks, tolerance)
    used = [float(value) for value in (values[: decision.pairs] if decision.word else values)]
    effect = hodges_lehmann(used)
    level = next((look.level for look in reversed(looks) if len(used) >= look.pairs), looks[0].level)
    return Judgement(
        word=decision.word or INCONCLUSIVE,
        pairs=len(used),
        change=math.expm1(effect),
        low=math.expm1(lower_bound(used, 0.025)),
        high=math.expm1(upper_bound(used, 0.025)),
        smallest=math.expm1(smallest_change(used, level)),
        p_slower=p_greater([value - MARGIN for value in used]),
        p_zero=p_greater(used),
        suspected=decision.suspected,
    )


def judge_memory(values: Sequence[float], tolerance: float) -> Judgement:
    """Judge log ratios of peak memory, which hardly vary: by their median against the tolerance."""
    middle, limit = float(np.median(values)), math.log1p(tolerance)
    few = len(values) < LEAST_MEMORY_PAIRS
    word = INCONCLUSIVE if few else REGRESSION if middle > limit else FASTER if middle < -limit else PASS
    low, high = (-1.0, math.inf) if few else (math.expm1(min(values)), math.expm1(max(values)))
    return Judgement(word, len(values), math.expm1(middle), low, high, tolerance, math.nan, math.nan)


def overall(words: Sequence[str]) -> str:
    """Return a check's word: the worst of its figures'; FASTER where one is and all others pass."""
    return next(word for word in (REGRESSION, INCONCLUSIVE, FASTER, PASS) if word in words)
