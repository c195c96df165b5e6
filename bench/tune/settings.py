"""Settings: the axes of Case that change how a step runs and not what it computes, and their neighbours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.suite.cases import AXES, HOST_AXES, SETTING_AXES, TRAINED_AXES, Case
from bench.suite.machine import Machine, impossible
from gan.models.mlp import MLP
from gan.training.execution import best_memory_format

FIXED_AXES = tuple(name for name in TRAINED_AXES if name not in ("subject", *HOST_AXES))
"""The axes that take one value, of what the core trains."""
CHANGING = ("powersgd",)
"""Values of execution axes that do change what is computed."""
COMPILERS_TRIED = ("no", "inductor")

Values = Mapping[str, Sequence[Any]]
"""The values that are tried, by axis."""


def texts_tried(name: str) -> tuple[str, ...]:
    """Return the values of a tuned axis that are tried where nothing else is asked for, as on the command line."""
    texts = COMPILERS_TRIED if name == "compile" else AXES[name].known
    return tuple(text for text in texts if text not in CHANGING)


def values_tried() -> dict[str, tuple[Any, ...]]:
    """Return the values of each tuned axis that are tried where nothing else is asked for."""
    return {name: tuple(map(AXES[name].parse, texts_tried(name))) for name in SETTING_AXES}


def identity(case: Case) -> Case:
    """Return what two settings share that run the same step: "auto" is what it becomes for the recipe."""
    if case.memory_format != "auto":
        return case
    return replace(case, memory_format=best_memory_format(case.row, case.device))


def neighbours(case: Case, values: Values, machine: Machine) -> Iterator[tuple[Case, str]]:
    """Yield the settings that differ from one in a single axis, each with why it is impossible here, or ""."""
    for name, tried in values.items():
        for value in tried:
            if value != getattr(case, name):
                other = replace(case, **{name: value})
                yield other, impossible(other, machine) or _without_effect(other, name)


def _without_effect(case: Case, changed: str) -> str:
    if changed == "memory_format" and isinstance(case.row.discriminator, MLP):
        return "its networks have no convolutions"
    return ""
