"""A subject's first step, and the same step in float64: losses, and the gradients that the optimizers applied."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from bench.stability.differences import largest, relative_difference, relative_loss_error
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import Setup, SubjectError


@dataclass(frozen=True)
class Errors:
    """How far a first step is from float64.

    Attributes:
        loss: The largest relative error of a loss.
        gradients: The relative error, by norm, of what each optimizer applied first, by its name.
        turns: 1 - the cosine of the angle between both, by its name.
    """

    loss: float
    gradients: Mapping[str, float]
    turns: Mapping[str, float]


def errors_of_first_step(build: Callable[[Setup], MeasuredSubject], setup: Setup) -> Errors:
    """Take a first step, and the same one in float64 with another subject of the same seed; compare them.

    Raises:
        SubjectError: The two do not have the same losses and optimizers.
    """
    subject = build(setup)
    with _applied_gradients() as applied:
        inputs = subject.step()
        losses = subject.losses() or {}
    exact_subject = build(setup)
    with _applied_gradients() as exact_applied:
        exact_losses = exact_subject.float64_step(inputs)
    spec = subject.spec
    if not losses or losses.keys() != exact_losses.keys():
        shown = [", ".join(names) or "none" for names in (exact_losses, losses)]
        raise SubjectError(f"{spec}: float64_step() returned the losses {shown[0]}, and losses() {shown[1]}")
    loss = largest(relative_loss_error(value, exact_losses[name]) for name, value in losses.items())
    gradients = list(applied.values())
    exact = list(exact_applied.values())
    if len(gradients) != len(exact):
        if setup.precision == "fp16":  # a loss scale has skipped one
            return Errors(loss, {}, {})
        raise SubjectError(
            f"{spec}: {len(exact)} optimizers stepped in float64_step(), and {len(gradients)} in step()"
        )
    names = _names(subject, applied)
    for name, ours, theirs in zip(names, gradients, exact, strict=True):
        if ours.shape != theirs.shape:
            sizes = f"{len(theirs)} weights in float64_step(), and {len(ours)} in step()"
            raise SubjectError(f"{spec}: {name} has {sizes}")
    return Errors(
        loss,
        {name: relative_difference(a, b) for name, a, b in zip(names, gradients, exact, strict=True)},
        {name: _turn(a, b) for name, a, b in zip(names, gradients, exact, strict=True)},
    )


@contextmanager
def _applied_gradients() -> Iterator[dict[int, Tensor]]:
    """Note the gradients that each optimizer applies in its first step, flat, in order of these steps."""
    applied: dict[int, Tensor] = {}

    def note(optimizer: Optimizer, *_: Any) -> None:
        if id(optimizer) in applied:
            return
        weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad.detach() for w in weights]
        scale = getattr(optimizer, "grad_scale", None)  # a fused optimizer divides by it itself
        flat = torch.cat([gradient.flatten().double() for gradient in gradients])
        applied[id(optimizer)] = flat if scale is None else flat / scale

    handle = register_optimizer_step_pre_hook(note)
    try:
        yield applied
    finally:
        handle.remove()


def _names(subject: MeasuredSubject, applied: Mapping[int, Tensor]) -> list[str]:
    """Return what the subject calls its optimizers, in the order of their first steps."""
    optimizers = subject.optimizers() or {}
    known = {id(getattr(value, "optimizer", value)): name for name, value in optimizers.items()}
    return [known.get(key, f"optimizer {number}") for number, key in enumerate(applied, 1)]


def _turn(gradient: Tensor, exact: Tensor) -> float:
    if not exact.count_nonzero():
        return 0.0  # it has no direction
    return 1 - float(torch.nn.functional.cosine_similarity(gradient, exact, dim=0))
