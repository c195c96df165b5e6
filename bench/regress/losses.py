"""Do BASE and HEAD train alike? The losses of a subject's first steps, which both take from the same seed.

A limit has to let rounding pass, and stop a change of the algorithm. Rounding comes from another order of sums, a
fused optimizer or a compiler. It changes a loss by some unit roundoffs u in the first step. The steps that follow
amplify it: Adam's first updates have the size of the learning rate whatever the size of the gradient, so that a
gradient that is zero but for rounding moves its weight either way. Over NUM_STEPS steps that has been up to some
hundred u. A changed loss, learning rate, initialisation or order of updates changes a loss by a percent or more
within these steps. LIMITS lie between: some thousand u in fp32, where there is room for it, and some ten u in the
other precisions, where there is less, and where a mean over the batch averages the roundings of single images.

u is 2⁻²⁴ in fp32, 2⁻¹¹ in tf32 and fp16, and 2⁻⁹ in bf16.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.regress.sides import Both
from bench.regress.windows import StepLosses

NUM_STEPS = 8
LIMITS = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference of two losses, as a fraction of the loss's largest size in BASE's steps."""
SMALLEST_SCALE = 1e-3
"""A loss that is smaller in all steps is compared as if it had this size: it is a difference of larger terms."""
LEAST_RUNS = 2
"""Runs of BASE that have to agree before another one's losses say anything."""

Run = tuple[StepLosses, ...]


@dataclass(frozen=True)
class Difference:
    """Where two runs' losses first differ by more than the limit, or are the first not to be finite.

    Attributes:
        step: From 1.
        loss: Its name.
        values: BASE's and HEAD's; None is not finite.
    """

    step: int
    loss: str
    values: Both[float | None]

    def __str__(self) -> str:
        texts = self.values.map(lambda value: "not finite" if value is None else f"{value:.6g}")
        return f"from step {self.step}: {self.loss} {texts.head} against BASE's {texts.base}"


@dataclass(frozen=True)
class LossVerdict:
    """What the losses of a case say.

    Attributes:
        wrong: Why HEAD trains another algorithm, or None.
        note: What else to know, or None.
    """

    wrong: str | None = None
    note: str | None = None


def judge_losses(runs: Sequence[Both[Run]], precision: str, *, are_new: bool) -> LossVerdict:
    """Compare HEAD's losses with BASE's.

    Args:
        runs: The losses of each pair of processes, one mapping a step.
        precision: Of the case.
        are_new: Whether the losses of HEAD differ as intended; that they are not finite never is.
    """
    lacking = [side.upper() for side in ("base", "head") if not runs or not all(run[side] for run in runs)]
    if lacking:
        return LossVerdict(
            note=f"{' and '.join(lacking)} shows no losses(), so only times and memory are compared"
        )
    limit = LIMITS.get(precision, max(LIMITS.values()))
    first = runs[0].base
    broken = next(filter(None, (_first_broken(first, run.head) for run in runs)), None)
    if broken:
        return LossVerdict(wrong=f"losses are not finite {broken}")
    if not all(value is not None for step in first for value in step.values()):
        return LossVerdict(note="losses are not finite in BASE either: not compared")
    if are_new:
        different = first_difference(first, runs[0].head, limit)
        said = f"differ {different}" if different else "do not differ from BASE's"
        return LossVerdict(note=f"losses {said}; they are not judged, as --new-losses says")
    if len(runs) < LEAST_RUNS:
        return LossVerdict(note="losses are not judged: nothing says whether BASE repeats its own")
    return _judge_finite(runs, limit)


def _judge_finite(runs: Sequence[Both[Run]], limit: float) -> LossVerdict:
    first = runs[0].base
    unsteady = next(filter(None, (first_difference(first, run.base, limit) for run in runs[1:])), None)
    if unsteady:
        again = f"from step {unsteady.step}: {unsteady.loss} {unsteady.values.base:.6g}, then {_text(unsteady)}"
        return LossVerdict(
            note=f"losses are not judged: BASE does not repeat its own, {again}; draw everything "
            "random from Setup.seed"
        )
    different = next(filter(None, (first_difference(first, run.head, limit) for run in runs)), None)
    if different:
        return LossVerdict(wrong=f"losses differ {different}; if that is meant, say --new-losses")
    names = ", ".join(_common(first, runs[0].head))
    if not names:
        return LossVerdict(note="BASE and HEAD show no loss of the same name: not compared")
    return LossVerdict(note=f"losses of the first {len(first)} steps agree within {limit:.1%}: {names}")


def _text(difference: Difference) -> str:
    return "not finite" if difference.values.head is None else f"{difference.values.head:.6g}"


def _common(base: Run, head: Run) -> list[str]:
    return [name for name in base[0] if name in head[0]]


def first_difference(base: Run, head: Run, limit: float) -> Difference | None:
    """Return the first step in which a loss differs by more than the limit, or None.

    >>> base = ({"loss_d": 0.7}, {"loss_d": 0.6931})
    >>> print(first_difference(base, ({"loss_d": 0.7}, {"loss_d": 0.7310}), 1e-3))
    from step 2: loss_d 0.731 against BASE's 0.6931
    >>> first_difference(base, ({"loss_d": 0.7}, {"loss_d": 0.6932}), 1e-3)
    """
    scales = {name: _scale(base, name) for name in _common(base, head)}
    for number, (mine, others) in enumerate(zip(base, head, strict=False), start=1):
        for name, scale in scales.items():
            a = mine.get(name)
            b = others.get(name)
            if a is None or b is None or abs(a - b) > limit * scale:
                return Difference(number, name, Both(a, b))
    return None


def _scale(run: Run, name: str) -> float:
    sizes = [abs(value) for step in run if (value := step.get(name)) is not None]
    return max([SMALLEST_SCALE, *sizes])


def _first_broken(base: Run, head: Run) -> Difference | None:
    """Return the first loss that is finite in BASE and not in HEAD, or None."""
    for number, (mine, others) in enumerate(zip(base, head, strict=False), start=1):
        for name, value in others.items():
            if value is None and mine.get(name, 0.0) is not None:
                return Difference(number, name, Both(mine.get(name), None))
    return None


def mean_losses(ranks: Sequence[Mapping[str, float] | None]) -> StepLosses | None:
    """Return the mean over the ranks of a step's losses by name; None if they are not shown."""
    shown = [losses for losses in ranks if losses is not None]
    if not shown:
        return None
    means = {name: sum(losses.get(name, math.nan) for losses in shown) / len(shown) for name in shown[0]}
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
