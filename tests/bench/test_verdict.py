import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bench.regress.history import change_points
from bench.regress.judge import STARTUP, STEP
from bench.regress.study.pool import (
    NULLS,
    PoolOptions,
    autocorrelation,
    drawn_checks,
    drawn_from,
    highest_rate,
    simulated,
)
from bench.regress.verdict import (
    ALARM_BOUND,
    FASTER,
    INCONCLUSIVE,
    MARGIN,
    PASS,
    PASS_ERROR,
    REGRESSION,
    SHOWN_ERROR,
    Decision,
    decide,
    hodges_lehmann,
    judge_memory,
    judge_time,
    looks_for,
    lower_bound,
    null_tail,
    overall,
    p_greater,
    pair_log_ratio,
    upper_bound,
)

LOOKS = looks_for(2)
FALSE_ALARMS = {"bursts of noise": 2e-5, "neighbours correlate by 0.2": 1e-5, "drift by 2 SD": 1.4e-3}
"""Shares of 100,000 checks without a change. The bound does not hold for pairs that depend on one another, as in
the last two kinds of noise. All other kinds: none."""
STEADY = (0.001, -0.002, 0.0015, -0.0005, 0.0025, -0.0012)


@pytest.mark.parametrize("size", [1, 5, 6, 12, 24, 48])
def test_the_signed_rank_test_is_scipys_exact_one(size: int) -> None:
    rng = np.random.default_rng(size)
    for center in (-0.5, 0.0, 0.3):
        values = rng.normal(center, 1, size).tolist()
        expected = stats.wilcoxon(values, alternative="greater", method="exact").pvalue
        assert p_greater(values) == pytest.approx(expected, rel=1e-12)


def test_the_null_distribution_counts_all_signs() -> None:
    sums = [sum(ranks) for ranks in itertools.product(*((0, rank) for rank in range(1, 8)))]
    tail = [sum(total >= least for total in sums) / 2**7 for least in range(29)]
    assert null_tail(7) == pytest.approx(tail)


def test_ties_and_zeros_never_make_p_smaller() -> None:
    assert p_greater([1.0, -1.0]) == 0.75
    assert p_greater([0.0] * 6) == 1.0
    assert p_greater([0.0, 1, 2, 3, 4, 5]) > p_greater([0.5, 1, 2, 3, 4, 5]) == 1 / 64


def test_hodges_lehmann_by_hand_and_against_one_outlier() -> None:
    assert hodges_lehmann([1.0, 2.0, 6.0]) == pytest.approx((2.0 + 3.5) / 2)
    values = [0.01, 0.02, 0.03, 0.04, 0.05]
    assert hodges_lehmann([*values, 9.0]) < 0.06


def test_bounds_are_the_test_inverted() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.01, 12).tolist()
    low = lower_bound(values, 0.02)
    assert p_greater([value - low - 1e-9 for value in values]) > 0.02
    assert p_greater([value - low + 1e-9 for value in values]) <= 0.02
    assert upper_bound(values, 0.02) == -lower_bound([-value for value in values], 0.02)
    assert upper_bound(values[:5], 0.02) == math.inf  # five pairs cannot say so surely
    assert upper_bound(values[:6], 0.02) == max(values[:6])


@pytest.mark.parametrize("noise", ["normal", "t"])
def test_bounds_cover_as_often_as_they_say(noise: str) -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(4000, 12)) if noise == "normal" else rng.standard_t(2, (4000, 12))
    missed = np.mean([upper_bound(draw, 0.05) < 0 for draw in draws])
    assert 0.03 < missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


def test_a_pairs_ratio_is_the_median_over_quads_of_the_mean_log_ratio_of_its_rounds() -> None:
    base, head = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0], [1.1, 2.2, 1.0, 1.21, 9.0, 9.0]
    assert pair_log_ratio(base, head) == pytest.approx(math.log(1.1))
    assert pair_log_ratio(head, base) == pytest.approx(-math.log(1.1))


