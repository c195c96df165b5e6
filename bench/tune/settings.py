"""Settings: the axes of Case that change how a step runs and not what it computes, and their neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from bench.race.contenders import racing_axes
from bench.suite.cases import AXES, EXECUTION_AXES, Case
from bench.suite.machine import Machine, impossible
from gan.training.execution import Execution

TUNED_AXES = ("precision", "compile", *EXECUTION_AXES)
"""The axes whose values are tried. A batch size is none of them: with another one, another GAN is trained."""
FIXED_AXES = tuple(name for name in racing_axes() if name not in TUNED_AXES)
"""The axes that say what is trained."""
COMPILERS_TRIED = ("no", "inductor")

Values = Mapping[str, Sequence[Any]]
"""The values that are tried, by axis."""


def texts_tried(name: str) -> tuple[str, ...]:
    """Return the values of a tuned axis that are tried where nothing else is asked for, as on the command line."""
    return COMPILERS_TRIED if name == "compile" else AXES[name].known


def values_tried() -> dict[str, tuple[Any, ...]]:
    """Return the values of each tuned axis that are tried where nothing else is asked for."""
    return {name: tuple(map(AXES[name].parse, texts_tried(name))) for name in TUNED_AXES}


def name_of(case: Case) -> str:
    """Return what a setting is called: its values of the tuned axes, without those that are always left out.

    >>> name_of(Case(precision="bf16"))
    'bf16 eager'
    """
    return " ".join(case.labels(TUNED_AXES))


def identity(case: Case) -> tuple[Any, ...]:
    """Return what two settings share that run the same step: "auto" is what it becomes for the recipe."""
    execution = Execution(**{item.name: getattr(case, item.name) for item in fields(Execution)})
    settled = execution.settled(case.row)
    return case.precision, case.compile, settled


def neighbours(case: Case, values: Values, machine: Machine) -> Iterator[tuple[Case, str]]:
    """Yield the settings that differ from one in a single axis, each with why it is impossible here, or ""."""
    for name, tried in values.items():
        for value in tried:
            if value != getattr(case, name):
                other = replace(case, **{name: value})
                yield other, impossible(other, machine) or ""
