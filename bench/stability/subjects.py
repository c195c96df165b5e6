"""Does a subject train the same GAN? The tiers that can be asked of any training step, from what it offers.

T0 builds the subject twice from one setup and compares losses and weights bit by bit. T1 takes the first step in
fp32, eagerly, and compares it with the subject's own step in float64. T2 compares the step as it is asked for with
float64, and its error with that of fp32. T4 watches the losses.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bench.harness.exchange import Phase, Report
from bench.harness.windows import Collectives
from bench.results.checks import Check
from bench.results.finite import number_or_none
from bench.stability.determinism import REPEATED_STEPS, deterministic_algorithms
from bench.stability.health import HEALTH_STEPS, STEPS_PER_MEAN, alarms_of
from bench.stability.precision import GRADIENT_TIMES, LOSS_TIMES, UNIT_ROUNDOFF, usual_or_least
from bench.stability.subject_steps import Errors, errors_of_first_step
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import Setup, SetupRefusedError, offers

Build = Callable[[Setup], MeasuredSubject]
"""Builds a subject, anew each time; raises SubjectError."""

LOSS_LIMIT = 1e-3
"""T1, of losses in fp32. Their rounding is about 1e-7; another formula changes them by about 1."""
GRADIENT_LIMIT = 0.05
"""T1, of gradients in fp32. G's are taken against a D that has moved, and Adam's first update depends on the signs
of gradients near 0, which rounding may turn. TF32 in convolutions, PyTorch's default on a GPU, adds its own."""
COSINE_LIMIT = 0.05
"""T2, of gradients. It has more room than that of a recipe, whose networks are compared one by one."""
HEALTH_SECONDS = 60.0
"""Steps that are slow are watched for about so long, but at least LEAST_HEALTH_STEPS."""
LEAST_HEALTH_STEPS = 50


def judged_subject(
    subject: MeasuredSubject, build: Build, collectives: Collectives, left_out: dict[str, str], report: Report
) -> tuple[list[Check], dict[str, list[float | None]]]:
    """Ask a subject the tiers that it offers enough for.

    Args:
        subject: Ready to take its first step.
        build: Builds further ones.
        collectives: How the processes of the case agree.
        left_out: Takes what is not asked, and why.
        report: Told what is done.

    Returns:
        The checks; and the course of each loss, means of STEPS_PER_MEAN steps, None where one is not finite.
    """
    checks: list[Check] = []
    has_losses = offers(subject.subject, "losses")
    report("first step of T0", Phase.FIRST_STEP)
    if has_losses or offers(subject.subject, "networks"):
        checks += repetition_of_subject(subject, build, report)
    else:
        left_out["T0"] = "it has neither losses() nor networks()"
    if not offers(subject.subject, "float64_step"):
        left_out["T1, T2"] = "it has no float64_step()"
    elif not has_losses:
        left_out["T1, T2"] = "it has no losses()"
    elif subject.setup.world_size > 1:
        left_out["T1, T2"] = "they are asked in one process"
    else:
        checks += exactness(build, subject.setup, left_out, report)
    if not has_losses:
        left_out["T4"] = "it has no losses()"
        return checks, {}
    report("first step of T4", Phase.FIRST_STEP)
    course = _course(subject, collectives, report)
    alarms = alarms_of(course)
    checks.append(Check("T4", "alarms", len(alarms), 0, "; ".join(alarms) or "a sick run"))
    return checks, {name: _means(values) for name, values in course.items()}


@deterministic_algorithms()
def repetition_of_subject(subject: MeasuredSubject, build: Build, report: Report) -> list[Check]:
    """T0: take REPEATED_STEPS twice, from one setup, and compare losses and weights bit by bit.

    Args:
        subject: Ready to take its first step; it goes on.
        build: Builds another one.
        report: Told each step.
    """
    first = _trace(subject, report)
    report("first step of T0, repeated", Phase.FIRST_STEP)
    torch.compiler.reset()
    second = _trace(build(subject.setup), report)
    different = len(first.keys() ^ second.keys())
    different += sum(first[name] != second[name] for name in first.keys() & second.keys())
    cause = "something random does not follow from Setup.seed, or an operator has no deterministic algorithm here"
    return [Check("T0", "tensors that differ when repeated", different, 0, cause)]


