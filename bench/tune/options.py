"""The options of `python -m bench tune`, and how their texts are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bench.race.axis_options import AxisTexts, axis_option, one_value_option, possible_case, with_axes
from bench.regress.options import parse_seconds
from bench.subjects.load import CORE
from bench.suite.cases import SETTING_AXES, Case, parse_axis
from bench.suite.machine import Machine
from bench.tune.settings import FIXED_AXES, Values, texts_tried, values_tried
from gan.command_line import optional
from gan.errors import UsageError


@dataclass(frozen=True)
class TuneOptions(AxisTexts):
    """Which setting trains a recipe fastest on this machine? Settings race; the best one races the default.

    A setting changes how a step runs: precision, compiler, memory format and the like, and not what is trained. It
    has to pass tiers T1 and T2 here. Exit code 0: measured. 1: the default setting failed. 2: bad input.
    """

    budget: str = "10m"
    """For all of it: s, m or h. About half is for the final race."""
    stall_timeout: str = "10m"
    """The most that a setting may take to start: s, m or h."""
    output: Annotated[Path | None, optional(Path, "PATH", "a new one in results/tune/")] = None
    """File for every measurement."""
    markdown: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write the summary as Markdown."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""
    replay: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Show this file again instead of measuring."""


def _axis_option(name: str) -> tuple[str, Any, Any]:
    if name in SETTING_AXES:
        tried = ", ".join(texts_tried(name)) or "its default"
        return axis_option(name, "VALUES", f"tried by default: {tried}")
    return one_value_option(name)


TUNE_OPTIONS = with_axes("TuneCommand", TuneOptions, map(_axis_option, (*FIXED_AXES, *SETTING_AXES)))
"""TuneOptions with an option for each axis: one value of what is trained, and the values that are tried."""


@dataclass(frozen=True)
class TuneSettings:
    """How a recipe is tuned.

    Attributes:
        default: What is trained, in the setting that others are compared with.
        values: The values that are tried, by axis.
        machine: This one.
        batch_was_chosen: Whether the user asked for the batch size.
        budget_seconds: For all of it.
        stall_seconds: The most that a setting may take for the first step.
        seed: Of the orders; None to draw one.
    """

    default: Case
    values: Values
    machine: Machine
    batch_was_chosen: bool = False
    budget_seconds: float = 600.0
    stall_seconds: float = 600.0
    seed: int | None = None


def settings_of(options: TuneOptions) -> TuneSettings:
    """Read the options; raise UsageError."""
    machine = Machine.here()
    fixed = {name: _one_value(name, options.texts(name)) for name in FIXED_AXES if options.texts(name)}
    values = {**values_tried(), **_asked(options)}
    refused = f"tune --recipe {fixed.get('recipe', Case.recipe)}"
    return TuneSettings(
        default=possible_case({"subject": CORE, **fixed, **_first_values(values)}, machine, refused),
        values=values,
        machine=machine,
        batch_was_chosen="batch_size" in fixed,
        budget_seconds=parse_seconds("--budget", options.budget),
        stall_seconds=parse_seconds("--stall-timeout", options.stall_timeout),
    )


def _asked(options: TuneOptions) -> dict[str, Sequence[Any]]:
    return {name: parse_axis(name, texts) for name in SETTING_AXES if (texts := options.texts(name))}


def _first_values(values: Values) -> Mapping[str, Any]:
    """Return the values of the setting that others are compared with: the default, or the first one asked for."""
    return {name: tried[0] for name, tried in values.items() if tried and getattr(Case, name) not in tried}


def _one_value(name: str, texts: Sequence[str]) -> Any:
    values = parse_axis(name, texts)
    if len(values) != 1:
        flag = f"--{name.replace('_', '-')} {','.join(texts)}"
        raise UsageError(f"{flag}: {len(values)} values; give one: another one would train another GAN")
    return values[0]
