"""The options of `python -m bench regress`, and how their texts are read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bench.regress.record import CheckOptions
from bench.regress.settings import CheckSettings
from bench.regress.subject_case import CheckedCase, parse_subject_cases, require_once
from bench.suite.cases import AXES, HOST_AXES, Case, parse_axis
from bench.suite.machine import Machine, impossible
from gan.command_line import optional
from gan.errors import UsageError, require_known
from gan.models.mlp import MLP
from gan.recipe_files import file_of
from gan.recipes import RECIPES, Recipe

CONVOLUTION_BATCH = 8
"""Largest default batch of a convolutional recipe on a CPU, where a step of its batch takes most of a second."""
DEFAULT_CASES = (
    "quickstart",
    "mlp",
    "dcgan",
    "quickstart,compile=inductor",
    "quickstart,workload=epoch",
)
COMPARED_WORKLOADS = ("step", "epoch")
LARGEST_INJECTED = 0.5
"""Most extra work that schema.json takes, as a fraction."""


@dataclass(frozen=True)
class RegressOptions:
    """Is HEAD slower than BASE? Fresh processes of both take turns, until the answer is clear.

    Exit code 0: pass, faster, or nothing to compare. 1: slower, more memory, or another algorithm. 2: refused, or
    bad input. 3: inconclusive.
    """

    base: str = "main"
    """The revision to compare with: branch, tag or commit."""
    head: Path = Path()
    """The working tree to judge, as its files are now."""
    case: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A recipe and axes, as in mlp,compile=inductor,batch_size=32 or mlp,workload=epoch; repeat for more. Without
    it quickstart, mlp and dcgan, and quickstart compiled and over an epoch. With --subject only settings, as in
    batch_size=32,precision=bf16."""
    subject: Annotated[str | None, optional(str, "FILE.py:NAME", "the recipes of this project")] = None
    """Judge the training step of any repository: the function that builds it, also as package.module:NAME."""
    tolerance: str = "5%"
    """A PASS excludes a slowdown as large as this. A REGRESSION is surely slower by more than 0.5 %."""
    budget: str = "10m"
    """Stop after so long, whatever is known then: s, m or h."""
    dropped: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Recipes of BASE that HEAD lacks, as intended."""
    semantics: bool = True
    """Also check that HEAD's step computes what the plain loop does, in float64 (tier T1)."""
    new_losses: bool = False
    """With --subject: the losses differ from BASE's, as intended."""
    output: Annotated[Path | None, optional(Path, "PATH", "a new one in results/regress/")] = None
    """File for every window."""
    markdown: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write the summary as Markdown."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""
    self_test: bool = False
    """Judge two canaries instead: HEAD against itself, and against itself with 5 % more work in each step."""
    replay: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Judge this file again instead of measuring."""
    inject: Annotated[str | None, optional(str, "TEXT", "0%")] = None
    """Extra work in each of HEAD's steps; a minus sign puts it into BASE's. 0% measures even if both sides are the
    same."""


def settings_of(options: RegressOptions) -> CheckSettings:
    """Read the options that need no tree; raise UsageError."""
    tolerance = parse_tolerance(options.tolerance)
    dose = parse_dose(options.inject or "0%")
    cases: Mapping[str, CheckedCase]
    if options.subject:
        if options.dropped:
            raise UsageError(
                f"--dropped {' '.join(options.dropped)}: only for recipes; leave it out with --subject"
            )
        cases = parse_subject_cases(options.subject, options.case)
    elif options.new_losses:
        raise UsageError("--new-losses: only with --subject; --no-semantics lets a recipe's step be another one")
    else:
        cases = parse_cases(options.case or DEFAULT_CASES)
    budget_seconds = parse_seconds("--budget", options.budget)
    asked = CheckOptions(options.base, tolerance, budget_seconds, inject=dose, new_losses=options.new_losses)
    return CheckSettings(asked, cases, options.dropped, options.semantics and not options.subject)


def parse_fraction(flag: str, text: str) -> float:
    """Return the fraction that a text says; raise UsageError.

    >>> parse_fraction("--tolerance", "5%"), parse_fraction("--tolerance", "0.05")
    (0.05, 0.05)
    """
    match = re.fullmatch(r"(-?\d+(?:\.\d+)?)(%?)", text)
    if not match:
        raise UsageError(f"{flag} {text}: must be a percentage, as in 5%")
    return float(match[1]) / (100 if match[2] else 1)


def parse_tolerance(text: str) -> float:
    """Return the fraction of `--tolerance`; raise UsageError."""
    tolerance = parse_fraction("--tolerance", text)
    if not 0.01 < tolerance < 1:
        raise UsageError(f"--tolerance {text}: must be more than 1% and less than 100%")
    return tolerance


def parse_dose(text: str) -> float:
    """Return the fraction of `--inject`; raise UsageError."""
    dose = parse_fraction("--inject", text)
    if abs(dose) > LARGEST_INJECTED:
        raise UsageError(f"--inject {text}: must be from -{LARGEST_INJECTED:.0%} to {LARGEST_INJECTED:.0%}")
    return dose


def parse_seconds(flag: str, text: str) -> float:
    """Return the seconds that a text says; raise UsageError.

    >>> parse_seconds("--budget", "10m")
    600.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not match or not float(match[1]):
        raise UsageError(f"{flag} {text}: must be a time, as in 90s, 10m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def parse_cases(texts: Sequence[str]) -> dict[str, Case]:
    """Return the cases of several texts by name; raise UsageError."""
    device = Machine.here().devices[-1]
    cases = [parse_case_text(text, device) for text in texts]
    if len({case.device for case in cases}) > 1:
        raise UsageError("--case: one device a check; give cpu and cuda in two checks")
    return {name_of(case): case for case in cases}


def parse_case_text(text: str, device: str) -> Case:
    """Return the case of `recipe,axis=value,…`. Whether there is such a recipe, the trees know.

    Raises:
        UsageError: No such axis or value, or it cannot be compared.
    """
    recipe, *settings = text.split(",")
    if file_of(recipe):
        raise UsageError(
            f"--case {text}: takes rows of gan/recipes.py, because BASE may not have the file; measure the recipe "
            "of a file with pytest bench --recipe"
        )
    values: dict[str, Any] = {"recipe": recipe, "device": device}
    names = [name for name in ("workload", *AXES) if name not in ("recipe", "set", "subject", *HOST_AXES)]
    for setting in settings:
        name, _, value = setting.partition("=")
        require_known(f"--case {text}: axis", name, names)
        if name == "workload":
            require_known(f"--case {text}: workload", value, COMPARED_WORKLOADS)
            values[name] = value
        else:
            values[name] = parse_axis(name, [value], f"--case {text}: {name}")[0]
    require_once(f"--case {text}", settings)
    if recipe in RECIPES:
        values.setdefault("batch_size", default_batch_size(RECIPES[recipe], values["device"]))
    case = Case(**values)
    if recipe in RECIPES and (reason := impossible(case, Machine.here())):
        raise UsageError(f"--case {text}: {reason}")
    return case


def default_batch_size(row: Recipe, device: str) -> int:
    """Return the batch of a recipe where none is asked for."""
    if device == "cpu" and not isinstance(row.discriminator, MLP):
        return min(CONVOLUTION_BATCH, row.batch_size)
    return row.batch_size


def name_of(case: Case) -> str:
    """Return what tables and records call a case."""
    return case.id if case.workload == "step" else f"{case.workload} {case.id}"
