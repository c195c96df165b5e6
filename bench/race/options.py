"""The options of `python -m bench race`, and how their texts are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bench.race.axis_options import AxisTexts, axis_option, default_of, possible_case, with_axes
from bench.race.contenders import PLAIN_AXES, Contender, in_order, racing_axes
from bench.regress.options import parse_seconds
from bench.regress.settings import MOST_QUADS
from bench.subjects.load import BUILT_IN, CORE, PLAIN, require_named
from bench.subjects.subject import SubjectError
from bench.suite.cases import parse_axis
from bench.suite.machine import Machine
from bench.suite.suites import NO_RECIPE
from gan.command_line import optional
from gan.errors import UsageError

DEFAULT_PAIRS = 8
"""Two contenders take 2 to 3 minutes for so many, and the interval is about as wide as one pair's spread."""
MOST_PAIRS = 1000
MOST_CONTENDERS = 8


@dataclass(frozen=True)
class RaceOptions(AxisTexts):
    """Which training step is faster, by how much? Fresh processes of all contenders take turns.

    A or B is core (gan/train.py's step), plain (the plain loop), FILE.py:NAME, package.module:NAME or what an
    installed package calls its subject. Exit code 0: measured. 1: a contender failed. 2: bad input.
    """

    contenders: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[A B ...]", help_behavior_hint="")
    ] = ()
    """The contenders. All are compared with the first one."""
    pairs: int = DEFAULT_PAIRS
    """Launch pairs: how often fresh processes are measured. An interval needs 6; four times as many halve it."""
    budget: str = "10m"
    """End after so long with the pairs that there are: s, m or h."""
    stall_timeout: str = "10m"
    """The most that a contender may take to start: s, m or h. Later, a minute or 20 windows of silence end it."""
    output: Annotated[Path | None, optional(Path, "PATH", "a new one in results/races/")] = None
    """File for every window."""
    markdown: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write the summary as Markdown."""
    html: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write a page with a plot that opens offline."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""
    replay: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Show this file again instead of measuring."""


def _axis_option(name: str) -> tuple[str, Any, Any]:
    return axis_option(name, "VALUES", f"default: {default_of(name)}; with commas, one for each contender")


RACE_OPTIONS = with_axes("RaceCommand", RaceOptions, map(_axis_option, racing_axes()))
"""RaceOptions with an option for each axis of Case."""


@dataclass(frozen=True)
class RaceSettings:
    """How a race is measured.

    Attributes:
        contenders: By letter: a, b, …
        num_pairs: Launch pairs.
        budget_seconds: For all of the race.
        stall_seconds: The most that a contender may take for the first step.
        most_quads: Of two contenders in a launch pair.
        seed: Of the orders; None to draw one.
    """

    contenders: Mapping[str, Contender]
    num_pairs: int = DEFAULT_PAIRS
    budget_seconds: float = 600.0
    stall_seconds: float = 600.0
    most_quads: int = MOST_QUADS
    seed: int | None = None


def settings_of(options: RaceOptions) -> RaceSettings:
    """Read the options; raise UsageError."""
    subjects = options.contenders
    if len(subjects) < 2:
        raise UsageError(
            f"race {' '.join(subjects)}: name two contenders or more, as in: race core plain; "
            "or a subject twice, with two settings"
        )
    if len(subjects) > MOST_CONTENDERS:
        raise UsageError(f"race: {len(subjects)} contenders; at most {MOST_CONTENDERS} fit beside each other")
    if not 1 <= options.pairs <= MOST_PAIRS:
        raise UsageError(f"--pairs {options.pairs}: must be from 1 to {MOST_PAIRS}")
    for subject in subjects:
        try:
            require_named(subject)
        except SubjectError as error:
            raise UsageError(str(error)) from error
    return RaceSettings(
        contenders=in_order(parse_contenders(options, subjects)),
        num_pairs=options.pairs,
        budget_seconds=parse_seconds("--budget", options.budget),
        stall_seconds=parse_seconds("--stall-timeout", options.stall_timeout),
    )


def parse_contenders(options: RaceOptions, subjects: Sequence[str]) -> list[Contender]:
    """Return the contenders without names; raise UsageError."""
    machine = Machine.here()
    columns = {name: _for_each(name, options.texts(name), subjects) for name in racing_axes()}
    contenders = []
    for index, subject in enumerate(subjects):
        values = {"subject": subject, **{name: column[index] for name, column in columns.items() if column}}
        if subject == PLAIN:
            values = _as_plain(values, columns)
        if subject not in (CORE, *BUILT_IN):
            values.setdefault("recipe", NO_RECIPE)
        contenders.append(Contender(possible_case(values, machine, f"race {subject}")))
    return contenders


def _for_each(name: str, texts: Sequence[str], subjects: Sequence[str]) -> list[Any]:
    """Return an axis's value of each contender; nothing if the option was left out."""
    values = parse_axis(name, texts)
    if len(values) == 1:
        return values * len(subjects)
    if values and len(values) != len(subjects):
        flag = f"--{name.replace('_', '-')} {','.join(texts)}"
        raise UsageError(f"{flag}: {len(values)} values for {len(subjects)} contenders; give one, or one for each")
    return values


def _as_plain(values: Mapping[str, Any], columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the plain loop's settings. What is asked of all does not reach it; what is asked of it is refused."""
    for name, value in PLAIN_AXES.items():
        if len(set(columns[name])) > 1 and values[name] != value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} {values[name]} for plain: the plain loop always has {value}")
    return {**values, **PLAIN_AXES}
