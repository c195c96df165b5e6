"""`pytest bench --set optimizer.learning_rate=1e-4,2e-4`: the axis of recipes with other values."""

import itertools
from collections.abc import Iterable, Sequence

from gan.errors import UsageError
from gan.recipe_settings import takes_commas, with_settings
from gan.recipes import NOT_IN_JSON, RECIPES, Recipe

Settings = tuple[str, ...]
"""Texts `key=value`; empty for a row as it is."""
WITHOUT_EFFECT = ("dataset", *(name for name in NOT_IN_JSON if name != "batch_size"))


def swept_settings(texts: Sequence[str], rows: Iterable[Recipe] = ()) -> list[Settings]:
    """Return the settings of each case: every value of a key with every value of the others.

    Several values of a key have commas between them; where a value has commas itself, as a tuple has, semicolons.

    >>> rows = [RECIPES["mlp"]]
    >>> swept_settings(["optimizer.learning_rate=1e-4,2e-4"], rows)
    [('optimizer.learning_rate=1e-4',), ('optimizer.learning_rate=2e-4',)]
    >>> swept_settings(["generator.widths=512,512;256"], rows)
    [('generator.widths=512,512',), ('generator.widths=256',)]

    Args:
        texts: `key=value`, or `key=value,value` for several.
        rows: The recipes that are measured; none if that is not known yet.

    Raises:
        UsageError: None of the rows takes such a value, if there are any; a key has an axis of its own, or nothing
            measures it.
    """
    rows = list(rows)
    values: dict[str, list[str]] = {}
    for text in texts:
        key, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise UsageError(f"--set {text}: must be KEY=VALUE, as in optimizer.learning_rate=1e-4")
        if key == "batch_size":
            raise UsageError(f"--set {text}: the batch size is an axis of its own; give --batch-size {rest}")
        if key in WITHOUT_EFFECT:
            raise UsageError(f"--set {text}: changes nothing that is measured; leave it out")
        separator = ";" if _takes_commas(key, [*rows, *RECIPES.values()]) else ","
        values.setdefault(key, []).extend(f"{key}={value.strip()}" for value in rest.split(separator))
    swept = list(itertools.product(*values.values()))
    for settings in swept:
        _require_taken(settings, rows)
    return swept


def _takes_commas(key: str, rows: Iterable[Recipe]) -> bool:
    """Say whether a value of a key has commas itself, by the first row that has such a field."""
    for row in rows:
        try:
            return takes_commas(row, key)
        except UsageError:
            continue
    return False


def _require_taken(settings: Settings, rows: Sequence[Recipe]) -> None:
    """Raise UsageError, that of the first row, unless a row takes the settings."""
    complaint = None
    for row in rows:
        try:
            with_settings(row, settings)
        except UsageError as error:
            complaint = complaint or error
        else:
            return
    if complaint:
        raise complaint
