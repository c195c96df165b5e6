"""Top-k weights against the mean of the best samples."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from accelerate import Accelerator

from gan.errors import UsageError
from gan.methods.losses import NonSaturating
from gan.methods.schedules import Linear
from gan.methods.top_k import top_k_weights
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES
from tests.gan.reference import assert_steps_of_the_tutorial, float64_state, inputs

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_k_is_rounded_up_from_the_fraction_as_it_is_written(dtype: torch.dtype) -> None:
    """Not from its nearest binary number, of which 100 × 0.3 and 25 × 0.28 are above 30 and 7."""
    for count in (1, 25, 50, 64, 100, 180, 256):
        for hundredths in range(1, 101):
            fraction = torch.tensor(hundredths / 100, dtype=dtype)
            num_best = int((top_k_weights(torch.arange(count), fraction) > 0).sum())
            assert num_best == math.ceil(Fraction(hundredths, 100) * count), (hundredths, count)


def test_of_equal_logits_the_first_count() -> None:
    assert top_k_weights(torch.zeros(4), 0.5).tolist() == [2, 2, 0, 0]
    assert top_k_weights(torch.zeros(0), 0.5).tolist() == []


@pytest.mark.parametrize("name", ["mlp", "mlp-dropout", "cgan", "r3gan"])
def test_steps_equal_the_tutorials(name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """G first, D first, with shared fakes, and of pairs of a real and a generated image."""
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], generator_top_k=0.4))
    assert_steps_of_the_tutorial(name, float64_state(name, accelerator), num_images=12, num_steps=2)


def test_the_part_follows_its_schedule(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mlp", replace(RECIPES["mlp"], generator_top_k=Linear(1.0, 0.5, images=60)))
    state = float64_state("mlp", accelerator)
    taken = inputs("mlp", 6)
    parts = []
    for _ in range(3):
        parts.append(state.top_k.item())
        state.record(taken.train(state, 1 / 6), 30)
    assert parts == pytest.approx([1.0, 0.75, 0.5])
    assert float64_state("wgan", accelerator).top_k is None


@pytest.mark.parametrize("value", ["0", "1.5", "-1"])
def test_a_part_of_nothing_or_of_more_than_all_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=f"generator_top_k {float(value)}: must be a number above 0"):
        with_settings(RECIPES["mlp"], [f"generator_top_k={value}"])
