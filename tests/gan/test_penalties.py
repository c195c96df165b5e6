"""Penalties against closed forms and finite differences, in float64."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.methods.augmentations import UNIFORMS as UNIFORMS_OF_ALL
from gan.methods.consistency import UNIFORMS, Consistency, moved_at_random, squared_change
from gan.methods.draws import many_normal, many_uniform
from gan.methods.losses import Wasserstein
from gan.methods.penalties import DRAGAN, R1, GradientPenalty, Penalty, ZeroCentred
from gan.methods.schedules import at
from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.models.networks import apply
from gan.models.r3gan import R3GAN
from gan.recipes import RECIPES
from gan.training.batch import Batch
from gan.training.objectives import DiscriminatorObjective
from gan.training.terms import Terms
from tests.gan.reference import float64_state, gradients, inputs

PENALISED = [name for name, recipe in RECIPES.items() if recipe.penalty]
torch.manual_seed(0)
REAL, FAKE = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
MIX = torch.rand(5, dtype=torch.float64)


class Linear(nn.Module):
    """D(x) = <w, x>, whose gradient is w everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w


class Quadratic(nn.Module):
    """D(x) = a |x|² / 2, whose gradient is a x."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.flatten(1).square().sum(1) / 2


def test_a_linear_discriminator_has_a_known_penalty_and_gradient() -> None:
    discriminator = Linear()
    penalty = GradientPenalty(10.0)(discriminator, REAL, FAKE, MIX)
    norm = discriminator.w.detach().norm()
    torch.testing.assert_close(penalty.detach(), ((norm - 1) ** 2).expand(5))
    penalty.mean().backward()
    torch.testing.assert_close(discriminator.w.grad, 2 * (norm - 1) * discriminator.w.detach() / norm)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    """At mix 1 it is taken at the real images, at 0 at the fakes, each by its own number."""
    discriminator = Quadratic()
    penalty = GradientPenalty(2.0)(discriminator, REAL, FAKE, MIX)
    between = MIX.view(-1, 1, 1, 1) * REAL + (1 - MIX.view(-1, 1, 1, 1)) * FAKE
    norms = between.flatten(1).norm(dim=1)
    torch.testing.assert_close(penalty.detach(), (0.7 * norms - 1) ** 2)
    penalty.sum().backward()
    torch.testing.assert_close(discriminator.a.grad, (2 * (0.7 * norms - 1) * norms).sum())


def test_the_zero_centred_penalty_is_half_the_squares_at_real_and_at_fake() -> None:
    discriminator = Quadratic()
    penalty = ZeroCentred(2.0)(discriminator, REAL, FAKE)
    squares = REAL.flatten(1).square().sum(1) + FAKE.flatten(1).square().sum(1)
    torch.testing.assert_close(penalty.detach(), 0.7**2 * squares / 2)
    penalty.sum().backward()
    torch.testing.assert_close(discriminator.a.grad, 0.7 * squares.sum())


@dataclass(frozen=True)
class Scaled:
    """Multiplies each image by its own number."""

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return images * uniform[:, 0].view(-1, 1, 1, 1)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("kind", [R1, ZeroCentred, GradientPenalty])
def test_augmentation_is_a_part_of_what_r1_and_r2_differentiate(kind: type, every: int) -> None:
    """D(s x) = <w, s x> has the gradient s w at x: R1 is s² times what it is without, and its gradient is, too.

    A penalty on the norm between images is at images that D sees, where the gradient is w.
    """
    discriminator = Linear()
    torch.manual_seed(3)
    warps = 2 * torch.rand(2, 5, UNIFORMS_OF_ALL, dtype=torch.float64)
    batch = Batch(1 / 5, REAL, torch.zeros(0), mix=MIX, warps=warps)
    terms = Terms(Wasserstein(), augmentation=(Scaled(),))
    plain = DiscriminatorObjective(discriminator, terms)(batch, FAKE).loss
    objective = DiscriminatorObjective(discriminator, replace(terms, penalty=kind(3.0, every=every)))
    loss = objective(batch, FAKE).loss
    if every > 1:
        assert loss == plain
        loss = objective(batch, FAKE, penalty_alone=True).loss
    else:
        loss = loss - plain
    w = discriminator.w.detach()
    squares = {R1: warps[0, :, 0].square(), ZeroCentred: warps[:, :, 0].square().sum(0)}
    if kind is GradientPenalty:
        expected = (w.norm() - 1) ** 2
        slope = 2 * (w.norm() - 1) * w / w.norm()
    else:
        expected = squares[kind].mean() * w.square().sum() / 2
        slope = squares[kind].mean() * w
    torch.testing.assert_close(loss.detach(), 3.0 * every * expected)
    loss.backward()
    torch.testing.assert_close(discriminator.w.grad, 3.0 * every * slope)


def test_dragan_is_taken_around_the_real_images() -> None:
    discriminator = Quadratic()
    penalty = DRAGAN(deviation=0.3)(discriminator, REAL, FAKE, MIX)
    noise = many_normal(MIX.unsqueeze(1), 16)
    assert len({*noise[:, 0].tolist()}) == 5  # each image has other noise
    norms = (REAL.flatten(1) + 0.3 * noise).norm(dim=1)
    torch.testing.assert_close(penalty.detach(), (0.7 * norms - 1) ** 2)
    penalty.sum().backward()
    torch.testing.assert_close(discriminator.a.grad, (2 * (0.7 * norms - 1) * norms).sum())
    assert DRAGAN().weight == 10


@pytest.mark.parametrize("on_fakes", [False, True])
def test_consistency_is_the_squared_change_of_the_logit(on_fakes: bool) -> None:
    """Of D(x) = <w, x>, it is <w, x - T(x)>², with a gradient of 2 <w, x - T(x)> (x - T(x))."""
    discriminator = Linear()
    penalty = Consistency(on_fakes=on_fakes)(discriminator, REAL, FAKE, MIX)
    uniform = many_uniform(MIX.unsqueeze(1), 2 * UNIFORMS)
    changes = [(REAL - moved_at_random(REAL, uniform[:, :3])).flatten(1)]
    changes += [(FAKE - moved_at_random(FAKE, uniform[:, 3:])).flatten(1)] if on_fakes else []
    w = discriminator.w.detach()
    torch.testing.assert_close(penalty.detach(), sum((change @ w).square() for change in changes))
    penalty.sum().backward()
    expected = sum((2 * (change @ w).unsqueeze(1) * change).sum(0) for change in changes)
    torch.testing.assert_close(discriminator.w.grad, expected)
    assert (changes[0].abs().sum(1) > 0).any()


@pytest.mark.parametrize(("mirror", "flipped"), [(0.25, False), (0.75, True)])
def test_images_are_mirrored_and_shifted_by_up_to_an_eighth(mirror: float, flipped: bool) -> None:
    torch.manual_seed(2)
    images = torch.rand(3, 2, 16, 16)
    uniform = torch.tensor([[mirror, 0.5, 0.5]] * 3)
    assert torch.equal(moved_at_random(images, uniform), images.flip(3) if flipped else images)
    for value, shift in ((0.0, -2), (0.999, 2)):
        uniform = torch.tensor([[0.25, value, 0.5], [0.25, 0.5, value], [0.25, 0.5, 0.5]])
        moved = moved_at_random(images, uniform)
        inner = slice(4, 12)
        back = slice(4 + shift, 12 + shift)
        assert torch.equal(moved[0, :, :, inner], images[0, :, :, back])
        assert torch.equal(moved[1, :, inner], images[1, :, back])
        assert torch.equal(moved[2], images[2])


def test_a_discriminator_that_does_not_mind_mirroring_and_shifts_has_no_penalty() -> None:
    images = torch.ones(4, 1, 8, 8) * torch.rand(4, 1, 1, 1)
    network = MLP((7, 5), negative_slope=0.2).discriminator((1, 8, 8))
    penalty = Consistency(on_fakes=True)(network, images, images.flip(0), torch.rand(4))
    torch.testing.assert_close(penalty, torch.zeros(4), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [DRAGAN(), Consistency(on_fakes=True)], ids=lambda kind: type(kind).__name__)
def test_a_penalty_that_moves_images_does_not_depend_on_the_rest_of_the_batch(kind: Penalty) -> None:
    """So two processes, or micro-batches, have what one has."""
    network = MLP((7, 5), negative_slope=0.2).discriminator((1, 4, 4)).double()
    whole = kind(network, REAL, FAKE, MIX)
    for rows in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(kind(network, REAL[rows], FAKE[rows], MIX[rows]), whole[rows])


def test_squared_change_adds_up_over_what_a_sample_has() -> None:
    torch.testing.assert_close(squared_change(REAL, FAKE), (REAL - FAKE).flatten(1).norm(dim=1).square())
    logits = REAL.flatten(1)[:, 0]
    torch.testing.assert_close(squared_change(logits, logits + 2), torch.full((5,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "kind",
    [GradientPenalty(10.0), ZeroCentred(2.0), DRAGAN(10.0), Consistency(10.0, on_fakes=True)],
    ids=lambda kind: type(kind).__name__,
)
@pytest.mark.parametrize(
    "network",
    [
        MLP((7, 5), negative_slope=0.2).discriminator((1, 4, 4)),
        DCGAN(3, batchnorm=False).discriminator((1, 8, 8)),
        R3GAN(4, 1, group_width=4).discriminator((1, 8, 8)),
    ],
    ids=["MLP", "DCGAN", "R3GAN"],
)
def test_gradients_of_a_penalty_equal_finite_differences(network: nn.Module, kind: Penalty) -> None:
    network = copy.deepcopy(network).double()
    size = 4 if isinstance(network[0], nn.Flatten) else 8
    torch.manual_seed(1)
    real, fake = torch.randn(2, 3, 1, size, size, dtype=torch.float64)
    mix = torch.rand(3, dtype=torch.float64)

    def penalty() -> Tensor:
        return kind(network, real, fake, mix).mean()

    penalty().backward()
    for parameter in network.parameters():
        if parameter.grad is None:  # the last bias moves no gradient
            continue
        with torch.no_grad():
            direction = torch.randn_like(parameter)
            step = 1e-6
            parameter += step * direction
            above = penalty_value(penalty)
            parameter -= 2 * step * direction
            below = penalty_value(penalty)
            parameter += step * direction
        expected = (above - below) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def penalty_value(penalty) -> float:
    with torch.enable_grad():
        return penalty().item()


@pytest.mark.parametrize("name", PENALISED)
def test_a_penalty_is_computed_in_fp32_under_autocast(name: str) -> None:
    recipe = RECIPES[name]
    network = recipe.discriminator.discriminator((1, 28, 28))
    seen: list[torch.dtype] = []
    network.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    real, fake = torch.randn(2, 4, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(real).dtype == torch.bfloat16
        assert recipe.penalty(network, real, fake.bfloat16().float(), torch.rand(4)).dtype == torch.float32
    num_passes = 2 if isinstance(recipe.penalty, ZeroCentred) else 1
    assert seen == [torch.bfloat16] + [torch.float32] * num_passes


@pytest.mark.parametrize("name", [name for name in PENALISED if not RECIPES[name].lazy])
def test_the_objective_adds_the_penalty_once(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    batch = inputs(name, 6).first_batch(state, 1 / 6)
    fake = batch.real.flip(0)
    loss = state.discriminator.objective(batch, fake).loss

    def discriminator(images: Tensor) -> Tensor:
        return apply(state.discriminator.network, images, batch.labels)

    expected = state.recipe.loss.discriminator(discriminator(batch.real), discriminator(fake)).mean()
    penalty = state.recipe.penalty
    expected = expected + at(penalty.weight, 0) * penalty(discriminator, batch.real, fake, batch.mix).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.discriminator_clip])
def test_clipped_parameters_stay_within_the_bound(name: str, accelerator: Accelerator) -> None:
    state = float64_state(name, accelerator)
    inputs(name, 6).train(state, 1 / 6)
    largest = max(parameter.abs().max().item() for parameter in state.discriminator.network.parameters())
    assert largest == pytest.approx(state.recipe.discriminator_clip)
    assert gradients(state)["discriminator.0.weight"].abs().max() > 0
    assert max(parameter.abs().max().item() for parameter in state.generator.network.parameters()) > 0.02
