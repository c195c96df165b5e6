"""SMALL: settings with which rows of large networks train in moments, for whatever takes every row."""

from collections.abc import Iterable

from gan.errors import UsageError, require_known
from gan.recipe_settings import with_settings
from gan.recipes import RECIPES, Recipe
from gan.rows.classic import CLASSIC

# Each network reads its own part of its architecture. Some architectures have settings of both networks.
_FEW_CHANNELS = ("generator.channels=4", "discriminator.channels=4")
_FEW_CHANNELS_OF_BOTH = ("generator.generator_channels=4", "discriminator.discriminator_channels=4")
_NARROW_CLASSES = ("generator.class_width=4", "discriminator.class_width=4")
_NARROW_R3GAN = (
    *("generator.channels=4", "generator.most_channels=8", "generator.blocks=1", "generator.group_width=8"),
    *("discriminator.channels=4", "discriminator.most_channels=8", "discriminator.blocks=1"),
    "discriminator.group_width=8",
)
_NARROW_STYLE = (
    *("latent_dim=8", "generator.style_width=8", "generator.mapping_layers=2", "discriminator.mapping_layers=2"),
    *("generator.channels=4", "generator.max_channels=4", "discriminator.channels=4"),
    *("discriminator.max_channels=4", "discriminator.group_size=4"),
)

SMALL: dict[str, tuple[str, ...]] = {
    "dcgan": _FEW_CHANNELS,
    "cgan": _FEW_CHANNELS,
    "lsgan": _FEW_CHANNELS,
    "wgan": _FEW_CHANNELS,
    "wgan-gp": _FEW_CHANNELS,
    "sngan": _FEW_CHANNELS_OF_BOTH,
    "r3gan": _FEW_CHANNELS,
    "acgan": (
        *("generator.generator_channels=4", "generator.discriminator_channels=2"),
        *("discriminator.generator_channels=4", "discriminator.discriminator_channels=2"),
    ),
    "infogan": (
        *("generator.channels=4", "generator.hidden_units=16", "generator.recognition_units=8"),
        *("discriminator.channels=4", "discriminator.hidden_units=16", "discriminator.recognition_units=8"),
    ),
    "wgan-gp-cifar": _FEW_CHANNELS_OF_BOTH,
    "sngan-cifar": _FEW_CHANNELS_OF_BOTH,
    "sagan": _FEW_CHANNELS_OF_BOTH,
    "biggan": (*_FEW_CHANNELS_OF_BOTH, *_NARROW_CLASSES),
    "biggan-cifar": (*_FEW_CHANNELS_OF_BOTH, *_NARROW_CLASSES),
    "r3gan-cifar": _NARROW_R3GAN,
    "r3gan-ffhq64": _NARROW_R3GAN,
    "stylegan2": _NARROW_STYLE,
    "stylegan2-ada": (*_NARROW_STYLE, "adaptive.begin=0.5", "adaptive.images=1000"),
}
"""The texts of `--set`, by the name of the row. A row that is small already has none."""

SMALL_LABEL = "small"
"""What benchmarks add to a row's name, as in `dcgan-small`, if it has its settings of SMALL: it is another GAN.
No row is called so."""

LARGE = tuple(name for name in RECIPES if name not in CLASSIC)
"""Rows of published sizes: a step at their own batch takes a CPU minutes."""


def small(name: str) -> Recipe:
    """Return a row with its settings of SMALL."""
    return with_settings(RECIPES[name], SMALL.get(name, ()))


def require_row(flag: str, name: str, rows: Iterable[str] = RECIPES, *, takes_settings: bool = True) -> None:
    """Raise UsageError unless `name` is one of `rows`; the error says what to type for one with SMALL_LABEL.

    Args:
        flag: The option that the name is of.
        name: As it was typed.
        rows: The names that there are.
        takes_settings: Whether `--set` can stand beside the option.
    """
    row = name.removesuffix(f"-{SMALL_LABEL}")
    if name not in rows and name != row and row in SMALL:
        settings = " ".join(f"--set {setting}" for setting in SMALL[row])
        raise UsageError(
            f"{flag} {name}: no recipe, but what benchmarks call {row} with small networks; take {flag} {row}"
            + (f", and for small networks {settings}" if takes_settings else "")
        )
    require_known(flag, name, rows)
