"""The rows stylegan2 and stylegan2-ada: the values that their authors published, and what a user is told."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator

from gan.data.datasets import STORED_DATASETS
from gan.errors import UsageError
from gan.methods.ada import AugmentationPipeline
from gan.methods.adaptive import Adaptive
from gan.methods.augmentations import AUGMENTATIONS, augment
from gan.methods.losses import NonSaturating
from gan.methods.path_length import PathLength
from gan.methods.penalties import R1
from gan.models.stylegan2 import StyleGAN2
from gan.options import TrainOptions
from gan.recipe_rules import drawn_anew
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES, Recipe
from gan.rows.classic import CLASSIC
from gan.rows.style import STYLE
from gan.train import main
from gan.training.batch import Batch
from tests.gan.reference import float64_state, inputs
from tests.gan.small_run import write_images

Script = Callable[..., tuple[int, str, str]]


class Authors(NamedTuple):
    """What a configuration has in the authors' code, under the names of `cfg_specs` there."""

    kimg: int
    mb: int
    mbstd: int
    fmaps: float
    lrate: float
    gamma: float
    ema: int
    ramp: float | None
    map: int
    mirror: bool
    cond: bool
    images: int
    side: int


# Written a second time from NVlabs/stylegan2-ada-pytorch, train.py: `paper256` and `cifar`. The last four are
# those of the runs ffhq-res256-mirror-paper256-noaug and cifar10c-cifar-ada, of FFHQ and CIFAR-10.
AUTHORS = {
    "stylegan2": Authors(25_000, 64, 8, 0.5, 0.0025, 1, 20, None, 8, True, False, 70_000, 256),
    "stylegan2-ada": Authors(100_000, 64, 32, 1, 0.0025, 0.01, 500, 0.05, 2, False, True, 50_000, 32),
}
NAMES = pytest.mark.parametrize("name", AUTHORS)


def networks_of(row: Recipe) -> tuple[StyleGAN2, StyleGAN2]:
    assert isinstance(row.generator, StyleGAN2)
    assert isinstance(row.discriminator, StyleGAN2)
    return row.generator, row.discriminator


@NAMES
def test_batch_length_data_and_average_are_the_authors(name: str) -> None:
    row, authors = STYLE[name], AUTHORS[name]
    assert row.batch_size == authors.mb
    assert row.epochs == authors.kimg * 1000 // authors.images
    assert (row.mirror, row.conditional) == (authors.mirror, authors.cond)
    assert row.half_life(10**9) == 1000 * authors.ema
    assert row.half_life(1000) == (1000 * authors.ema if authors.ramp is None else 1000 * authors.ramp)