def _trace(subject: MeasuredSubject, report: Report) -> dict[str, bytes]:
    """Take REPEATED_STEPS, and return the losses of each, and the weights before the first and after the last."""
    trace = {f"before: {name}": value for name, value in _weights(subject).items()}
    for number in range(1, REPEATED_STEPS + 1):
        subject.step()
        for name, value in (subject.losses() or {}).items():
            trace[f"step {number}: {name}"] = _bits(torch.tensor(value, dtype=torch.float64))
        report(f"step {number}")
    return trace | {f"after: {name}": value for name, value in _weights(subject).items()}


def _weights(subject: MeasuredSubject) -> dict[str, bytes]:
    return {
        f"{name}.{key}": _bits(value.detach())
        for name, network in (subject.networks() or {}).items()
        for key, value in network.state_dict().items()
        if isinstance(value, Tensor)
    }


def _bits(value: Tensor) -> bytes:
    """Return the bytes of a tensor, by which NaN equals NaN: a sick course is still the same."""
    return value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def exactness(build: Build, setup: Setup, left_out: dict[str, str], report: Report) -> list[Check]:
    """T1 and T2: compare the first step, in fp32 and as it is asked for, with the subject's step in float64."""
    eager = replace(setup, precision="fp32", compile="no")
    report("first step of T1", Phase.FIRST_STEP)
    try:
        usual = errors_of_first_step(build, eager)
    except SetupRefusedError as error:
        left_out["T1, T2"] = str(error)
        return []
    if not usual.gradients:
        left_out["gradients in T1 and T2"] = "no optimizer of torch.optim took a step"
    checks = _algorithm(usual)
    if setup == eager:
        left_out["T2"] = "fp32, eager is what it compares with"
        return checks
    report("first step of T2", Phase.FIRST_STEP)
    torch.compiler.reset()
    asked = errors_of_first_step(build, setup)
    if asked.gradients.keys() != usual.gradients.keys():
        left_out["gradients in T2"] = "an optimizer skipped the first step, as a loss scale makes it"
    return checks + _precision(asked, usual, UNIT_ROUNDOFF[setup.precision])


def _algorithm(usual: Errors) -> list[Check]:
    cause = "step() is not what float64_step() is: another factor, sign or term, or not the same inputs"
    gradients = [
        Check("T1", f"{name}'s gradients in fp32", error, GRADIENT_LIMIT, cause)
        for name, error in usual.gradients.items()
    ]
    return [Check("T1", "losses", usual.loss, LOSS_LIMIT, cause), *gradients]


def _precision(asked: Errors, usual: Errors, roundoff: float) -> list[Check]:
    """Compare errors with those of fp32, which may be larger by the ratio of the unit roundoffs."""
    coarser = roundoff / UNIT_ROUNDOFF["fp32"]
    cause = "less exact than the precision explains: something is in half precision that must not be"
    limit = LOSS_TIMES * coarser * usual_or_least(usual.loss)
    checks = [Check("T2", "losses", asked.loss, limit, cause, usual.loss)]
    for name in asked.gradients.keys() & usual.gradients.keys():
        reference = usual.gradients[name]
        limit = GRADIENT_TIMES * coarser * usual_or_least(reference)
        elsewhere = "the update points elsewhere than in float64: this precision or compiler changes the GAN"
        checks += [
            Check("T2", f"{name}'s gradients", asked.gradients[name], limit, cause, reference),
            Check("T2", f"{name}'s direction (1 - cosine)", asked.turns[name], COSINE_LIMIT, elsewhere),
        ]
    return checks


def _course(subject: MeasuredSubject, collectives: Collectives, report: Report) -> dict[str, list[float]]:
    """Take HEALTH_STEPS, or fewer if they are slow, and return each loss after each step."""
    course: dict[str, list[float]] = {}
    began = time.monotonic()
    num_steps = HEALTH_STEPS
    for number in range(1, HEALTH_STEPS + 1):
        if number > num_steps:
            break
        subject.step()
        for name, value in (subject.losses() or {}).items():
            course.setdefault(name, []).append(value)
        report(f"step {number}")
        if number == LEAST_HEALTH_STEPS:
            slowest = collectives.maximum(time.monotonic() - began) / number
            num_steps = max(LEAST_HEALTH_STEPS, int(HEALTH_SECONDS / max(slowest, 1e-9)))
    return course


def _means(values: list[float]) -> list[float | None]:
    if len(values) < STEPS_PER_MEAN:
        return []
    means = torch.tensor(values, dtype=torch.float64).unfold(0, STEPS_PER_MEAN, STEPS_PER_MEAN).mean(-1).tolist()
    return [*map(number_or_none, means)]
