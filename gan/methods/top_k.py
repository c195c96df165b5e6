"""Top-k training: G learns on those of its images to which D gives the highest logits (Sinha et al. 2020)."""

import torch
from torch import Tensor

ROUNDING = 1e-6
"""By this part more than a whole number is that number: 0.3 is a little more in fp32, and 0.3 of 100 are 30."""


def top_k_weights(logits: Tensor, fraction: Tensor | float) -> Tensor:
    """Return the weight of each sample in G's loss, shape (B,), so that its mean is that of the best k samples.

    They are B / k for the k samples with the highest logits, and 0 for others; k is `fraction` of B, rounded up
    (Sinha et al. 2020, arXiv:2002.06224, algorithm 1, whose k falls from B to B / 2). Of equal logits,
    those of the first samples count as higher.

    >>> top_k_weights(torch.tensor([0.5, -1.0, 2.0, 0.0]), 0.5)
    tensor([2., 0., 2., 0.])

    Args:
        logits: D's, of generated images, shape (B,). They get no gradient from their weights.
        fraction: Above 0, at most 1; a scalar tensor may change without a new compilation.
    """
    count = len(logits)
    if not isinstance(fraction, Tensor):
        fraction = torch.full((), fraction, dtype=torch.float64, device=logits.device)
    k = (fraction * (count * (1 - ROUNDING))).ceil().clamp(1, max(count, 1))
    rank = logits.detach().argsort(descending=True, stable=True).argsort()
    return torch.where(rank < k, count / k, 0.0).to(logits.dtype)
