"""RECIPES: one row per GAN variant, data only. To add a variant, add a row to a module of `gan/rows`.

A row states every setting, except those of `Recipe` with a default that it does without. `--dry-run` prints a row
with the options of a command applied.
"""

from gan.recipe import NOT_IN_JSON, OFF, Recipe
from gan.rows.classic import CLASSIC
from gan.rows.published import PUBLISHED
from gan.rows.style import STYLE

__all__ = ["NOT_IN_JSON", "OFF", "RECIPES", "ROWS_BEFORE", "Recipe"]

RECIPES: dict[str, Recipe] = {**CLASSIC, **PUBLISHED, **STYLE}
"""In the order in which tables and tests have them."""

ROWS_BEFORE = {"shared_fakes": "false"}
"""Settings that some rows have now and none had before, and the value then, as `--set` takes it.

A run whose record lacks one goes on as it was begun.
"""
