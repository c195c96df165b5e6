"""Do BASE and HEAD train alike? The losses of a subject's first steps, which both take from the same seed.

A limit has to let rounding pass, and stop a change of the algorithm. Rounding differs with the order of sums, a
fused optimizer or a compiler. It changes the first loss by some unit roundoffs u. Steps amplify it: Adam's first
updates have the size of the learning rate whatever the size of the gradient, so a gradient that is zero but for
rounding moves its weight either way. This was measured by a relative noise of u on all initial weights of `mlp`,
`mlp-batchnorm`, `lsgan`, `dcgan` and `wgan-gp` at batch 8. The largest differences of a loss, as a fraction of its
largest size in eight steps, were

    noise                    steps 1 and 2    steps 3 to 8
    2^-24 (fp32)                      2e-5            8e-4
    2^-11 (tf32, fp16)                5e-3            1e-2
    2^-9 (bf16)                       3e-3            2e-2

The limits are 4 to 50 times these. A factor of 0.9 on one term of D's loss changes the first loss by some percent,
and so does twice the learning rate of D, as soon as it has been updated.

On a GPU, fp32 has the limits of tf32: by default PyTorch computes convolutions in tf32 there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.regress.sides import Both
from bench.regress.windows import StepLosses
from bench.results.finite import if_finite
from gan.files.text import significant

NUM_STEPS = 8
EARLY_STEPS = 2


@dataclass(frozen=True)
class Limits:
    """Largest differences of two losses, as a fraction of the loss's largest size in BASE's steps.

    Attributes:
        early: In the first EARLY_STEPS.
        late: After them.
    """

    early: float
    late: float

    def at(self, step: int) -> float:
        """Return the limit of a step, from 1."""
        return self.early if step <= EARLY_STEPS else self.late


FULL_PRECISION = Limits(1e-3, 1e-2)
LOW_PRECISION = Limits(2e-2, 1e-1)
SHOWN_DIGITS = 6
"""Of a loss: the smallest limit is a thousandth of it."""
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
        texts = self.values.map(_shown)
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


def limits_for(precision: str, device: str) -> Limits:
    """Return the limits of a case."""
    return FULL_PRECISION if (precision, device) == ("fp32", "cpu") else LOW_PRECISION


def judge_losses(runs: Sequence[Both[Run]], limits: Limits, *, are_new: bool) -> LossVerdict:
    """Compare HEAD's losses with BASE's.

    Args:
        runs: The losses of each pair of processes, one mapping a step.
        limits: Of the case.
        are_new: Whether the losses of HEAD differ as intended; that they are not finite never is.
    """
    lacking = [side.upper() for side in ("base", "head") if not runs or not all(run[side] for run in runs)]
    if lacking:
        verb = "shows" if len(lacking) == 1 else "show"
        return LossVerdict(
            note=f"{' and '.join(lacking)} {verb} no losses(), so only times and memory are compared"
        )
    first = runs[0].base
    broken = next(filter(None, (_first_broken(first, run.head) for run in runs)), None)
    if broken:
        return LossVerdict(wrong=f"losses are not finite {broken}")
    if not all(value is not None for step in first for value in step.values()):
        return LossVerdict(note="losses are not finite in BASE either: not compared")
    if are_new:
        different = first_difference(first, runs[0].head, limits)
        said = f"differ {different}" if different else "do not differ from BASE's"
        return LossVerdict(note=f"losses {said}; they are not judged, as --new-losses says")
    if len(runs) < LEAST_RUNS:
        return LossVerdict(note="losses are not judged: nothing says whether BASE repeats its own")
    return _judge_finite(runs, limits)


def _judge_finite(runs: Sequence[Both[Run]], limits: Limits) -> LossVerdict:
    first = runs[0].base
    unsteady = next(filter(None, (first_difference(first, run.base, limits) for run in runs[1:])), None)
    if unsteady:
        values = unsteady.values.map(_shown)
        again = f"from step {unsteady.step}: {unsteady.loss} {values.base}, then {values.head}"
        return LossVerdict(
            note=f"losses are not judged: BASE does not repeat its own, {again}; draw everything "
            "random from Setup.seed"
        )
    different = next(filter(None, (first_difference(first, run.head, limits) for run in runs)), None)
    if different:
        return LossVerdict(wrong=f"losses differ {different}; if that is meant, say --new-losses")
    names = ", ".join(_common(first, runs[0].head))
    if not names:
        return LossVerdict(note="BASE and HEAD show no loss of the same name: not compared")
    most = max(largest_difference(first, run.head) for run in runs)
    return LossVerdict(note=f"losses of the first {len(first)} steps agree ({names}; at most {most:.2g} apart)")


def _shown(loss: float | None) -> str:
    return if_finite(loss, partial(significant, digits=SHOWN_DIGITS))


def _common(base: Run, head: Run) -> list[str]:
    return [name for name in base[0] if name in head[0]]


def first_difference(base: Run, head: Run, limits: Limits) -> Difference | None:
    """Return the first step in which a loss differs by more than its limit, or None.

    >>> base = ({"loss_d": 0.7}, {"loss_d": 0.6931})
    >>> print(first_difference(base, ({"loss_d": 0.7}, {"loss_d": 0.7310}), FULL_PRECISION))
    from step 2: loss_d 0.731 against BASE's 0.6931
    >>> first_difference(base, ({"loss_d": 0.7}, {"loss_d": 0.6932}), FULL_PRECISION)
    """
    scales = {name: _scale(base, name) for name in _common(base, head)}
    for number, (mine, others) in enumerate(zip(base, head, strict=False), start=1):
        for name, scale in scales.items():
            a = mine.get(name)
            b = others.get(name)
            if a is None or b is None or abs(a - b) > limits.at(number) * scale:
                return Difference(number, name, Both(a, b))
    return None


def largest_difference(base: Run, head: Run) -> float:
    """Return the largest difference of two finite runs' losses, in units of the loss's largest size in BASE."""
    return max(
        (
            abs(mine[name] - others[name]) / _scale(base, name)  # type: ignore[operator]
            for name in _common(base, head)
            for mine, others in zip(base, head, strict=False)
        ),
        default=0.0,
    )


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
