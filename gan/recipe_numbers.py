"""Which numbers the settings of a recipe may be, and which of them may be schedules."""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from gan.methods.schedules import Cosine, Linear


class _Range(NamedTuple):
    words: str
    fits: Callable[[float], bool]


_NOT_NEGATIVE = _Range("a number of at least 0", lambda number: number >= 0)
_BELOW_1 = _Range("a number of at least 0 and below 1", lambda number: 0 <= number < 1)
_FRACTION = _Range("a number above 0 and at most 1", lambda number: 0 < number <= 1)
_SHARE = _Range("a number from 0 to 1", lambda number: 0 <= number <= 1)
_ANY = _Range("a number", lambda _: True)

SCHEDULED: dict[str, _Range] = {
    "augmentation_probability": _NOT_NEGATIVE,
    "ema_half_life": _NOT_NEGATIVE,
    "generator_top_k": _FRACTION,
    "optimizer.learning_rate": _NOT_NEGATIVE,
    "optimizer.betas.1": _BELOW_1,
    "discriminator_optimizer.learning_rate": _NOT_NEGATIVE,
    "discriminator_optimizer.betas.1": _BELOW_1,
    "penalty.weight": _NOT_NEGATIVE,
    "generator_penalty.weight": _NOT_NEGATIVE,  # of a lazy penalty alone: see `_takes_schedule`
}
"""Settings that follow the images seen, by the names of the fields that lead to them: numbers or schedules."""
CONSTANT: dict[str, _Range] = {
    "discriminator_clip": _NOT_NEGATIVE,
    "ema_ramp": _NOT_NEGATIVE,
    "optimizer.betas.0": _BELOW_1,
    "optimizer.eps": _NOT_NEGATIVE,
    "optimizer.alpha": _BELOW_1,
    "discriminator_optimizer.betas.0": _BELOW_1,
    "discriminator_optimizer.eps": _NOT_NEGATIVE,
    "discriminator_optimizer.alpha": _BELOW_1,
    "auxiliary.weight": _NOT_NEGATIVE,
    "generator_penalty.decay": _SHARE,
    "lecam.weight": _NOT_NEGATIVE,
    "lecam.decay": _BELOW_1,
    "latent_consistency.discriminator_weight": _NOT_NEGATIVE,
    "latent_consistency.generator_weight": _NOT_NEGATIVE,
    "latent_consistency.deviation": _NOT_NEGATIVE,
    "adaptive.target": _ANY,
    "adaptive.begin": _NOT_NEGATIVE,
}
"""Settings that are numbers. Those that are not here have the range that their part gives them, and take no
schedule either."""


def wrong_number(recipe: Any) -> str | None:
    """Return in one line which setting of a recipe is no number that it may be; None if there is none.

    >>> from dataclasses import replace
    >>> from gan.recipes import RECIPES
    >>> wrong_number(replace(RECIPES["mlp"], ema_ramp=Linear(0.1, 0.0, 1000)))
    'ema_ramp Linear(begin=0.1, end=0.0, images=1000): must be a number of at least 0; it takes no schedule'
    """
    for place, allowed in {**SCHEDULED, **CONSTANT}.items():
        for value in _values_at(recipe, place):
            if complaint := _wrong(place, value, allowed, scheduled=_takes_schedule(recipe, place)):
                return complaint
    for place, value in _leaves(recipe):
        if isinstance(value, Cosine | Linear) and not _takes_schedule(recipe, place):
            return f"{place} {value!r}: takes no schedule; give a number"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{place} {value!r}: must be a finite number"
    return None


def _takes_schedule(recipe: Any, place: str) -> bool:
    """Say whether a setting follows the images seen; the weight of a penalty of G does if the penalty is lazy."""
    return place in SCHEDULED and (place != "generator_penalty.weight" or recipe.generator_term is None)


def _values_at(part: Any, place: str) -> Iterator[Any]:
    """Yield the value to which the names of fields, or indices, lead; nothing if a part has none of that name."""
    for name in place.split("."):
        if isinstance(part, tuple | list) and name.isdigit() and int(name) < len(part):
            part = part[int(name)]
        elif hasattr(part, name):
            part = getattr(part, name)
        else:
            return
    yield part


def _leaves(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in a part of a recipe, schedules as a whole, each with the names that lead to it."""
    if isinstance(part, tuple | list):
        for index, item in enumerate(part):
            yield from _leaves(item, f"{place}.{index}")
    elif is_dataclass(part) and not isinstance(part, Cosine | Linear | type):
        for item in fields(part):
            yield from _leaves(getattr(part, item.name), f"{place}.{item.name}".lstrip("."))
    else:
        yield place, part


def _wrong(place: str, value: Any, allowed: _Range, *, scheduled: bool) -> str | None:
    numbers = [value]
    if isinstance(value, Cosine | Linear):
        if not scheduled:
            return f"{place} {value!r}: must be {allowed.words}; it takes no schedule"
        if type(value.images) is not int or value.images < 1:
            return f"{place}.images {value.images!r}: must be a whole number of at least 1"
        numbers = [value.begin, value.end]
    if all(_is_number(number) and allowed.fits(number) for number in numbers):
        return None
    return f"{place} {value!r}: must be {allowed.words}{', or a schedule of such' if scheduled else ''}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
