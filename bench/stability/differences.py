"""How far two lists of tensors differ, and the tensors of a network that are compared."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LEAST_NORM = 1e-5
LEAST_LOSS = 0.1
"""Losses nearer to 0 than this count as this when an error is taken relative to them."""


def relative_error(ours: Sequence[Tensor | None], exact: Sequence[Tensor | None]) -> float:
    """Return the largest relative difference between tensors of two lists, by norm; NaN if one is NaN.

    The difference is relative to the norm of the exact tensor, or to LEAST_NORM of the largest norm if that is
    more. The gradient of a bias before BatchNorm is 0 but for rounding, so its own norm is no measure.

    Args:
        ours: A missing tensor counts as 0.
        exact: Where it is missing, nothing is compared.
    """
    pairs = [
        (torch.zeros_like(b) if a is None else a.double(), b.double())
        for a, b in zip(ours, exact, strict=True)
        if b is not None
    ]
    least = LEAST_NORM * max(float(b.norm()) for _, b in pairs)
    return largest(_ratio(float((a - b).norm()), max(float(b.norm()), least)) for a, b in pairs)


def relative_difference(vector: Tensor, exact: Tensor) -> float:
    """Return the difference of a vector relative to the exact one, by norm; infinite if that alone is 0."""
    return _ratio(float((vector - exact).norm()), float(exact.norm()))


def _ratio(difference: float, size: float) -> float:
    return difference / size if size else math.inf if difference else 0.0


def relative_loss_error(loss: float, exact: float) -> float:
    """Return the difference of a loss relative to its exact value."""
    return abs(loss - exact) / max(abs(exact), LEAST_LOSS)


def largest(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if one is NaN, which `max` may pass over."""
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def weights_of(network: nn.Module) -> list[Tensor]:
    """Return copies of a network's parameters."""
    return [parameter.detach().clone() for parameter in network.parameters()]


def gradients_of(network: nn.Module) -> list[Tensor | None]:
    """Return copies of the gradients of a network's parameters."""
    return [None if p.grad is None else p.grad.detach().clone() for p in network.parameters()]


def moves(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """Return how far each weight moved."""
    return [a - b for a, b in zip(after, before, strict=True)]
