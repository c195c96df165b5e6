"""`--set`: typed values of nested fields, classes by name, and one line for what is not allowed."""

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from gan.errors import UsageError
from gan.methods.consistency import Consistency
from gan.methods.losses import Hinge
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import DRAGAN, GradientPenalty, ZeroCentred
from gan.methods.schedules import Cosine, Linear
from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.options import parse_train_options
from gan.recipe_files import recipe_named
from gan.recipe_settings import takes_commas, with_settings
from gan.recipes import RECIPES
from tests.gan.reference import OWN_RECIPE


@pytest.mark.parametrize(
    ("recipe", "settings", "field", "expected"),
    [
        ("mlp", "optimizer.learning_rate=1e-4", "optimizer", Adam(1e-4, betas=(0.5, 0.999))),
        ("mlp", "optimizer.betas.0=0", "optimizer", Adam(2e-4, betas=(0.0, 0.999))),
        ("mlp", "optimizer.betas=0,0", "optimizer", Adam(2e-4, betas=(0.0, 0.0))),
        ("mlp", "generator.widths=512,512", "generator", MLP((512, 512))),
        ("mlp", "generator.widths=512", "generator", MLP((512,))),
        ("mlp", "generator.batchnorm=yes", "generator", MLP((256, 512, 1024), batchnorm=True)),
        ("mlp", "generator=DCGAN", "generator", DCGAN()),
        ("mlp", "loss=Hinge", "loss", Hinge()),
        ("mlp", "optimizer=RMSprop", "optimizer", RMSprop(2e-4)),
        ("mlp", "penalty=GradientPenalty penalty.weight=2", "penalty", GradientPenalty(2.0)),
        ("wgan-gp", "penalty=ZeroCentred", "penalty", ZeroCentred(10.0)),
        ("mlp", "penalty=DRAGAN penalty.deviation=0.2", "penalty", DRAGAN(10.0, 0.2)),
        ("sngan", "penalty=Consistency penalty.on_fakes=true", "penalty", Consistency(10.0, on_fakes=True)),
        ("mlp", "mirror=true", "mirror", True),
        ("wgan-gp", "penalty=none", "penalty", None),
        ("wgan-gp", "penalty.weight=3", "penalty", GradientPenalty(3.0)),
        ("mlp", "augmentation=color,cutout", "augmentation", ("color", "cutout")),
        ("mlp", "sampling=with-replacement", "sampling", "with-replacement"),
        ("mlp", "summary=x=y", "summary", "x=y"),
        ("mlp", "ema_half_life=500", "ema_half_life", 500.0),
        ("mlp", "ema_half_life=Linear ema_half_life.begin=0 ema_half_life.end=9 ema_half_life.images=100",
         "ema_half_life", Linear(0.0, 9.0, 100)),
        ("r3gan", "ema_half_life.end=7", "ema_half_life", Cosine(0, 7.0, 2_000_000)),
        ("r3gan", "optimizer.betas.1.end=0.5 optimizer.learning_rate=1", "optimizer",
         Adam(1.0, (0.0, Cosine(0.9, 0.5, 2_000_000)))),
        ("mlp", "discriminator_optimizer.learning_rate=4e-4", "discriminator_optimizer",
         Adam(4e-4, betas=(0.5, 0.999))),
        ("wgan", "discriminator_steps=2", "discriminator_steps", 2),
    ],
)  # fmt: skip
def test_values_have_the_type_of_their_field(recipe: str, settings: str, field: str, expected: Any) -> None:
    row = with_settings(RECIPES[recipe], settings.split(" "))
    assert getattr(row, field) == expected
    assert type(getattr(row, field)) is type(expected) or isinstance(expected, str)
    changed = {item.name for item in fields(row) if getattr(row, item.name) != getattr(RECIPES[recipe], item.name)}
    assert changed == {text.partition("=")[0].partition(".")[0] for text in settings.split(" ")}


