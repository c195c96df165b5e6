import math

import pytest
import torch

from gan.methods.losses import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein
from gan.recipes import RECIPES

LOGITS = torch.linspace(-30, 30, 13, dtype=torch.float64)


def cross_entropy(logits: torch.Tensor, label: float) -> torch.Tensor:
    """-[y log s + (1 - y) log(1 - s)] in a form that neither overflows nor cancels."""
    return label * torch.log1p(torch.exp(-logits)) + (1 - label) * torch.log1p(torch.exp(logits))


@pytest.mark.parametrize("real_label", [1.0, 0.9])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_discriminator_loss_has_its_closed_form(real_label: float, scale: float) -> None:
    loss = NonSaturating(real_label, scale).discriminator(LOGITS, LOGITS.flip(0))
    expected = scale * (cross_entropy(LOGITS, real_label) + cross_entropy(LOGITS.flip(0), 0.0))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_generator_loss_is_minus_log_of_the_probability() -> None:
    loss = NonSaturating(real_label=0.9, scale=0.5).generator(LOGITS)
    torch.testing.assert_close(loss, -torch.log(torch.sigmoid(LOGITS)), rtol=1e-9, atol=1e-12)


def test_gradients_are_probability_minus_label() -> None:
    real, fake = (LOGITS.clone().requires_grad_() for _ in range(2))
    NonSaturating(real_label=0.9, scale=0.5).discriminator(real, fake).sum().backward()
    torch.testing.assert_close(real.grad, 0.5 * (LOGITS.sigmoid() - 0.9), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(fake.grad, 0.5 * LOGITS.sigmoid(), rtol=1e-10, atol=1e-13)


def test_extreme_logits_stay_finite_where_bce_on_a_sigmoid_saturates() -> None:
    logits = torch.tensor([-500.0, 500.0])
    assert NonSaturating().generator(logits).tolist() == pytest.approx([500.0, 0.0])


UNDECIDED: dict[type, tuple[float, float]] = {
    LeastSquares: (0.5, 0.5),
    Wasserstein: (0.0, 0.0),
    Hinge: (2.0, 0.0),
    Relativistic: (math.log(2), math.log(2)),
}
"""Losses of D and G at a score of 0 for everything."""


@pytest.mark.parametrize("name", RECIPES)
def test_an_undecided_discriminator_has_the_known_loss(name: str) -> None:
    """With binary cross-entropy each half of D's loss is log 2, whatever the label."""
    loss = RECIPES[name].loss
    entropies = (2 * getattr(loss, "scale", 1.0) * math.log(2), math.log(2))
    of_discriminator, of_generator = UNDECIDED.get(type(loss), entropies)
    zeros = torch.zeros(3, dtype=torch.float64)
    assert loss.discriminator(zeros, zeros).tolist() == pytest.approx([of_discriminator] * 3)
    assert loss.generator(zeros, zeros).tolist() == pytest.approx([of_generator] * 3)


REAL, FAKE = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0.25, -3.0, 2.0])


@pytest.mark.parametrize(
    ("loss", "of_discriminator", "of_generator"),
    [
        (LeastSquares(), [4.53125, 4.625, 4.0], [0.28125, 8.0, 0.5]),
        (Wasserstein(), [2.25, -3.5, -1.0], [-0.25, 3.0, -2.0]),
        (Hinge(), [4.25, 0.5, 3.0], [-0.25, 3.0, -2.0]),
        (
            Relativistic(),
            [math.log1p(math.exp(difference)) for difference in (2.25, -3.5, -1.0)],
            [math.log1p(math.exp(difference)) for difference in (-2.25, 3.5, 1.0)],
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_losses_by_hand(loss: AdversarialLoss, of_discriminator: list[float], of_generator: list[float]) -> None:
    assert loss.discriminator(REAL, FAKE).tolist() == pytest.approx(of_discriminator)
    assert loss.generator(FAKE, REAL).tolist() == pytest.approx(of_generator)


def test_the_hinge_has_no_gradient_beyond_its_margins() -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    Hinge().discriminator(real, fake).sum().backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == [-1.0, -1.0, 0.0]
    assert fake.grad.tolist() == [1.0, 0.0, 1.0]