@pytest.mark.parametrize("num_figures", [1, 2, 6, 20])
def test_the_looks_spend_the_alarm_bound_and_can_be_reached(num_figures: int) -> None:
    first, *later = looks_for(num_figures)
    assert num_figures * sum(look.level for look in later) == pytest.approx(ALARM_BOUND)
    assert (first.pairs, first.level) == (6, 0.0)
    assert first.pass_level + sum(look.pass_level for look in later) == pytest.approx(PASS_ERROR)
    assert all(2.0**-look.pairs <= look.level for look in later if look.level)
    assert all(2.0**-look.pairs <= look.pass_level for look in (first, *later))
    assert all(after.pairs > before.pairs for before, after in itertools.pairwise((first, *later)))


def test_the_course_of_a_check() -> None:
    slow = [0.05 + value for value in STEADY]
    assert decide(slow[:5], LOOKS, 0.05) == Decision(None, 6)
    assert decide(slow, LOOKS, 0.05) == Decision(None, 8)
    assert decide(slow + slow[:5], LOOKS, 0.05) == Decision(None, 12)
    assert decide(slow * 2, LOOKS, 0.05) == Decision(REGRESSION, 12)
    assert decide(STEADY, LOOKS, 0.05) == Decision(PASS, 6)
    assert decide([-value - 0.05 for value in STEADY], LOOKS, 0.05).word == FASTER
    once = [*slow, *STEADY]
    assert decide(once, LOOKS, 0.05) == Decision(None, 16)
    assert decide([*once, *STEADY, *STEADY], LOOKS, 0.05).word == PASS


def test_what_comes_after_a_verdict_does_not_change_it() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        values = rng.normal(rng.choice([0.0, 0.02, 0.05]), 0.01, 48).tolist()
        decision = decide(values, LOOKS, 0.05)
        assert decide(values[: decision.pairs], LOOKS, 0.05) == decision
        assert judge_time(values, LOOKS, 0.05).pairs == decision.pairs
        for count in range(1, decision.pairs):
            assert decide(values[:count], LOOKS, 0.05).word is None


def test_noise_is_no_pass() -> None:
    rng = np.random.default_rng(6)
    words = [decide(rng.normal(0.0, 0.3, 48).tolist(), LOOKS, 0.05).word for _ in range(400)]
    assert words.count(PASS) + words.count(FASTER) <= 0.01 * len(words)
    assert words.count(INCONCLUSIVE) >= 0.9 * len(words)
    found = judge_time(rng.normal(0.0, 0.3, 10).tolist(), LOOKS, 0.05)
    assert found.word == INCONCLUSIVE
    assert found.smallest > 0.1


def test_the_smallest_change_is_what_would_have_been_shown() -> None:
    values = np.random.default_rng(7).normal(0, 0.01, 12).tolist()
    found = judge_time(values, LOOKS, 0.05)
    used = values[: found.pairs]
    assert found.pairs == LOOKS[0].pairs
    needed = math.log1p(found.smallest) - hodges_lehmann(used)
    assert p_greater([value + needed + 1e-9 - MARGIN for value in used]) <= SHOWN_ERROR
    assert p_greater([value + needed - 1e-9 - MARGIN for value in used]) > SHOWN_ERROR


def test_faster_takes_more_than_a_slight_gain() -> None:
    little = [-0.008 + value / 10 for value in STEADY]
    assert p_greater([-value - MARGIN for value in little]) <= SHOWN_ERROR
    assert decide(little, LOOKS, 0.05) == Decision(PASS, 6)


