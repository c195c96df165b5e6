"""How a value is shown that may be not finite."""

import math
from collections.abc import Callable

NOT_FINITE = "not finite"
MOST_NUMBER = 1e24
"""The largest number of a results file: no count comes near, and the product of a few does not overflow."""


def if_finite(value: float | None, show: Callable[[float], str]) -> str:
    """Return what `show` makes of a value, or that it is not finite. None is not: JSON has no NaN.

    >>> if_finite(0.25, "{:.1%}".format), if_finite(float("nan"), "{:.1%}".format), if_finite(None, str)
    ('25.0%', 'not finite', 'not finite')
    """
    return NOT_FINITE if value is None or not math.isfinite(value) else show(value)


def number_or_none(value: float | None) -> float | None:
    """Return a number as a results file can have it; None for what is not finite, or above MOST_NUMBER.

    >>> number_or_none(0.0), number_or_none(float("nan")), number_or_none(-1e30), number_or_none(None)
    (0.0, None, None, None)
    """
    return value if value is not None and abs(value) <= MOST_NUMBER else None
