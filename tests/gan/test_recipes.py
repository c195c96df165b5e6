"""The table of the five tutorials, written a second time from the tutorials themselves."""

import pytest
import torch
from torch import nn

from gan.methods.losses import NonSaturating
from gan.models.initialization import initialize
from gan.models.mlp import MLP
from gan.recipes import RECIPES
from gan.seeds import seed_default_generator

# name: (dataset, batch, epochs, latent, G widths, D widths, Adam (lr, beta1, beta2, eps), label, scale, G first)
TUTORIALS = {
    "mlp": (
        *("mnist", 64, 50, 100, [100, 256, 512, 1024, 784], [784, 1024, 512, 256, 1]),
        *((2e-4, 0.5, 0.999, 1e-8), 1.0, 0.5, True),
    ),
    "mlp-dropout": (
        *("mnist", 200, 200, 100, [100, 256, 256, 784], [784, 256, 256, 1]),
        *((2e-4, 0.9, 0.999, 1e-8), 1.0, 1.0, False),
    ),
    "mlp-smooth": (
        *("mnist", 128, 400, 100, [100, 256, 512, 1024, 784], [784, 1024, 512, 256, 1]),
        *((2e-4, 0.5, 0.999, 1e-7), 0.9, 0.5, False),
    ),
    "mlp-batchnorm": (
        *("fashion_mnist", 64, 100, 64, [64, 128, 256, 512, 784], [784, 512, 256, 1]),
        *((1e-4, 0.5, 0.999, 1e-8), 0.9, 1.0, False),
    ),
    "mlp-compact": (
        *("mnist", 100, 200, 100, [100, 256, 256, 784], [784, 256, 256, 1]),
        *((2e-4, 0.9, 0.999, 1e-8), 1.0, 1.0, False),
    ),
}

RELU, LEAKY, LEAKY_01 = "ReLU()", "LeakyReLU(negative_slope=0.2)", "LeakyReLU(negative_slope=0.01)"
DROPOUT_1, DROPOUT_3 = "Dropout(p=0.1, inplace=False)", "Dropout(p=0.3, inplace=False)"

# What stands between the linear layers of G and of D.
HIDDEN = {
    "mlp": ([RELU], [RELU]),
    "mlp-dropout": ([RELU, DROPOUT_1], [LEAKY_01, DROPOUT_1]),
    "mlp-smooth": ([LEAKY], [LEAKY, DROPOUT_3]),
    "mlp-batchnorm": (["BatchNorm1d", LEAKY], [LEAKY, DROPOUT_3]),
    "mlp-compact": ([RELU], [LEAKY]),
}


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    recipe = RECIPES[name]
    seed_default_generator(torch.device("cpu"), 0)
    built = (
        recipe.generator.generator(recipe.latent_dim, (1, 28, 28)),
        recipe.discriminator.discriminator((1, 28, 28)),
    )
    for network in built:
        initialize(network, recipe.initialization)
    return built


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("name", TUTORIALS)
def test_settings(name: str) -> None:
    dataset, batch, epochs, latent, _, _, adam, label, scale, generator_first = TUTORIALS[name]
    recipe = RECIPES[name]
    assert (recipe.dataset, recipe.batch_size, recipe.epochs) == (dataset, batch, epochs)
    assert recipe.latent_dim == latent
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, *optimizer.betas, optimizer.eps) == adam
    assert recipe.loss == NonSaturating(label, scale)
    assert recipe.generator_first is generator_first


@pytest.mark.parametrize("name", TUTORIALS)
def test_layers(name: str) -> None:
    for network, widths, hidden in zip(networks(name), TUTORIALS[name][4:6], HIDDEN[name], strict=True):
        layers = linear_layers(network)
        assert [layers[0].in_features, *(layer.out_features for layer in layers)] == widths
        between = [str(layer) for layer in network if not isinstance(layer, nn.Linear | nn.Flatten | nn.Unflatten)]
        if between[-1] == "Tanh()":
            between.pop()
        expected = hidden * (len(layers) - 1)
        assert [text.split("(")[0] if text.startswith("BatchNorm") else text for text in between] == expected


@pytest.mark.parametrize("name", RECIPES)
def test_shapes_and_ranges(name: str) -> None:
    generator, discriminator = networks(name)
    images = generator(torch.randn(5, RECIPES[name].latent_dim) * 100)
    assert images.shape == (5, 1, 28, 28)
    if any(isinstance(layer, nn.Tanh) for layer in generator.modules()):  # R3GAN bounds nothing
        assert images.abs().max() <= 1
    assert discriminator(images).shape == (5,)
    discriminator.eval()  # BatchNorm would undo the size
    assert discriminator(images * 0 + 1e8).abs().max() > 1, "D must return logits, not probabilities"


CONVOLUTIONAL = [name for name, row in RECIPES.items() if not isinstance(row.generator, MLP)]


@pytest.mark.parametrize(
    ("name", "side"), [*((name, 32) for name in RECIPES), *((name, 64) for name in CONVOLUTIONAL)]
)
def test_colour_images_of_other_sizes_have_networks(name: str, side: int) -> None:
    """An MLP knows of sizes only how many numbers an image has."""
    recipe = RECIPES[name]
    shape = (3, side, side)
    images = recipe.generator.generator(recipe.latent_dim, shape)(torch.randn(2, recipe.latent_dim))
    assert images.shape == (2, *shape)
    assert recipe.discriminator.discriminator(shape)(images).shape == (2,)


def std(fan_in: int, fan_out: int, kind: str) -> float:
    return {
        "pytorch": (1 / (3 * fan_in)) ** 0.5,
        "xavier": (2 / (fan_in + fan_out)) ** 0.5,
        "kaiming": (2 / fan_in) ** 0.5,
    }[kind]


@pytest.mark.parametrize(
    ("name", "weights", "normal"),
    [
        ("mlp", "pytorch", False),
        ("mlp-dropout", "xavier", True),
        ("mlp-smooth", "xavier", False),
        ("mlp-batchnorm", "kaiming", True),
        ("mlp-compact", "pytorch", False),
    ],
)
def test_initial_weights(name: str, weights: str, normal: bool) -> None:
    for network in networks(name):
        for index, layer in enumerate(linear_layers(network)):
            if layer.weight.numel() < 10_000:
                continue
            expected, is_normal = std(layer.in_features, layer.out_features, weights), normal
            if name == "mlp-smooth" and index == 0:
                expected, is_normal = 0.02, True
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
            # a uniform distribution ends at sqrt(3) standard deviations, a normal one goes on
            assert (layer.weight.abs().max().item() > 2.5 * expected) is is_normal


def test_initial_biases() -> None:
    for network in networks("mlp-dropout"):
        for layer in linear_layers(network):
            assert layer.bias.min() >= 0.1
            assert layer.bias.max() <= 0.2
    for name in ("mlp-smooth", "mlp-batchnorm"):
        assert all(layer.bias.abs().max() == 0 for network in networks(name) for layer in linear_layers(network))


def test_quickstart_is_a_tutorial_on_the_bundled_digits() -> None:
    assert RECIPES["quickstart"].dataset == "digits"
    assert RECIPES["quickstart"].generator in [RECIPES[name].generator for name in TUTORIALS]


@pytest.mark.parametrize("name", RECIPES)
def test_every_row_names_its_source(name: str) -> None:
    assert "arXiv" in RECIPES[name].source
