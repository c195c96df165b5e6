"""SMALL: settings with which rows of large networks train in moments, for whatever takes every row."""

from gan.recipe_settings import with_settings
from gan.recipes import RECIPES, Recipe
from gan.rows.classic import CLASSIC

_FEW_CHANNELS = ("generator.channels=4", "discriminator.channels=4")

SMALL: dict[str, tuple[str, ...]] = {
    "dcgan": _FEW_CHANNELS,
    "cgan": _FEW_CHANNELS,
    "lsgan": _FEW_CHANNELS,
    "wgan": _FEW_CHANNELS,
    "wgan-gp": _FEW_CHANNELS,
    "sngan": ("generator.generator_channels=4", "discriminator.discriminator_channels=4"),
    "r3gan": _FEW_CHANNELS,
}
"""The texts of `--set`, by the name of the row. A row that is small already has none."""

LARGE = tuple(name for name in RECIPES if name not in CLASSIC)
"""Rows of published sizes: a step at their own batch takes a CPU minutes."""


def small(name: str) -> Recipe:
    """Return a row with its settings of SMALL."""
    return with_settings(RECIPES[name], SMALL.get(name, ()))
