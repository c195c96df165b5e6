"""The judgement of a subject's first losses: what differs, by how much, and what cannot be judged."""

import math

import pytest

from bench.regress.losses import (
    EARLY_STEPS,
    FULL_PRECISION,
    LOW_PRECISION,
    SMALLEST_SCALE,
    LossVerdict,
    Run,
    judge_losses,
    largest_difference,
    limits_for,
    mean_losses,
)
from bench.regress.sides import Both

BASE: Run = tuple({"loss_d": 1.4 - 0.1 * step, "loss_g": 0.7} for step in range(8))


def with_change(step: int, name: str, value: float | None) -> Run:
    """Return BASE's losses but for one, with steps from 1."""
    return tuple({**losses, name: value} if at == step else losses for at, losses in enumerate(BASE, start=1))


def judged(*heads: Run, base: Run = BASE, are_new: bool = False) -> LossVerdict:
    return judge_losses([Both(base, head) for head in heads], FULL_PRECISION, are_new=are_new)


@pytest.mark.parametrize(("step", "limit"), [(1, 1e-3), (EARLY_STEPS, 1e-3), (EARLY_STEPS + 1, 1e-2), (8, 1e-2)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_limit_is_a_fraction_of_the_largest_loss(step: int, limit: float, sign: int) -> None:
    """BASE's largest loss_d is 1.4, in step 1."""
    value = BASE[step - 1]["loss_d"]
    assert value is not None
    below = with_change(step, "loss_d", value + sign * 0.99 * limit * 1.4)
    above = with_change(step, "loss_d", value + sign * 1.01 * limit * 1.4)
    assert judged(BASE, below).wrong is None
    verdict = judged(BASE, above)
    assert verdict.wrong
    assert verdict.wrong.startswith(f"losses differ from step {step}: loss_d ")
    assert largest_difference(BASE, below) == pytest.approx(0.99 * limit)


def test_a_loss_near_zero_has_a_scale() -> None:
    base: Run = ({"critic": 1e-9}, {"critic": -1e-9})
    near: Run = ({"critic": 1e-9 + 0.9e-3 * SMALLEST_SCALE}, base[1])
    far: Run = ({"critic": 1e-9 + 1.1e-3 * SMALLEST_SCALE}, base[1])
    assert judged(base, near, base=base).wrong is None
    assert judged(base, far, base=base).wrong


def test_one_run_of_base_says_nothing() -> None:
    assert judged(with_change(1, "loss_d", 3.0)) == LossVerdict(
        note="losses are not judged: nothing says whether BASE repeats its own"
    )


def test_a_base_that_does_not_repeat_itself_is_not_judged() -> None:
    other = with_change(3, "loss_g", 0.9)
    verdict = judge_losses([Both(BASE, other), Both(other, other)], FULL_PRECISION, are_new=False)
    assert verdict.wrong is None
    assert verdict.note
    assert "BASE does not repeat its own, from step 3: loss_g 0.7, then 0.9" in verdict.note


def test_losses_that_are_not_finite_in_head_alone_are_wrong_whatever_is_meant() -> None:
    broken = with_change(2, "loss_g", None)
    line = "losses are not finite from step 2: loss_g not finite against BASE's 0.7"
    assert judged(BASE, broken).wrong == judged(broken, are_new=True).wrong == line
    both = judged(broken, broken, base=broken)
    assert both == LossVerdict(note="losses are not finite in BASE either: not compared")


def test_large_losses_are_written_out() -> None:
    base: Run = tuple({"critic": 1_234_567.0 + step} for step in range(8))
    head: Run = tuple({"critic": 7_654_321.4} for _ in base)
    wrong = judged(head, head, base=base).wrong
    assert wrong
    assert "from step 1: critic 7,654,321 against BASE's 1,234,567" in wrong
    note = judge_losses([Both(base, base), Both(head, base)], FULL_PRECISION, are_new=False).note
    assert note
    assert "from step 1: critic 1,234,567, then 7,654,321;" in note


def test_other_names_are_not_compared() -> None:
    head: Run = tuple({"d": losses["loss_d"]} for losses in BASE)
    assert judged(head, head) == LossVerdict(note="BASE and HEAD show no loss of the same name: not compared")
    more: Run = tuple({**losses, "penalty": 1.0} for losses in BASE)
    assert judged(more, more).note == "losses of the first 8 steps agree (loss_d, loss_g; at most 0 apart)"


def test_a_side_without_losses_is_named() -> None:
    assert judged(()).note == "HEAD shows no losses(), so only times and memory are compared"
    assert judged((), base=()).note == "BASE and HEAD show no losses(), so only times and memory are compared"


def test_convolutions_on_a_gpu_are_not_of_full_precision() -> None:
    assert limits_for("fp32", "cpu") == FULL_PRECISION
    for precision, device in (("fp32", "cuda"), ("bf16", "cpu"), ("fp16", "cuda"), ("tf32", "cuda")):
        assert limits_for(precision, device) == LOW_PRECISION


def test_the_losses_of_ranks_are_averaged() -> None:
    assert mean_losses([{"loss": 1.0}, {"loss": 2.0}]) == {"loss": 1.5}
    assert mean_losses([{"loss": 1.0}, {"loss": math.nan}]) == {"loss": None}
    assert mean_losses([{"loss": math.inf}, {"loss": -math.inf}]) == {"loss": None}
    assert mean_losses([None, None]) is None
