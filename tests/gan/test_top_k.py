"""Top-k weights against the mean of the best samples."""

import pytest
import torch

from gan.methods.losses import NonSaturating
from gan.methods.top_k import top_k_weights

torch.manual_seed(0)
LOGITS = torch.randn(10, dtype=torch.float64)


@pytest.mark.parametrize(("fraction", "k"), [(1.0, 10), (0.5, 5), (0.41, 5), (0.4, 4), (0.01, 1)])
def test_the_weighted_mean_is_that_of_the_best(fraction: float, k: int) -> None:
    loss = NonSaturating()
    logits = LOGITS.clone().requires_grad_()
    weights = top_k_weights(logits, fraction)
    mean = (loss.generator(logits) * weights).mean()
    best = LOGITS.topk(k)
    torch.testing.assert_close(mean.detach(), loss.generator(best.values).mean())
    mean.backward()
    expected = torch.zeros(10, dtype=torch.float64)
    expected[best.indices] = (best.values.sigmoid() - 1) / k
    torch.testing.assert_close(logits.grad, expected)
    assert torch.equal(top_k_weights(LOGITS, torch.tensor(fraction, dtype=torch.float64)), weights)


def test_of_equal_logits_the_first_count() -> None:
    assert top_k_weights(torch.zeros(4), 0.5).tolist() == [2, 2, 0, 0]
    assert top_k_weights(torch.zeros(0), 0.5).tolist() == []
