"""Who takes part in a race: subjects, each with a case, and how they are told apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase

from bench.suite.cases import AXES, EXECUTION_AXES, HOST_AXES, Case

PLAIN_AXES = {"precision": "fp32", "compile": "no", "num_processes": 1, "scaling": "weak", **EXECUTION_AXES}
"""What the plain loop always is."""


@dataclass(frozen=True)
class Contender:
    """A subject and its settings.

    Attributes:
        case: Both.
        name: What it is called; no other contender has the same.
    """

    case: Case
    name: str = ""

    @property
    def subject(self) -> str:
        """The subject, as on the command line."""
        return self.case.subject

    @property
    def axes(self) -> dict[str, object]:
        """The settings by axis."""
        return {name: getattr(self.case, name) for name in racing_axes()}


def racing_axes() -> list[str]:
    """Return the axes of Case that a race has as options: a contender's subject is its place in the race."""
    return [name for name in AXES if name not in ("subject", *HOST_AXES)]


def in_order(contenders: Sequence[Contender]) -> dict[str, Contender]:
    """Return contenders by letter, a, b, …, with their names: the subject, and the settings that differ.

    Of a subject's file a name has only the last part: paths would make every column and sentence as long.
    """
    differing = [name for name in racing_axes() if len({getattr(one.case, name) for one in contenders}) > 1]
    names = [" ".join([label_of_subject(one.subject), *one.case.labels(differing)]) for one in contenders]
    times = Counter(names)
    return {
        letter: replace(one, name=f"{name} ({letter.upper()})" if times[name] > 1 else name)
        for letter, one, name in zip(ascii_lowercase, contenders, names, strict=False)
    }


def label_of_subject(spec: str) -> str:
    """Return what names of contenders show of a subject.

    >>> label_of_subject("models/my_gan.py:make"), label_of_subject("package.module:make")
    ('my_gan.py:make', 'package.module:make')
    """
    where, _, name = spec.rpartition(":")
    return f"{Path(where).name}:{name}" if where.endswith(".py") else spec


def shared_settings(contenders: Mapping[str, Contender]) -> str:
    """Return the settings that all contenders share, in a few words."""
    first, *others = (one.case for one in contenders.values())
    shared = [
        name for name in racing_axes() if all(getattr(case, name) == getattr(first, name) for case in others)
    ]
    return ", ".join(first.labels(shared))
