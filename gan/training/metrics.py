"""What is recorded of each step, in the order of the columns of `TrainState.history`."""

import torch
from torch import Tensor

from gan.recipes import Recipe

METRICS = ("loss_d", "loss_g", "p_real", "p_fake")
"""What every recipe records. The losses have all terms that the networks minimise, but for lazy penalties."""
ADVERSARIAL = ("adversarial_d", "adversarial_g")
"""What a recipe whose losses have other terms records besides: the adversarial losses alone."""


def metrics_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of what is recorded of each step of a recipe."""
    return (*METRICS, *ADVERSARIAL) if recipe.adds_terms else METRICS


def adversarial_losses(history: Tensor) -> Tensor:
    """Return both networks' adversarial losses out of the steps' metrics; shape (steps, 2).

    >>> adversarial_losses(torch.tensor([[1.0, 2.0, 0.5, 0.5]]))
    tensor([[1., 2.]])
    >>> adversarial_losses(torch.tensor([[1.0, 2.0, 0.5, 0.5, 0.75, 1.5]]))
    tensor([[0.7500, 1.5000]])

    Args:
        history: Shape (steps, columns); the losses themselves are adversarial where they have no other terms.
    """
    are_apart = history.shape[1] > len(METRICS)
    return history[:, len(METRICS) :] if are_apart else history[:, : len(ADVERSARIAL)]


def with_columns(history: Tensor, num_columns: int) -> Tensor:
    """Return the steps' metrics as they are recorded now, shape (steps, num_columns).

    A checkpoint that was written before adversarial losses were recorded apart has METRICS alone. Its steps get
    NaN for what is not known of them.

    Args:
        history: As it was saved, shape (steps, columns).
        num_columns: How many are recorded now.
    """
    if history.shape[1] != len(METRICS) or num_columns == len(METRICS):
        return history
    unknown = history.new_full((len(history), num_columns - len(METRICS)), torch.nan)
    return torch.cat([history, unknown], 1)