@pytest.mark.parametrize("name", ["normal", "heavy tails (t, 2 degrees)", "bursts of noise"])
@pytest.mark.slow
@pytest.mark.nightly
def test_false_alarms_at_the_margin_stay_within_the_bound(name: str) -> None:
    """The worst of unchanged: each pair symmetric about the margin itself, from quiet to very noisy."""
    options = PoolOptions(checks=6000)
    for scale in (0.003, 0.1):
        found, _ = drawn_checks(simulated(NULLS[name], [MARGIN, MARGIN], scale), options)
        assert found[REGRESSION] <= ALARM_BOUND + 3 * math.sqrt(ALARM_BOUND / options.checks)


@pytest.mark.parametrize("name", sorted(NULLS))
@pytest.mark.slow
def test_false_alarms_without_a_change_are_as_rare_as_documented_whatever_the_noise(name: str) -> None:
    options = PoolOptions(checks=4000)
    found, pairs = drawn_checks(simulated(NULLS[name], [0.0, 0.0]), options)
    documented = FALSE_ALARMS.get(name, 0.0)
    assert found[REGRESSION] <= documented + 3 * math.sqrt(documented / options.checks)
    assert found[PASS] + found[FASTER] > 0.99
    assert pairs <= LOOKS[1].pairs


def test_detection_at_the_noise_that_was_measured() -> None:
    for dose, least in ((0.02, 0.97), (0.03, 0.999), (0.05, 0.999)):
        draw = simulated(NULLS["normal"], [math.log1p(dose), 0.0], 0.0087)
        found, _ = drawn_checks(draw, PoolOptions(checks=2000))
        assert found[REGRESSION] >= least


def test_a_slowdown_as_large_as_the_tolerance_rarely_passes() -> None:
    for scale in (0.01, 0.05, 0.2):
        found, _ = drawn_checks(simulated(NULLS["normal"], [math.log1p(0.05)], scale), PoolOptions(checks=3000))
        assert found[PASS] + found[FASTER] <= PASS_ERROR + 3 * math.sqrt(PASS_ERROR / 3000)


def test_memory_is_judged_by_its_median() -> None:
    assert judge_memory([0.06, 0.061, 0.2], 0.05).word == REGRESSION
    assert judge_memory([0.0, 0.001, 0.3], 0.05).word == PASS
    assert judge_memory([-0.2, -0.2, -0.2], 0.05).word == PASS, "less memory is not less time"
    assert judge_memory([0.0, 0.0], 0.05).word == INCONCLUSIVE


def test_the_worst_figure_decides() -> None:
    assert overall([PASS, FASTER, PASS]) == FASTER
    assert overall([FASTER, INCONCLUSIVE]) == INCONCLUSIVE
    assert overall([INCONCLUSIVE, REGRESSION, PASS]) == REGRESSION


def test_pools_are_drawn_in_runs_of_neighbours() -> None:
    pool = {STEP: np.arange(20.0), STARTUP: np.arange(20.0, 40.0)}
    drawn, startup = drawn_from(pool, 5)(np.random.default_rng(0), 12)
    assert len(drawn.log_ratios) == 12
    assert all((after - before) % 20 == 1 for before, after in itertools.pairwise(drawn.log_ratios[:5]))
    assert startup.log_ratios == [value + 20 for value in drawn.log_ratios]  # of the same pairs
    assert (drawn.tolerance(0.05), startup.tolerance(0.05)) == (0.05, 0.1)
    assert autocorrelation(np.tile([1.0, -1.0], 50)) < -0.9
    assert highest_rate(0.0, 100_000) == pytest.approx(3.7e-5, rel=0.01)


def test_change_points_are_where_the_level_jumps_and_nowhere_else() -> None:
    rng = np.random.default_rng(8)
    false = sum(bool(change_points(rng.normal(0, 0.01, 30), [0.01] * 30)) for _ in range(200))
    assert false <= 10
    values = np.concatenate([rng.normal(0, 0.01, 12), rng.normal(0.08, 0.01, 12), rng.normal(-0.05, 0.01, 12)])
    assert change_points(values, [0.01] * 36) == [12, 24]
