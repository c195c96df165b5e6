"""Options of a command line by axis of Case, for what races: how they are shown, and the case that they make."""

from collections.abc import Iterable
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any

import tyro

from bench.regress.options import default_batch_size
from bench.suite.cases import AXES, Case
from bench.suite.machine import Machine, impossible
from gan.errors import UsageError
from gan.recipe_files import recipe_named
from gan.recipe_settings import with_settings

DEFAULTS = {"device": "the GPU if there is one", "batch_size": "the recipe's; 8 if convolutional, on a CPU"}
"""Of axes whose default depends on the machine or on the recipe, in words."""


class AxisTexts:
    """What a command line says, by axis."""

    def texts(self, axis: str) -> tuple[str, ...]:
        """Return what the command line says of an axis."""
        texts: tuple[str, ...] = getattr(self, axis)
        return texts


SET_ONCE = (
    "KEY=VALUE, another value for a field of the recipe, as optimizer.learning_rate=1e-4; repeat it for more"
)


def default_of(name: str) -> str:
    """Return what is taken where the option of an axis is left out, as a command line or a help text says it."""
    value = getattr(Case, name)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return DEFAULTS.get(name, str(value or "none"))


def axis_option(name: str, metavar: str, hint: str, text: str = "") -> tuple[str, Any, Any]:
    """Return the field of an axis for `make_dataclass`.

    Args:
        name: Of the axis.
        metavar: What its value is called.
        hint: Ends the help.
        text: The help; that of the axis by default.
    """
    text = text or AXES[name].help.partition(" (default")[0]
    shown = tyro.conf.arg(metavar=metavar, help=f"{text}.", help_behavior_hint=f"({hint})")
    return name, Annotated[tuple[str, ...], shown, tyro.conf.UseAppendAction], field(default=())


def one_value_option(name: str) -> tuple[str, Any, Any]:
    """Return the field of an axis that takes one value."""
    return axis_option(name, "VALUE", f"default: {default_of(name)}", SET_ONCE if name == "set" else "")


def with_axes(name: str, options: type[AxisTexts], fields: Iterable[tuple[str, Any, Any]]) -> type:
    """Return a class of options with those of axes, too; its name is `name`, and its help that of `options`."""
    return make_dataclass(name, fields, bases=(options,), frozen=True, namespace={"__doc__": options.__doc__})


def possible_case(values: dict[str, Any], machine: Machine, refused: str) -> Case:
    """Return the case that values by axis make on this machine, with its defaults for those that are left out.

    Args:
        values: By axis.
        machine: This one.
        refused: Begins the error.

    Raises:
        UsageError: There is no such case here.
    """
    row = recipe_named(values.get("recipe") or Case.recipe)
    device = values.get("device", machine.devices[-1])
    case = Case(**{"device": device, "batch_size": default_batch_size(row, device), **values})
    if case.num_processes == 1:
        case = replace(case, scaling="weak")
    if case.recipe:
        with_settings(row, case.set)  # refuses what it does not take
    if reason := impossible(case, machine):
        raise UsageError(f"{refused}: {reason}")
    return case
