"""Numbers as the text of a table's cells."""

import math

NONE = "–"
NOT_FINITE = "not finite"


def number(value: float | None, form: str = "{:.2f}") -> str:
    """Return a number in a form; a dash for None."""
    if value is None:
        return NONE
    return form.format(value) if math.isfinite(value) else NOT_FINITE


def percent(value: float | None) -> str:
    """Return a fraction in per cent."""
    return number(value, "{:.1%}")


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds of three digits or more."""
    value = 1000 * seconds
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"


def mebibytes(num_bytes: float) -> str:
    """Return bytes in MiB."""
    return f"{num_bytes / 2**20:,.0f}"