def test_the_discriminators_optimizer_starts_from_the_generators_schedule_without_sharing_it() -> None:
    row = with_settings(RECIPES["r3gan"], ["discriminator_optimizer.learning_rate.begin=1"])
    assert row.discriminator_optimizer is not None
    assert row.discriminator_optimizer.learning_rate == Cosine(1.0, 5e-5, 2_000_000)
    assert row.optimizer == RECIPES["r3gan"].optimizer


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("mlp", "x", "--set x: must be KEY=VALUE, as in optimizer.learning_rate=1e-4"),
        ("mlp", "=3", "--set =3: must be KEY=VALUE"),
        ("mlp", "optimzer.eps=1", "a recipe has no optimzer; did you mean optimizer?"),
        ("mlp", "optimizer.learning_rat=1", "optimizer (Adam) has no learning_rat; did you mean learning_rate?"),
        ("mlp", "batch_size.x=1", "batch_size is 64, which has no x"),
        ("mlp", "batch_size=1.5", "--set batch_size=1.5: must be a whole number"),
        ("mlp", "batch_size=0", "batch_size 0: must be a whole number of at least 1"),
        ("mlp", "latent_dim=-3", "latent_dim -3: must be"),
        ("mlp", "optimizer.eps=nan", "must be a number"),
        ("mlp", "optimizer.eps=1e999", "must be a number"),
        ("mlp", "optimizer.betas=0.5", "must be 2 values with commas"),
        ("mlp", "optimizer.betas=0.5,x", "values with commas, each of which must be a number"),
        ("mlp", "generator.batchnorm=2", "must be true or false"),
        ("mlp", "generator.widths=0", "generator: 'widths' (0,) of MLP is out of range"),
        ("mlp", "loss=Hing", "did you mean Hinge?"),
        ("mlp", "sampling=shufle", "did you mean shuffle?"),
        ("mlp", "dataset=mnst", "did you mean mnist?"),
        ("mlp", "penalty.weight=2", "penalty is None; choose its class before: --set penalty=GradientPenalty or"),
        ("mlp", "penalty=GradientPenalty", "GradientPenalty needs weight; add --set penalty.weight=VALUE"),
        ("wgan", "optimizer=Adam", "Adam needs betas; add --set optimizer.betas=VALUE"),
        ("mlp", "optimizer.learning_rate.end=1", "choose its class before: --set optimizer.learning_rate=Cos"),
        ("mlp", "discriminator_steps=5", "with shuffle the last one is smaller"),
        ("wgan", "generator_first=yes", "cannot share the images of one update of G"),
        ("mlp", "shared_fakes=yes", "with generator_first D already learns on G's images"),
        ("dcgan", "shared_fakes=2", "must be true or false"),
        ("mlp", "augmentation=colour", "must be one of color, translation, cutout"),
        ("mlp", "epochs=1 epochs=2", "--set epochs=2: epochs is set twice; give one value"),
        ("r3gan", "penalty.weight.images=0", "penalty.weight.images 0: must be a whole number of at least 1"),
        ("r3gan", "ema_half_life.images=0", "ema_half_life.images 0: must be a whole number of at least 1"),
        ("r3gan", "optimizer.betas.1.images=-5", "optimizer.betas.1.images -5: must be a whole number"),
        ("mlp", "ema_half_life=-1", "must be a number of at least 0"),
        ("wgan", "optimizer.alpha=1", "optimizer.alpha 1.0: must be a number of at least 0 and below 1"),
        ("stylegan2", "generator.mixing=1.5", "mixing 1.5: must be from 0 to 1"),
        ("stylegan2", "discriminator.mapping_rate=0", "mapping_rate 0.0: must be above 0"),
        ("sagan", "generator.attention_level=0", "attention_level 0: must be at least 1, or none"),
        ("biggan", "discriminator.attention_level=-2", "attention_level -2: must be at least 1, or none"),
        ("infogan", "generator.sizes=5,5", "generator: has codes of sizes (5, 5) and num_continuous 2, and the"),
        ("infogan", "discriminator.num_continuous=1", "auxiliary loss learns others, (10,) and 2; set both alike"),
        ("infogan", "auxiliary.sizes=4,4", "generator: has codes of sizes (10,) and"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(recipe: str, settings: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings(RECIPES[recipe], settings.split(" "))
    assert message in str(caught.value)
    assert str(caught.value).startswith("--set ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("generator=StyleGAN2 generator_top_k=0.5", "--set generator=StyleGAN2"),
        ("epochs=3 ema_half_life=-1 latent_dim=9", "--set ema_half_life=-1"),
        ("epochs=3 adaptive=Adaptive", "--set epochs=3 --set adaptive=Adaptive"),
        (
            "penalty=GradientPenalty penalty.every=2 epochs=3",
            "--set penalty=GradientPenalty --set penalty.every=2",
        ),
    ],
)
def test_what_is_refused_is_told_with_its_own_settings(settings: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings(RECIPES["mlp"], settings.split(" "))
    assert str(caught.value).startswith(f"{named}: ")


def test_every_number_of_every_row_can_be_set_to_itself() -> None:
    """So that no field of a row is out of reach."""
    for name, row in RECIPES.items():
        for key, value in _leaves(row):
            assert with_settings(row, [f"{key}={value}"]) == row, f"{name} {key}"


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for field in fields(value):
        item = getattr(value, field.name)
        key = f"{path}{field.name}"
        if is_dataclass(item):
            leaves += _leaves(item, f"{key}.")
        elif isinstance(item, tuple) and not any(map(is_dataclass, item)):
            leaves.append((key, ",".join(map(str, item))))
        elif isinstance(item, int | float | str | bool) and field.init:
            leaves.append((key, item))
    return leaves


def test_a_recipe_of_a_file_takes_settings_too() -> None:
    row: Any = with_settings(recipe_named(OWN_RECIPE), ["generator.width=20", "generator.slopes=0.1,0.3"])
    assert (row.generator.width, row.generator.slopes) == (20, (0.1, 0.3))
    assert with_settings(recipe_named(OWN_RECIPE), ["penalty=Drift"]).penalty == recipe_named(OWN_RECIPE).penalty


def test_which_fields_have_commas() -> None:
    row = RECIPES["mlp"]
    assert [takes_commas(row, key) for key in ("generator.widths", "optimizer.betas", "augmentation")] == [
        True
    ] * 3
    assert not takes_commas(row, "optimizer.learning_rate")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--set batch_size=3 --batch-size 4", "--set batch_size=3 with --batch-size: give one of them"),
        ("--set augmentation=color --augment cutout", "--set augmentation=color with --augment: give one of them"),
        ("--set ema_half_life=3 --ema-half-life 4", "with --ema-half-life: give one of them"),
        ("--set loss=Hing", "did you mean Hinge?"),
        ("--set", "--set"),
    ],
)
def test_options_that_contradict_one_another_are_refused(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_train_options(line.split())
    assert message in str(caught.value)


def test_the_options_record_the_settings_and_the_row_has_them() -> None:
    options = parse_train_options(
        ["--recipe", "mlp", "--set", "optimizer.learning_rate=1e-3", "--set", "epochs=2"]
    )
    assert options.to_json()["set"] == ("optimizer.learning_rate=1e-3", "epochs=2")
    assert (options.row.optimizer.learning_rate, options.row.epochs) == (1e-3, 2)
