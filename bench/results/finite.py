"""How a value is shown that may be not finite."""

import math
from collections.abc import Callable

NOT_FINITE = "not finite"


def if_finite(value: float | None, show: Callable[[float], str]) -> str:
    """Return what `show` makes of a value, or that it is not finite. None is not: JSON has no NaN.

    >>> if_finite(0.25, "{:.1%}".format), if_finite(float("nan"), "{:.1%}".format), if_finite(None, str)
    ('25.0%', 'not finite', 'not finite')
    """
    return NOT_FINITE if value is None or not math.isfinite(value) else show(value)
