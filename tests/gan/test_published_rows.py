"""The rows of published GANs, written a second time from the papers and their authors' code, as these put it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from gan.methods.ada import UNIFORMS_OF, AugmentationPipeline
from gan.methods.auxiliary import ClassPrediction, MutualInformation
from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.schedules import at
from gan.models.initialization import initialize
from gan.models.sngan import SNResNet, WGANResNet
from gan.recipes import RECIPES, Recipe
from gan.recipes_small import SMALL
from gan.rows.published import PUBLISHED

NUM_IMAGES = {"mnist": 60_000, "cifar10": 50_000, "imagenet": 1_281_167, "ffhq": 70_000}


class Source(NamedTuple):
    """What a paper or its authors' code says.

    Attributes:
        data: A key of NUM_IMAGES.
        batch: Real images of an update of D.
        iterations: Updates of G.
        latents: Their width.
        rates: Adam's learning rates of G and of D.
        betas: Adam's.
        loss: The name of its class.
        updates: Of D, to one of G.
        classes: Whether G and D know them.
        decay: By which an average of G is multiplied after each of its updates; 0 without one.
    """

    data: str
    batch: int
    iterations: int
    latents: int
    rates: tuple[float, float]
    betas: tuple[float, float]
    loss: str
    updates: int = 1
    classes: bool = False
    decay: float = 0.0


SOURCES = {
    # arXiv:1610.09585, appendix A, table 2
    "acgan": Source("cifar10", 100, 50_000, 100, (2e-4, 2e-4), (0.5, 0.999), "NonSaturating", classes=True),
    # openai/InfoGAN, launchers/run_mnist_exp.py: 50 epochs of 100 updates; latents: 62 + 10 + 1 + 1
    "infogan": Source("mnist", 128, 50 * 100, 62 + 10 + 1 + 1, (1e-3, 2e-4), (0.5, 0.999), "NonSaturating"),
    # igul222/improved_wgan_training, gan_cifar_resnet.py
    "wgan-gp-cifar": Source("cifar10", 64, 100_000, 128, (2e-4, 2e-4), (0.0, 0.9), "Wasserstein", updates=5),
    # pfnet-research/sngan_projection, configs/sn_cifar10_unconditional.yml
    "sngan-cifar": Source("cifar10", 64, 50_000, 128, (2e-4, 2e-4), (0.0, 0.9), "Hinge", updates=5),
    # brain-research/self-attention-gan: 64 images on each of 4 GPUs, a million steps; the betas: arXiv:1805.08318
    "sagan": Source("imagenet", 256, 1_000_000, 128, (1e-4, 4e-4), (0.0, 0.9), "Hinge", classes=True),
    # arXiv:1809.11096; the number of iterations: the README of ajbrock/BigGAN-PyTorch
    "biggan": Source(
        *("imagenet", 2048, 150_000, 6 * 20, (5e-5, 2e-4), (0.0, 0.999), "Hinge"),
        updates=2,
        classes=True,
        decay=0.9999,
    ),
    # ajbrock/BigGAN-PyTorch, scripts/launch_cifar_ema.sh: 500 epochs of 250 steps
    "biggan-cifar": Source(
        *("cifar10", 50, 500 * 250, 128, (2e-4, 2e-4), (0.0, 0.999), "Hinge"),
        updates=4,
        classes=True,
        decay=0.9999,
    ),
    # brownvc/R3GAN, train.py, presets CIFAR10 and FFHQ-64, and README: schedules of 20 million images
    "r3gan-cifar": Source("cifar10", 512, 39_063, 64, (2e-4, 2e-4), (0.0, 0.9), "Relativistic", classes=True),
    "r3gan-ffhq64": Source("ffhq", 256, 78_125, 64, (2e-4, 2e-4), (0.0, 0.9), "Relativistic"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_are_the_sources(name: str) -> None:
    source = SOURCES[name]
    row = PUBLISHED[name]
    assert row.dataset == ("folder" if source.data in ("imagenet", "ffhq") else source.data)
    assert (row.batch_size, row.latent_dim) == (source.batch, source.latents)
    assert (row.discriminator_steps, row.conditional) == (source.updates, source.classes)
    assert type(row.loss).__name__ == source.loss
    for player, rate in zip(("generator", "discriminator"), source.rates, strict=True):
        numbers = row.numbers(player, 0)
        assert (numbers["lr"], *numbers["betas"], numbers["eps"]) == pytest.approx(
            (rate, *source.betas, 1e-8), rel=1e-12
        )
    assert not row.shared_fakes
    assert not row.generator_first
    assert row.discriminator_clip == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_takes_as_many_updates_as_the_source(name: str) -> None:
    """Within an epoch of the dataset, because a row counts epochs."""
    source = SOURCES[name]
    images = source.iterations * source.updates * source.batch
    assert PUBLISHED[name].epochs == pytest.approx(images / NUM_IMAGES[source.data], abs=1)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.decay])
def test_the_average_of_g_has_the_sources_decay(name: str) -> None:
    source = SOURCES[name]
    images = source.updates * source.batch
    assert 0.5 ** (images / PUBLISHED[name].half_life(10**9)) == pytest.approx(source.decay, abs=1e-8)


@pytest.mark.parametrize("name", ["wgan-gp-cifar", "sngan-cifar"])
def test_learning_rates_fall_to_zero_with_the_last_update(name: str) -> None:
    source = SOURCES[name]
    images = source.iterations * source.updates * source.batch
    rates = [PUBLISHED[name].numbers("generator", seen)["lr"] for seen in (0, images // 4, images)]
    assert rates == pytest.approx([2e-4, 1.5e-4, 0.0])


# name: the probability of augmentation at the end, γ at the beginning and at the end, the half-life of G's average
R3GAN_ENDS = {"r3gan-cifar": (0.55, 0.05, 0.005, 5e6), "r3gan-ffhq64": (0.3, 2.0, 0.2, 5e5)}


@pytest.mark.parametrize("name", R3GAN_ENDS)
def test_r3gan_follows_its_authors_schedules(name: str) -> None:
    """All begin at the first image and end after 20 million, along half a cosine."""
    row = PUBLISHED[name]
    probability, first_weight, weight, half_life = R3GAN_ENDS[name]
    assert row.penalty is not None

    def values(seen: int) -> tuple[float, ...]:
        numbers = row.numbers("discriminator", seen)
        weight = at(row.penalty.weight, seen)  # type: ignore[union-attr]
        return numbers["lr"], numbers["betas"][1], weight, row.probability(seen), row.half_life(seen)

    begin, end = (2e-4, 0.9, first_weight, 0.0, 0.0), (5e-5, 0.99, weight, probability, half_life)
    assert values(0) == pytest.approx(begin)
    assert values(20_000_000) == pytest.approx(end)
    assert values(10**9) == pytest.approx(end)
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert values(5_000_000) == pytest.approx([b + (a - b) * quarter for a, b in zip(begin, end, strict=True)])
    assert row.numbers("generator", 10**7) == row.numbers("discriminator", 10**7)
    assert row.mirror


def test_r3gans_colours_change_half_as_often_as_the_rest() -> None:
    """The authors' pipeline: x-flip to cutout at p, brightness to saturation at p / 2."""
    (pipeline,) = PUBLISHED["r3gan-cifar"].augmentation
    assert isinstance(pipeline, AugmentationPipeline)
    assert PUBLISHED["r3gan-ffhq64"].augmentation == (pipeline,)
    assert set(pipeline.groups) == {"blit", "geom", "color", "cutout"}
    drawn = pipeline._draws(torch.rand(2, pipeline.num_uniforms), torch.tensor(0.5))
    assert {group: draws.probability.item() for group, draws in drawn.items()} == {
        **dict.fromkeys(("blit", "geom", "cutout"), 0.5),
        "color": 0.25,
    }
    uniform = torch.zeros(2, pipeline.num_uniforms)
    uniform[0, :] = 0.3  # below p, and above p / 2
    colours = slice(UNIFORMS_OF["blit"] + UNIFORMS_OF["geom"], None)
    images = torch.rand(2, 3, 8, 8)
    only_colours = AugmentationPipeline(("color",), color_share=0.5)
    changed = (only_colours(images, uniform[:, colours][:, : UNIFORMS_OF["color"]], 0.5) != images).any((1, 2, 3))
    assert changed.tolist() == [False, True]
    with pytest.raises(AssertionError, match="color_share 2: must be from 0 to 1"):
        AugmentationPipeline(color_share=2)


