"""Numbers as the text of a table's cells."""

import math

from bench.results.finite import if_finite
from bench.results.statistics import Interval
from gan.files.text import significant

NONE = "–"


def number(value: float | None, form: str = "{:.2f}") -> str:
    """Return a number in a form; a dash for None."""
    return NONE if value is None else if_finite(value, form.format)


def percent(value: float | None) -> str:
    """Return a fraction in per cent."""
    return number(value, "{:.1%}")


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds of three digits or more."""
    return three_digits(1000 * seconds)


def milliseconds_or_zero(seconds: float) -> str:
    """Return milliseconds; 0 for less than a microsecond, which is what a part of no time is recorded as.

    >>> milliseconds_or_zero(0.0042), milliseconds_or_zero(1e-9), milliseconds_or_zero(0)
    ('4.20', '0', '0')
    """
    return milliseconds(seconds) if seconds >= 1e-6 else "0"


def three_digits(value: float) -> str:
    """Return a positive number with three digits or more."""
    return significant(value, 3, padded=True)


def ratio(interval: Interval | None) -> str:
    """Return a ratio with half of its interval; a dash for None."""
    if interval is None:
        return NONE
    half_width = (interval.high - interval.low) / 2
    return f"{interval.estimate:.2f}" + (f" ± {half_width:.2f}" if math.isfinite(half_width) else "")


def mebibytes(num_bytes: float) -> str:
    """Return bytes in MiB."""
    return f"{num_bytes / 2**20:,.0f}"
