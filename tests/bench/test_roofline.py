"""FLOPs and bytes of a step, counted and by hand."""

import itertools
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from bench.workloads.roofline import step_cost
from gan.recipes import RECIPES, Recipe
from gan.training.state import TrainState
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state

BATCH = 8


def counted(name: str, accelerator: Accelerator):
    state = small_state(name, accelerator, seed=0, steps_per_epoch=2)
    return state, step_cost(state, inputs(name, BATCH).to(torch.float32).of(state, 1 / BATCH))


def widths(recipe: Recipe) -> tuple[list[int], list[int]]:
    return [recipe.latent_dim, *recipe.generator.widths, 784], [784, *recipe.discriminator.widths, 1]


def products(sizes: list[int]) -> list[int]:
    return [2 * rows * columns for rows, columns in itertools.pairwise(sizes)]


def flops_by_hand(recipe: Recipe) -> int:
    """Per image. A layer costs one product forwards, one for its weights' gradient, one for its input's.

    G's turn: G forwards, D forwards, D's input gradients (its weights are frozen), G's weights' gradients, and
    input gradients of all of G's layers but the first. D's turn, on a real and a generated image: D forwards, its
    weights' gradients, and input gradients of all but its first layer. Where D comes first, its fakes are made
    apart.
    """
    g, d = map(products, widths(recipe))
    generator_turn = sum(g) + 2 * sum(d) + sum(g) + sum(g[1:])
    discriminator_turn = 2 * (sum(d) + sum(d) + sum(d[1:]))
    fakes = 0 if recipe.generator_first else sum(g)
    return generator_turn + discriminator_turn + fakes


@pytest.mark.parametrize("name", [name for name, row in RECIPES.items() if type(row.generator).__name__ == "MLP"])
def test_counted_flops_are_those_by_hand(name: str, accelerator: Accelerator) -> None:
    _, cost = counted(name, accelerator)
    assert cost.flops == BATCH * flops_by_hand(RECIPES[name])


def test_an_image_of_mlp_costs_29_million(accelerator: Accelerator) -> None:
    _, cost = counted("mlp", accelerator)
    assert cost.flops / BATCH == 28_975_104


def lasting_floats(state: TrainState) -> int:
    return sum(parameter.numel() for player in state.players.values() for parameter in player.network.parameters())


def test_least_bytes_are_inputs_once_and_weights_and_moments_twice(accelerator: Accelerator) -> None:
    state, cost = counted("mlp", accelerator)
    taken = 4 * BATCH * (784 + 100)
    step_counts = 4 * sum(len(player.optimizer.state) for player in state.players.values())
    assert cost.least_bytes == taken + 2 * (3 * 4 * lasting_floats(state) + step_counts)


WITHOUT_PENALTY = [name for name, recipe in RECIPES.items() if not recipe.penalty]


@pytest.mark.parametrize("name", quick_or_slow(WITHOUT_PENALTY, quick=("mlp-batchnorm", "cgan", "sngan")))
def test_the_products_taken_again_are_all_of_the_step(name: str, accelerator: Accelerator) -> None:
    """The counter around the step itself finds as much; a penalty's gradient it cannot be put around."""
    from torch.utils.flop_counter import FlopCounterMode

    from bench.workloads.roofline import _ONEDNN

    state, cost = counted(name, accelerator)
    with FlopCounterMode(display=False, custom_mapping=_ONEDNN) as around:
        inputs(name, BATCH).to(torch.float32).train(state, 1 / BATCH)
    assert around.get_total_flops() == cost.flops


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.penalty])
def test_a_penalty_costs_more_than_none(
    name: str, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, with_penalty = counted(name, accelerator)
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], penalty=None))
    _, without = counted(name, accelerator)
    assert 1.2 * without.flops < with_penalty.flops < 3 * without.flops