def test_what_else_sets_rows_apart() -> None:
    assert PUBLISHED["biggan"].generator_penalty == OrthogonalRegularization(1e-4)
    assert PUBLISHED["biggan-cifar"].generator_penalty is None
    assert PUBLISHED["acgan"].auxiliary == ClassPrediction(1.0)
    assert PUBLISHED["infogan"].auxiliary == MutualInformation(1.0, sizes=(10,), num_continuous=2)
    penalties = {name: row.to_json()["penalty"] for name, row in PUBLISHED.items() if row.penalty}
    assert penalties["wgan-gp-cifar"] == {"kind": "GradientPenalty", "weight": 10.0}
    assert penalties.keys() == {"wgan-gp-cifar", "r3gan-cifar", "r3gan-ffhq64"}
    assert {name for name, row in PUBLISHED.items() if row.mirror} == {"r3gan-cifar", "r3gan-ffhq64"}


INITIALIZATIONS = {
    **dict.fromkeys(("acgan", "infogan", "biggan-cifar"), "dcgan"),  # normal(0, 0.02)
    **dict.fromkeys(("wgan-gp-cifar", "sngan-cifar"), "glorot-uniform-residual"),
    "sagan": "glorot-uniform",
    "biggan": "orthogonal",
    **dict.fromkeys(("r3gan-cifar", "r3gan-ffhq64"), "built-in"),
}


