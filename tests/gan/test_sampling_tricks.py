"""Truncated latents and standing statistics."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.methods.truncation import truncated_normal
from gan.models.batch_statistics import take_standing_statistics
from gan.models.biggan import BigGAN
from gan.run_options import SampleOptions, parse_sample_options
from gan.sample import sample
from gan.session.sampling import classes_in_turn
from tests.gan.reference import STYLE


def test_a_grid_of_more_columns_than_classes_begins_again_with_the_first() -> None:
    """As that of real images of another run does, of more classes."""
    generator: Any = SimpleNamespace(num_classes=8, classes=(0, 3, 7))
    in_turn = classes_in_turn(generator, 6, 10)
    assert in_turn is not None
    assert in_turn.tolist() == [0, 3, 7, 0, 3, 7]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("threshold", [0.04, 0.5, 1.0, 2.0])
def test_truncated_numbers_are_distributed_as_those_drawn_anew_until_they_fit(threshold: float) -> None:
    drawn = torch.randn(int(200_000 / math.erf(threshold / math.sqrt(2))), generator=source(1))
    expected = drawn[drawn.abs() <= threshold].sort().values
    ours = truncated_normal(len(expected), 1, threshold, source()).flatten().sort().values
    assert ours.abs().max() <= threshold
    quantiles = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(
        ours.quantile(quantiles), expected.quantile(quantiles), atol=0.02 * threshold, rtol=0
    )


def test_an_infinite_threshold_truncates_nothing() -> None:
    drawn = truncated_normal(100_000, 1, math.inf, source())
    assert drawn.std().item() == pytest.approx(1.0, abs=0.01)
    assert drawn.abs().max() > 3.5


def test_standing_statistics_are_means_over_batches_and_leave_the_layer_as_it_was() -> None:
    layer = nn.BatchNorm2d(3)
    network = nn.Sequential(layer, nn.Dropout(0.5)).eval()
    layer.running_mean.fill_(9.0)
    batches = [torch.randn(5, 3, 2, 2, generator=source(seed)) * (seed + 1) + seed for seed in range(4)]
    take_standing_statistics(network, ((batch,) for batch in batches))
    torch.testing.assert_close(layer.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert layer.momentum == 0.1
    assert not layer.training
    assert torch.equal(network(batches[0]), network(batches[0])), "dropout is off"


def test_standing_statistics_do_not_iterate_spectral_norm() -> None:
    network = BigGAN(4, 4, 8).generator(10, (1, 28, 28)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    take_standing_statistics(network, [(torch.randn(4, 10),)])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gan.loop import train
    from gan.options import TrainOptions

    output = tmp_path_factory.mktemp("tricks") / "run"
    settings = ("generator=BigGAN", "discriminator=BigGAN", "initialization=orthogonal")
    few = tuple(
        f"{player}.{name}={value}"
        for player in ("generator", "discriminator")
        for name, value in (("generator_channels", 2), ("discriminator_channels", 2), ("class_width", 4))
    )
    options = {"recipe": "cgan", "dataset": "digits", "batch_size": 300, "steps": 2, "set": (*settings, *few)}
    train(TrainOptions(**options, output=output))
    return output


def picture(run: Path, output: Path, **options: object) -> np.ndarray:
    (path,) = sample(SampleOptions(run, "grid", output=output, num_images=4, **options))
    return np.array(Image.open(path))


@pytest.mark.slow
def test_both_change_the_pictures_and_only_where_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    plain = picture(run, tmp_path / "plain")
    truncated = picture(run, tmp_path / "truncated", truncation=0.1)
    standing = picture(run, tmp_path / "standing", standing_statistics=2)
    assert not np.array_equal(plain, truncated)
    assert not np.array_equal(plain, standing)
    assert np.array_equal(standing, picture(run, tmp_path / "standing again", standing_statistics=2))


@pytest.mark.slow
def test_a_generator_with_spectral_norm_is_rebuilt_from_its_files(run: Path) -> None:
    from gan.training.checkpoints import load_checkpoint, load_generator, newest_first

    folder = RunFolder(run)
    generator = load_generator(folder.generator, folder.generator_config)
    saved = load_checkpoint(newest_first(folder.checkpoints)[0]).tensors
    for name, value in generator.network.state_dict().items():
        assert torch.equal(value, saved[f"generator.network.{name}"])


@pytest.mark.slow
def test_truncation_of_a_style_based_generator_leads_to_its_average_style(tmp_path: Path, run_training) -> None:
    run = run_training(recipe=STYLE, dataset="digits", steps=1, batch_size=4)
    plain = picture(run, tmp_path / "plain")
    average = picture(run, tmp_path / "average", truncation=1e-6)
    assert np.array_equal(picture(run, tmp_path / "whole", truncation=1.0), plain)
    assert not np.array_equal(average, plain)
    side = (average.shape[0] - 2) // 2
    tiles = [average[y : y + side - 2, x : x + side - 2] for y in (2, 2 + side) for x in (2, 2 + side)]
    assert all(np.array_equal(tile, tiles[0]) for tile in tiles)


def test_bad_values_are_one_line(tmp_path: Path, run_training) -> None:
    for text in ("0", "-1", "nan"):
        with pytest.raises(UsageError, match=r"--truncation .*: must be greater than 0"):
            parse_sample_options(["run", "--truncation", text])
    with pytest.raises(UsageError, match="--standing-statistics -1: must be at least 0"):
        parse_sample_options(["run", "--standing-statistics", "-1"])
    plain = run_training(recipe="mlp-compact", dataset="digits", steps=1, batch_size=300)
    with pytest.raises(UsageError, match=r"--standing-statistics: the generator of .* has no BatchNorm"):
        sample(SampleOptions(plain, "grid", output=tmp_path, standing_statistics=1))