@NAMES
def test_networks_are_the_authors(name: str) -> None:
    """channel_base, channel_max, num_layers, style_mixing_prob and architecture; D maps classes by 8 layers."""
    row, authors = STYLE[name], AUTHORS[name]
    g, d = networks_of(row)
    for network in (g, d):
        assert network.channels == min(int(authors.fmaps * 32768) // authors.side, 512)
        assert (network.max_channels, network.mapping_rate, network.clamp) == (512, 0.01, 256.0)
    assert (row.latent_dim, g.style_width, g.mapping_layers, d.mapping_layers) == (512, 512, authors.map, 8)
    assert d.group_size == authors.mbstd
    is_cifar = name == "stylegan2-ada"
    assert (g.mixing, d.residual) == ((0.0, False) if is_cifar else (0.9, True))


@NAMES
def test_losses_and_penalties_are_the_authors(name: str) -> None:
    row = STYLE[name]
    assert row.loss == NonSaturating()
    assert row.penalty == R1(AUTHORS[name].gamma, every=16)
    assert row.generator_penalty == (PathLength(2.0, decay=0.01, every=4) if name == "stylegan2" else None)


@NAMES
@pytest.mark.parametrize(("network", "interval"), [("generator", 4), ("discriminator", 16)])
def test_optimizers_are_corrected_as_the_authors_are(name: str, network: str, interval: int) -> None:
    """Their loop does so for both networks in every configuration, with G_reg_interval and D_reg_interval."""
    ratio = interval / (interval + 1)
    adam = STYLE[name].numbers(network, 0)
    assert adam["lr"] == pytest.approx(AUTHORS[name].lrate * ratio, rel=1e-12)
    assert adam["betas"] == pytest.approx((0.0, 0.99**ratio), rel=1e-12)
    assert adam["eps"] == 1e-8


def test_augmentation_adapts_as_the_authors_does() -> None:
    """augpipe bgc, ada_target 0.6, ada_interval 4, ada_kimg 500, augment_p 0; noaug in the other run."""
    row = STYLE["stylegan2-ada"]
    assert [AUGMENTATIONS[item] for item in row.augmentation] == [AugmentationPipeline(("blit", "geom", "color"))]
    assert row.adaptive == Adaptive(target=0.6, interval=4, images=500_000, begin=0.0)
    assert (STYLE["stylegan2"].augmentation, STYLE["stylegan2"].adaptive) == ((), None)


@pytest.fixture
def full_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rows as they are, not as narrow as tests have them otherwise; in an empty directory."""
    for name, row in STYLE.items():
        monkeypatch.setitem(RECIPES, name, row)
    monkeypatch.chdir(tmp_path)


def lines_of(output: str) -> dict[str, str]:
    return {line[:14].strip(): line[14:] for line in output.splitlines()}


def memory_of(output: str, name: str) -> float:
    (line,) = [line for line in output.splitlines() if line.startswith(f"  {name} ")]
    return float(line.split()[-2].replace(",", ""))


def test_a_dry_run_at_256(full_rows: None, script: Script) -> None:
    """The parameters are those that the authors' code prints for paper256."""
    write_images(Path("photos"), 70)
    where = ("--data-root", "photos", "--image-shape", 3, 256, 256)
    code, output, errors = script(main, "--recipe", "stylegan2", *where, "--dry-run")
    assert (code, errors) == (0, "")
    said = lines_of(output)
    assert said["parameters"] == "G 24,767,458, D 24,001,089"
    assert said["steps"] == "357 = 357 epochs of 1"
    assert said["penalties"] == "one more update of D after every 16, and of G after every 4"
    mib = 4 * (24_767_458 + 24_001_089) / 2**20
    assert memory_of(output, "gradients") == pytest.approx(mib, abs=0.01)
    assert memory_of(output, "optimizers") == pytest.approx(2 * mib, abs=0.01)
    average = memory_of(output, "average of G")
    assert 4 * 24_767_458 / 2**20 < average < 1.02 * 4 * 24_767_458 / 2**20  # with its constant noise


def test_a_dry_run_of_cifar(full_rows: None, script: Script) -> None:
    """Classes add a vector of 512 each and a bias, 512² in G's first layer; in D 8 layers and 511 more outputs."""
    code, output, errors = script(main, "--recipe", "stylegan2-ada", "--dry-run")
    assert (code, errors) == (0, "")
    embedding = 10 * 512 + 512
    g = 19_947_539 + embedding + 512 * 512
    d = 20_720_641 + embedding + 8 * (512 * 512 + 512) + 511 * 513
    said = lines_of(output)
    assert said["parameters"] == f"G {g:,}, D {d:,}"
    assert said["steps"] == "1,562,000 = 2000 epochs of 781"
    assert said["penalties"] == "one more update of D after every 16"


OF_USERS = {"sagan": "3 128 128", "biggan": "3 128 128", "r3gan-ffhq64": "3 64 64", "stylegan2": "3 256 256"}
"""Rows for images of the user's, and the shapes that their papers have."""


@pytest.mark.parametrize("flags", [(), ("--dataset", "folder"), ("--dataset", "zip")])
@pytest.mark.parametrize(("name", "shape"), OF_USERS.items())
def test_a_row_for_images_of_the_users_asks_for_their_size(
    name: str, shape: str, flags: tuple[str, ...], script: Script
) -> None:
    code, output, errors = script(main, "--recipe", name, "--data-root", "photos", *flags, "--dry-run")
    assert (code, output) == (2, "")
    assert errors == (
        f"error: --recipe {name}: trains on images of your own; add --data-root PATH and --image-shape C H W, "
        f"as in {shape}, or another --dataset\n"
    )


def test_every_row_for_images_of_the_users_says_their_published_shape_and_no_other_row_does() -> None:
    shapes = {name: row.published_shape for name, row in RECIPES.items() if row.dataset in STORED_DATASETS}
    assert shapes == {name: tuple(map(int, shape.split())) for name, shape in OF_USERS.items()}
    assert [name for name, row in RECIPES.items() if row.published_shape and name not in OF_USERS] == []


def test_a_row_for_images_of_the_users_trains_on_them(run_training: Callable[..., Path], tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 8)
    settings = {"data_root": photos, "image_shape": (3, 32, 32), "num_workers": 0, "batch_size": 4}
    run = run_training(recipe="stylegan2", steps=5, **settings)
    assert (run / "generator.safetensors").exists()


def test_adaptation_needs_its_augmentation() -> None:
    with pytest.raises(
        UsageError, match=r"^--augment none: adaptive: none of the .*leave it out \(adaptive=none\)"
    ):
        TrainOptions(recipe="stylegan2-ada", augment="none").validate()
    without = TrainOptions(recipe="stylegan2-ada", augment="none", set=("adaptive=none",))
    without.validate()
    assert (without.row.adaptive, without.row.augmentation) == (None, ())


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_scaled_weights_are_not_drawn_otherwise(network: str) -> None:
    settings = [f"{network}=StyleGAN2", f"{network}.channels=4"]
    with pytest.raises(UsageError) as caught:
        with_settings(CLASSIC["dcgan"], settings)
    assert str(caught.value) == (
        f"--set {settings[0]} --set {settings[1]}: initialization 'dcgan': layers of StyleGAN2 have equalised "
        "learning rates: they scale the weights that they draw, and others would be too small; set "
        "initialization=built-in"
    )
    for initialization in ("built-in", "pytorch"):  # which both keep them
        with_settings(CLASSIC["dcgan"], [*settings, f"initialization={initialization}"])


def test_drawn_weights_are_not_replaced_without_a_word(
    run_training: Callable[..., Path], script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("discriminator=R3GAN", "discriminator.channels=4", "discriminator.blocks=1")
    said = "initialization dcgan replaces the weights that R3GAN would draw; --set {} keeps those"
    said = said.format("initialization=built-in")
    run_training(recipe="dcgan", dataset="digits", batch_size=8, steps=1, set=settings)
    assert f"note: {said}\n" in capsys.readouterr().out
    flags = [word for setting in settings for word in ("--set", setting)]
    code, output, _ = script(main, "--recipe", "dcgan", "--dataset", "digits", *flags, "--dry-run")
    assert (code, lines_of(output)["note"]) == (0, said)
    assert all(drawn_anew(row) is None for row in RECIPES.values())


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_r1_counts_sixteen_times_and_goes_through_the_augmentation_of_now(
    probability: float, accelerator: Accelerator
) -> None:
    """16 γ / 2 times the mean of ||∇D(T(x), y)||² with respect to x, whatever the augmentation began with."""
    state = float64_state("stylegan2-ada", accelerator)
    assert state.probability is not None
    state.probability.fill_(probability)
    taken = inputs("stylegan2-ada", 8)
    labels, warps, real = taken.labels[0], taken.warps[:2], taken.real[0].clone().requires_grad_()
    seen = augment(real, state.recipe.augmentation, warps[0], torch.tensor(probability))
    assert torch.equal(seen, real) is (probability == 0)
    (gradients,) = torch.autograd.grad(state.discriminator.network(seen, labels).sum(), real)
    expected = 16 * 0.01 / 2 * gradients.square().sum((1, 2, 3)).mean()
    batch = Batch(1 / 8, real.detach(), taken.latents[0], labels=labels, warps=warps)
    loss = state.discriminator.objective(batch, real.detach().flip(0), penalty_alone=True).loss
    torch.testing.assert_close(loss, expected)
