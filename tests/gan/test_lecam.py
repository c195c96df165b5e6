"""LeCam's term and anchors against closed forms; anchors that do not depend on the number of processes."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from gan.errors import UsageError
from gan.methods.lecam import LeCam
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES
from tests.gan.reference import assert_steps_of_the_tutorial, float64_state, inputs

ANCHORS = torch.tensor([0.5, -0.25], dtype=torch.float64)
REAL = torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
FAKE = torch.tensor([1.0, 0.25, -1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("one_sided", "expected", "of_real", "of_fake"),
    [
        # (D(x) + 0.25)² and (0.5 - D(G(z)))², of positive parts alone, or of all
        (True, [0.0, 0.0625 + 0.0625, 3.0625 + 2.25], [0.0, 0.5, 3.5], [0.0, -0.5, -3.0]),
        (False, [3.0625 + 0.25, 0.0625 + 0.0625, 3.0625 + 2.25], [-3.5, 0.5, 3.5], [1.0, -0.5, -3.0]),
    ],
)
def test_logits_are_held_near_those_of_the_other_kind(
    one_sided: bool, expected: list[float], of_real: list[float], of_fake: list[float]
) -> None:
    real = REAL.clone().requires_grad_()
    fake = FAKE.clone().requires_grad_()
    anchors = ANCHORS.clone().requires_grad_()
    term = LeCam(one_sided=one_sided)(real, fake, anchors)
    assert term.tolist() == pytest.approx(expected)
    term.sum().backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == pytest.approx(of_real)
    assert fake.grad.tolist() == pytest.approx(of_fake)
    assert anchors.grad is None


def test_anchors_are_moving_averages_of_the_global_batch() -> None:
    """Constant means are approached geometrically; parts of two processes move them as the whole does."""
    lecam = LeCam(decay=0.99)
    anchors = torch.zeros(2, dtype=torch.float64)
    means = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    for _ in range(7):
        anchors = lecam.moved(anchors, means)
    torch.testing.assert_close(anchors, means.detach() * (1 - 0.99**7))
    assert not anchors.requires_grad

    logits = torch.stack([REAL, FAKE])
    whole = lecam.moved(ANCHORS, logits.mean(1))
    parts = [logits[:, rows].sum(1) * 2 / 3 for rows in (slice(0, 2), slice(2, 3))]  # sum × share
    torch.testing.assert_close(lecam.moved(ANCHORS, torch.stack(parts).mean(0)), whole)


@pytest.mark.parametrize("name", ["mlp-compact", "cgan", "wgan-gp"])
@pytest.mark.parametrize("one_sided", [True, False])
def test_steps_equal_the_tutorials(
    name: str, one_sided: bool, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lecam = LeCam(0.5, decay=0.5, one_sided=one_sided)
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], lecam=lecam))
    assert_steps_of_the_tutorial(name, float64_state(name, accelerator), num_images=12, num_steps=2)


def test_the_objective_adds_the_term_with_its_weight(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = float64_state("mlp-compact", accelerator)
    monkeypatch.setitem(RECIPES, "mlp-compact", replace(RECIPES["mlp-compact"], lecam=LeCam(0.3)))
    state = float64_state("mlp-compact", accelerator)
    state.anchors.copy_(ANCHORS)
    batch = inputs("mlp-compact", 6).first_batch(plain, 1 / 6)
    fake = batch.real.flip(0).neg()
    ours = state.discriminator.objective(batch, fake)
    logits = [plain.discriminator.network(images) for images in (batch.real, fake)]
    expected = plain.discriminator.objective(batch, fake).loss + 0.3 * LeCam()(*logits, ANCHORS).mean()
    torch.testing.assert_close(ours.loss, expected)
    torch.testing.assert_close(ours.means, torch.stack(logits).mean(1).detach())
    assert plain.anchors is None
    assert torch.equal(state.tensors()["lecam.anchors"], ANCHORS)


@pytest.mark.parametrize("value", ["1", "-0.1"])
def test_a_decay_of_1_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"lecam\.decay .*: must be a number of at least 0 and below 1"):
        with_settings(RECIPES["mlp"], ["lecam=LeCam", f"lecam.decay={value}"])
