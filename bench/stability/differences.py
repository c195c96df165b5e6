"""Differences between tensors, and what is compared."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

LEAST_NORM = 1e-5
LEAST_LOSS = 0.1


def relative_error(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> float:
    """Return the largest difference between tensors of a list, by norm, relative to the second's.

    Norms below LEAST_NORM of the largest count as that: a bias before BatchNorm has rounding for a gradient. A
    missing gradient counts as 0.
    """
    pairs = [
        (torch.zeros_like(b) if a is None else a.double(), b.double())
        for a, b in zip(ours, theirs, strict=True)
        if b is not None
    ]
    floor = LEAST_NORM * max(float(b.norm()) for _, b in pairs)
    return largest(float((a - b).norm()) / max(float(b.norm()), floor, 1e-300) for a, b in pairs)


def largest(values: Iterable[float]) -> float:
    """Return the largest, or nan where one is."""
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def weights_of(network: nn.Module) -> list[Tensor]:
    """Return copies of a network's parameters."""
    return [parameter.detach().clone() for parameter in network.parameters()]


def gradients_of(network: nn.Module) -> list[Tensor | None]:
    """Return copies of its gradients, None where a parameter has none."""
    return [None if p.grad is None else p.grad.detach().clone() for p in network.parameters()]


def moves(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor | None]:
    """Return how far parameters moved."""
    return [a - b for a, b in zip(after, before, strict=True)]
