"""Axis: what a field of Case means, and how values of fields are read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bench.subjects.load import require_named
from bench.subjects.subject import SubjectError
from gan.recipe_files import recipe_named


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Axis:
    """What a field of Case means to everything that handles cases.

    Attributes:
        help: For `pytest bench --help`.
        column: Heading in reports.
        known: The values that are allowed; empty if `parse` decides.
        parse: Makes a value of the command line's text, or raises ValueError.
        label: Makes what tables show of a value.
        short: Makes a value's part of a case's id, by default `label`. "" leaves it out.
        launch: Makes flags of `accelerate launch`.
        train: Makes fields of TrainOptions.
    """

    help: str
    column: str
    known: tuple[str, ...] = ()
    parse: Callable[[str], Any] = str
    label: Callable[[Any], str] = str
    short: Callable[[Any], str] | None = None
    launch: Callable[[Any], dict[str, Any]] = _nothing
    train: Callable[[Any], dict[str, Any]] = _nothing


def axis_field(default: Any, axis: Axis) -> Any:
    """Return a field of Case that is an axis."""
    return field(default=default, metadata={"axis": axis})


def execution_axis(name: str, default: Any, axis: Axis) -> Any:
    """Return the axis of an option that says how a step runs. Ids and records leave out its default."""
    show = axis.short or axis.label
    return axis_field(
        default,
        replace(
            axis,
            short=lambda value: "" if value == default else show(value),
            train=lambda value: {} if value == default else {name: value},
        ),
    )


def yes_or_no(summary: str, column: str, short: str, *, default: str = "no", yes: str = "yes") -> Axis:
    """Return an axis with two values, of which `default` is named first.

    Args:
        summary: The axis' `help`, without the values.
        column: Heading in reports.
        short: The part of a case's id, where the value is not the default.
        default: "yes" or "no".
        yes: What tables show of yes.
    """
    known = ("no", "yes") if default == "no" else ("yes", "no")
    return Axis(
        f"{', '.join(known)}: {summary}",
        column,
        known,
        parse=lambda text: text == "yes",
        label=lambda value: yes if value else "no",
        short=lambda _: short,
    )


def parse_recipe(text: str) -> str:
    """Return a recipe as it was named; raise UsageError if there is none."""
    recipe_named(text)
    return text


def parse_positive(text: str) -> int:
    """Return a whole number of at least 1, or raise ValueError."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


def parse_image_shape(text: str) -> str:
    """Return channels, height and width in the form 3x64x64, or raise ValueError."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError("must be channels, height and width, as 3x64x64")
    return "x".join(str(int(size)) for size in sizes)


def sizes_of(text: str) -> tuple[int, int, int]:
    """Return channels, height and width of an image shape."""
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


def parse_subject(text: str) -> str:
    """Return a subject as it was named, or raise ValueError."""
    try:
        require_named(text)
    except SubjectError as error:
        raise ValueError(str(error).removeprefix(f"{text}: ")) from None
    return text
