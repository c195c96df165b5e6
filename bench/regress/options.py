"""What `python -m bench regress` can be asked."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from bench.regress.pair import QUADS
from bench.suite.cases import AXES, Case, Machine, impossible, parse_axis
from gan.errors import UsageError, require_known
from gan.models.architectures import MLP
from gan.options import optional
from gan.recipes import RECIPES

CONVOLUTION_BATCH = 8
DEFAULT_CASES = (
    "quickstart",
    "mlp",
    "dcgan",
    "quickstart,compile=inductor",
    "quickstart,workload=epoch",
)
WORKLOADS = ("step", "epoch")
CANARY = 0.05
MOST_INJECTED = 0.5
MOST_PAIRS, MOST_QUADS, MOST_PRODUCTS = 2_000, 10_000, 10**9
"""What regress_schema.json takes, and what a machine can do."""


@dataclass(frozen=True)
class RegressOptions:
    """Is HEAD slower than BASE? Fresh processes of both take turns, until the answer is clear.

    Exit code 0: pass, or faster. 1: a regression, or faster and wrong. 2: refused, or invalid. 3: inconclusive.
    """

    base: str = "main"
    """The revision to compare with: branch, tag or commit."""
    head: Path = Path()
    """The working tree to judge, as its files are now."""
    case: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A recipe and axes, as in mlp,compile=inductor,batch_size=32 or mlp,workload=epoch; repeat for more."""
    tolerance: str = "5%"
    """A pass excludes a slowdown as large as this. Slower is what is slower by more than 1 %, surely."""
    budget: str = "10m"
    """Stop after so long, whatever is known then: s, m or h."""
    dropped: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Recipes that HEAD has no more, and is not to have."""
    semantics: bool = True
    """Also check that HEAD's step is still the algorithm's (tier T1 of docs/stability.md)."""
    output: Annotated[Path | None, optional(Path, "PATH", "a new one in results/regress/")] = None
    """File for every window."""
    markdown: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write the summary as Markdown."""
    wide: bool = False
    """Leave no column out of a narrow terminal."""
    self_test: bool = False
    """Canaries instead: HEAD against itself, and against itself with 5 % more work in each step."""
    replay: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Judge this file again instead of measuring."""
    pairs: Annotated[int | None, optional(int, "INT", "as many as the verdict takes")] = None
    """Measure so many launch pairs, whatever the verdict; for pools (python -m bench pool)."""
    quads: int = QUADS
    """Most quads of windows a case and pair."""
    inject: Annotated[str | None, optional(str, "TEXT", "0%")] = None
    """Do so much more work in each of HEAD's steps, or with a minus sign so much less than in BASE's; 0% measures
    even where both sides are the same."""
    products: Annotated[int | None, optional(int, "INT", "measured")] = None
    """How many products of small matrices --inject is, as an earlier check's file says."""
    seed: Annotated[int | None, optional(int, "INT", "drawn")] = None
    """Of the orders."""

    @property
    def cases(self) -> dict[str, Case]:
        """The cases asked for, by name."""
        device = Machine.here().devices[-1]
        cases = [parse_case(text, device) for text in self.case or DEFAULT_CASES]
        return {name_of(case): case for case in cases}


def parse_fraction(flag: str, text: str) -> float:
    """Return 0.05 of `5%` or `0.05`; raise UsageError."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(%?)", text)
    if not found:
        raise UsageError(f"{flag} {text}: must be a percentage, as in 5%")
    return float(found[1]) / (100 if found[2] else 1)


def parse_seconds(flag: str, text: str) -> float:
    """Return 600.0 of `10m`; raise UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise UsageError(f"{flag} {text}: must be a time, as in 90s, 10m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def parse_case(text: str, device: str) -> Case:
    """Return the case of `recipe,axis=value,…`. Whether there is such a recipe, the trees know.

    Raises:
        UsageError: No such axis or value, or it cannot be compared.
    """
    recipe, *settings = text.split(",")
    given: dict[str, Any] = {"recipe": recipe, "device": device}
    known = [name for name in ("workload", *AXES) if name != "recipe"]
    for setting in settings:
        name, _, value = setting.partition("=")
        require_known(f"--case {text}: axis", name, known)
        if name == "workload":
            require_known(f"--case {text}: workload", value, WORKLOADS)
        given[name] = value if name == "workload" else parse_axis(name, [value])[0]
    if "batch_size" not in given and recipe in RECIPES:
        own = RECIPES[recipe].batch_size
        small = given["device"] == "cpu" and not isinstance(RECIPES[recipe].discriminator, MLP)
        given["batch_size"] = min(CONVOLUTION_BATCH, own) if small else own
    case = Case(**given)
    if recipe in RECIPES and (reason := impossible(case, Machine.here())):
        raise UsageError(f"--case {text}: {reason}")
    return case


def name_of(case: Case) -> str:
    """Return what tables and records call a case."""
    return case.id if case.workload == "step" else f"{case.workload} {case.id}"


@dataclass(frozen=True)
class Settings:
    """What some options say.

    Attributes:
        tolerance: A slowdown that a pass excludes, as a fraction.
        budget_seconds: For all of it.
        dose: Of extra work in HEAD's steps, as a fraction; below 0 in BASE's.
        cases: By name, all of one device.
    """

    tolerance: float
    budget_seconds: float
    dose: float
    cases: dict[str, Case]


def settings_of(options: RegressOptions) -> Settings:
    """Read the options that need no tree; raise UsageError."""
    tolerance = parse_fraction("--tolerance", options.tolerance)
    if not 0.01 < tolerance < 1:
        raise UsageError(f"--tolerance {options.tolerance}: must be more than 1% and less than 100%")
    for flag, value, most in (
        ("--pairs", options.pairs, MOST_PAIRS),
        ("--quads", options.quads, MOST_QUADS),
        ("--products", options.products, MOST_PRODUCTS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{flag} {value}: must be from 1 to {most:,}")
    dose = parse_fraction("--inject", options.inject or "0%")
    if abs(dose) > MOST_INJECTED:
        raise UsageError(f"--inject {options.inject}: must be from -{MOST_INJECTED:.0%} to {MOST_INJECTED:.0%}")
    cases = options.cases
    if len({case.device for case in cases.values()}) > 1:
        raise UsageError("--case: one device a check; give cpu and cuda in two checks")
    return Settings(tolerance, parse_seconds("--budget", options.budget), dose, cases)