def test_weights_are_drawn_as_the_sources_draw_them() -> None:
    assert {name: row.initialization for name, row in PUBLISHED.items()} == INITIALIZATIONS


@pytest.mark.parametrize("spec", [SNResNet(64, 64), WGANResNet(64, 64)], ids=["sngan", "wgan-gp"])
def test_convolutions_of_residual_blocks_are_wider_by_the_root_of_two(spec: SNResNet) -> None:
    """``uniform(±sqrt(12 / (fan_in + fan_out)))`` there, with 6 for shortcuts, the first and the last layer."""
    for network in (spec.generator(128, (3, 32, 32)), spec.discriminator((3, 32, 32))):
        initialize(network, "glorot-uniform-residual")
        in_blocks = [
            layer
            for block in network.modules()
            if isinstance(block, nn.ModuleList)
            for layer in block
            if isinstance(layer, nn.Conv2d)
        ]
        assert len(in_blocks) >= 6
        for layer in network.modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            weight = dict(layer.named_parameters()).get("parametrizations.weight.original", layer.weight)
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
            limit = math.sqrt((12 if layer in in_blocks else 6) / (fan_in + fan_out))
            assert weight.abs().max().item() == pytest.approx(limit, rel=0.1)
            assert weight.abs().max().item() <= limit
            assert layer.bias is None or layer.bias.abs().max() == 0


def test_rows_have_the_published_networks() -> None:
    """Their numbers of parameters are those of `test_published_sizes`; here, that rows name these networks."""
    kinds: dict[str, Any] = {name: row.to_json()["generator"] for name, row in PUBLISHED.items()}
    assert all(row.generator == row.discriminator for row in PUBLISHED.values())
    assert {name: kind["kind"] for name, kind in kinds.items()} == {
        "acgan": "ACGAN",
        "infogan": "InfoGAN",
        "wgan-gp-cifar": "WGANResNet",
        "sngan-cifar": "SNResNet",
        "sagan": "SAGAN",
        "biggan": "BigGAN",
        "biggan-cifar": "BigGAN",
        "r3gan-cifar": "WideR3GAN",
        "r3gan-ffhq64": "WideR3GAN",
    }
    assert (kinds["biggan"]["generator_channels"], kinds["biggan-cifar"]["generator_channels"]) == (96, 64)
    assert (kinds["r3gan-cifar"]["channels"], kinds["r3gan-ffhq64"]["channels"]) == (768, 384)
    assert (kinds["sngan-cifar"]["generator_channels"], kinds["wgan-gp-cifar"]["generator_channels"]) == (256, 128)


def test_every_published_row_is_in_the_table() -> None:
    rows: dict[str, Recipe] = {name: RECIPES[name] for name in SOURCES}
    assert rows.keys() == PUBLISHED.keys()


def test_a_run_says_which_network_has_no_attention(
    run_training: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of 28×28 are halved to 14×14 and 7×7; G makes those of 7×7 without a block before."""
    settings = {"recipe": "sagan", "dataset": "digits", "batch_size": 8, "steps": 1}
    run_training("second", set=SMALL["sagan"], **settings)
    said = "note: generator.attention_level 2: no attention: images of 28×28 are not halved so often; lower it, or"
    assert said in capsys.readouterr().out
    for level in ("1", "none"):
        levels = (f"generator.attention_level={level}", f"discriminator.attention_level={level}")
        run_training(level, set=(*SMALL["sagan"], *levels), **settings)
        assert "attention" not in capsys.readouterr().out
