"""The path length penalty against closed forms and finite differences, in float64; its running mean."""

import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.errors import UsageError
from gan.methods.path_length import PathLength
from gan.recipe_files import recipe_named
from gan.recipes import RECIPES
from gan.training.rehearsal import rehearse
from tests.gan.reference import LAZY, float64_state, inputs
from tests.lazy_recipes import StyledGenerator

STYLED = LAZY[0]
NUM_LAYERS, WIDTH, SIZE = 2, 8, 4


class Scaled(nn.Module):
    """Images a w, so that J_wᵀ y is a y: layer by layer, the rows of an image of 4 by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, NUM_LAYERS, WIDTH).clone().requires_grad_()

    def synthesis(self, styles: Tensor) -> Tensor:
        return self.a * styles.view(-1, 1, SIZE, SIZE)


def drawn(num_images: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    latents = torch.randn(num_images, NUM_LAYERS * WIDTH, dtype=torch.float64)
    return latents, torch.randn(num_images, 1, SIZE, SIZE, dtype=torch.float64)


def test_a_linear_generator_has_a_known_penalty_and_gradient() -> None:
    generator = Scaled()
    latents, directions = drawn()
    mean = torch.tensor(0.4, dtype=torch.float64)
    penalty, lengths = PathLength()(generator, latents, None, directions, mean)
    of_layers = directions.view(5, NUM_LAYERS, WIDTH).square().sum(2)  # |y_l|²
    unscaled = (of_layers.mean(1)).sqrt() / math.sqrt(SIZE * SIZE)
    torch.testing.assert_close(lengths, 0.7 * unscaled)
    torch.testing.assert_close(penalty.detach(), (0.7 * unscaled - 0.4) ** 2)
    penalty.sum().backward()
    torch.testing.assert_close(generator.a.grad, (2 * (0.7 * unscaled - 0.4) * unscaled).sum())


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(1)
    network = StyledGenerator(4, WIDTH, (1, SIZE, SIZE)).double()
    latents = torch.randn(3, 4, dtype=torch.float64)
    directions = torch.randn(3, 1, SIZE, SIZE, dtype=torch.float64)
    mean = torch.tensor(0.01, dtype=torch.float64)

    def penalty() -> Tensor:
        return PathLength()(network, latents, None, directions, mean)[0].mean()

    penalty().backward()
    checked = 0
    for parameter in network.parameters():
        if parameter.grad is None:
            continue
        with torch.no_grad():
            direction = torch.randn_like(parameter)
            parameter += 1e-6 * direction
            above = value_of(penalty)
            parameter -= 2e-6 * direction
            below = value_of(penalty)
            parameter += 1e-6 * direction
        expected = (above - below) / 2e-6
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
        checked += 1
    assert checked >= 6


def value_of(penalty) -> float:
    with torch.enable_grad():
        return penalty().item()


def test_the_objective_takes_weight_interval_and_share(accelerator: Accelerator) -> None:
    state = float64_state(STYLED, accelerator)
    taken = inputs(STYLED, 6)
    assert state.generator_penalty_mean is not None
    state.generator_penalty_mean.fill_(0.3)
    batch = taken.of(state, 2 / 6).batch(1, -1, with_directions=True)
    out = state.generator.objective(batch, penalty_alone=True)
    arguments = (state.generator.network, batch.latents, None, taken.directions)
    penalty, lengths = PathLength()(*arguments, torch.tensor(0.3, dtype=torch.float64))
    torch.testing.assert_close(out.loss, 2 * 2 * 2 * penalty.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(out.measured, 2 * lengths.mean(), rtol=1e-12, atol=0)


def test_the_running_mean_follows_the_lengths_and_is_saved(accelerator: Accelerator) -> None:
    """By a hundredth of the distance, when the penalty is due; the penalty has the mean before."""
    state = float64_state(STYLED, accelerator)
    expected = 0.0
    for step in range(4):
        taken = inputs(STYLED, 6, step)
        noted: list[float] = []
        move = state.move_penalty_mean
        state.move_penalty_mean = lambda mean, noted=noted, move=move: (noted.append(mean.item()), move(mean))
        state.record(taken.train(state, 1 / 6), 6)
        state.move_penalty_mean = move
        assert len(noted) == (step % 2 == 0)
        for length in noted:
            assert length > 0
            expected += 0.01 * (length - expected)
        assert state.generator_penalty_mean.item() == pytest.approx(expected, rel=1e-12)
    other = float64_state(STYLED, accelerator)
    other.load(state.tensors(), state.counters(), 0)
    assert torch.equal(other.generator_penalty_mean, state.generator_penalty_mean)
    assert expected > 0
    without = {name: value for name, value in state.tensors().items() if name != "generator_penalty.mean"}
    with pytest.raises(KeyError):
        other.load(without, state.counters(), 0)


def test_the_penalty_is_computed_in_fp32_under_autocast() -> None:
    network = StyledGenerator(4, WIDTH, (1, SIZE, SIZE))
    latents, directions = torch.randn(3, 4), torch.randn(3, 1, SIZE, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        assert network.synthesis(network.styles(latents)).dtype == torch.bfloat16
        values = PathLength()(network, latents, None, directions, torch.zeros(()))
    assert [value.dtype for value in values] == [torch.float32] * 2


def test_a_generator_without_styles_is_refused_in_one_line() -> None:
    row = replace(RECIPES["mlp"], generator_penalty=PathLength())
    with pytest.raises(UsageError, match="the penalty of the generator: TypeError: PathLength needs a sty"):
        rehearse(row, (1, 28, 28), 0, "--recipe mlp")
    rehearse(recipe_named(STYLED), (1, 28, 28), 0, "")
