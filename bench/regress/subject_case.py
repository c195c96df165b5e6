"""`--subject`: what is compared in anybody's repository, and under which settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.regress.trees import Trees
from bench.subjects.load import BUILT_IN, CORE
from bench.subjects.subject import Setup
from bench.suite.cases import Case, parse_axis
from bench.suite.machine import Machine, impossible
from bench.suite.suites import NO_RECIPE
from bench.turns import messages as m
from bench.turns.specs import spec_of
from gan.errors import UsageError, require_known

OF_CASES = ("device", "precision", "compile", "batch_size", "num_processes", "image_shape")
"""Axes of the suite that `--case` takes."""
OF_SETUPS = ("num_classes", "seed")
"""Further fields of Setup that it takes: whole numbers."""


@dataclass(frozen=True, kw_only=True)
class SubjectCase:
    """A subject and the settings under which BASE's and HEAD's steps are compared.

    Attributes:
        case: The subject and the values of OF_CASES. A file is relative to the repository's root.
        num_classes: As in Setup.
        seed: As in Setup.
    """

    case: Case
    num_classes: int = Setup.num_classes
    seed: int = Setup.seed

    workload = "step"

    @property
    def device(self) -> str:
        """The CPU, or CUDA."""
        return self.case.device

    @property
    def num_processes(self) -> int:
        """How many processes each side has."""
        return self.case.num_processes

    @property
    def id(self) -> str:
        """What tables and records call it: the subject, and every setting that is not Setup's default."""
        others = {
            f"{self.num_classes}classes": self.num_classes != Setup.num_classes,
            f"seed{self.seed}": self.seed != Setup.seed,
        }
        texts = [self.case.subject, *self.case.labels(OF_CASES), *(text for text in others if others[text])]
        return "-".join(texts)

    @property
    def spec(self) -> m.CaseSpec:
        """What a side is told."""
        spec = spec_of(self.case)
        return replace(spec, setup={**spec.setup, "num_classes": self.num_classes, "seed": self.seed})

    def to_json(self) -> dict[str, Any]:
        """Return how it is recorded."""
        axes = {name: getattr(self.case, name) for name in ("subject", *OF_CASES)}
        return {"workload": self.workload, **axes, "num_classes": self.num_classes, "seed": self.seed}


CheckedCase = Case | SubjectCase
"""What a check compares: a recipe under some settings, or a subject."""


def spec_for(case: CheckedCase) -> m.CaseSpec:
    """Return what a side is told of a case."""
    return case.spec if isinstance(case, SubjectCase) else spec_of(case)


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 2**31:
        raise UsageError(f"{flag} {text}: must be a whole number of at least 0")
    return int(text)


def subject_in(repository: Path, text: str) -> str:
    """Return a subject with its file relative to the repository's root.

    FILE.py is looked for in the working directory, if that is in the repository, and then in the root.

    Raises:
        UsageError: It is none of a repository, or there is no such file.
    """
    where, colon, name = text.rpartition(":")
    if text in (CORE, *BUILT_IN) or not colon or not where or not name.isidentifier():
        raise UsageError(
            f"--subject {text}: must be FILE.py:NAME or package.module:NAME of the repository; "
            "for the recipes of this project, leave it out and give --case"
        )
    if not where.endswith(".py"):
        return text
    root = repository.resolve()
    for folder in (Path.cwd(), root):
        path = (folder / where).resolve()
        if path.is_file() and path.is_relative_to(root):
            return f"{path.relative_to(root).as_posix()}:{name}"
    raise UsageError(f"--subject {text}: there is no file {where} in {root}")


def require_file(trees: Trees, subject: str, base: str) -> None:
    """Refuse a subject whose file is not in both trees; raise UsageError."""
    file, _, _ = subject.rpartition(":")
    if not file.endswith(".py"):
        return
    if not (trees.tree("head") / file).is_file():
        raise UsageError(f"--subject {subject}: git ignores {file}, so that no revision has it; add it to git")
    if not (trees.tree("base") / file).is_file():
        revision = trees.revisions.base[:10]
        raise UsageError(f"--base {base}: {revision} has no {file}; choose a revision that has it")


def parse_subject_cases(subject: str, texts: Sequence[str]) -> dict[str, SubjectCase]:
    """Return a subject's cases by name: one for each text of `--case`, or one with Setup's defaults.

    Raises:
        UsageError: No such setting or value, or this machine cannot measure it.
    """
    device = Machine.here().devices[-1]
    cases = [_parse_case(subject, text, device) for text in texts or [""]]
    if len({case.device for case in cases}) > 1:
        raise UsageError("--case: one device a check; give cpu and cuda in two checks")
    return {case.id: case for case in cases}


def require_once(flag: str, settings: Sequence[str]) -> None:
    """Raise UsageError if one of the settings `name=value` stands twice: the last one would count alone."""
    names = [setting.partition("=")[0] for setting in settings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{flag}: {twice[0]} twice; give each value a --case of its own")


def _parse_case(subject: str, text: str, device: str) -> SubjectCase:
    flag = f"--case {text}"
    axes: dict[str, Any] = {"subject": subject, "recipe": NO_RECIPE, "device": device}
    others: dict[str, int] = {}
    for setting in text.split(",") if text else ():
        name, _, value = setting.partition("=")
        if name == "workload" and value == "epoch":
            raise UsageError(f"{flag}: a subject has no epochs, only steps; leave it out")
        require_known(f"{flag}: setting", name, (*OF_CASES, *OF_SETUPS))
        if name in OF_SETUPS:
            others[name] = _whole(f"{flag}: {name}", value)
        else:
            axes[name] = parse_axis(name, [value], f"{flag}: {name}")[0]
    require_once(flag, text.split(","))
    case = Case(**axes)
    if reason := impossible(case, Machine.here()):
        raise UsageError(f"{flag}: {reason}")
    return SubjectCase(case=case, **others)
