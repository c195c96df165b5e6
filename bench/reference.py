"""`python -m bench reference`: what a recipe comes to over seeds; made once, and checked on other machines."""

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

from bench.harness.windows import Effort
from bench.report.cells import NOT_FINITE
from bench.results.environment import session_environment
from bench.runner.case_runner import CaseRunner
from bench.runner.diagnosis import CaseError
from bench.runner.limits import Limits
from bench.stability.convergence import OUTCOMES, protocol
from bench.stability.equivalence import (
    LEAST_SEEDS,
    Reference,
    Verdict,
    read_reference,
    reference_path,
    samples_of,
    verdicts,
)
from bench.suite.cases import AXES, Case
from bench.suite.machine import Machine, impossible
from gan.display.tables import Printer, Table
from gan.errors import UsageError, require_known
from gan.files.json_files import write_json
from gan.files.text import printable
from gan.options import optional
from gan.recipes import RECIPES

MOST_WRITTEN_OUT = 1e4


@dataclass(frozen=True)
class ReferenceOptions:
    """Train several seeds on digits and compare what they come to with the recipe's reference (tier T3).

    Exit code 0: equivalent within one standard deviation between seeds. 1: different. 3: undecided; more --seeds.
    """

    recipe: str = "quickstart"
    """Which GAN."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "fp32"
    """fp32, bf16, fp16 or tf32."""
    compile: str = "no"
    """no, inductor, or another backend of torch.compile."""
    batch_size: Annotated[int | None, optional(int, "INT", "the recipe's")] = None
    """Images a step."""
    seeds: int = 20
    """How many runs."""
    make: bool = False
    """Write the reference instead: results/reference/RECIPE-bBATCH.json."""


def reference(options: ReferenceOptions) -> int:
    """Make or check a reference; return an exit code.

    Raises:
        UsageError: Bad input, no reference, or a run that failed.
    """
    require_known("--recipe", options.recipe, RECIPES)
    if options.seeds < LEAST_SEEDS:
        raise UsageError(f"--seeds {options.seeds}: must be at least {LEAST_SEEDS}")
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size {options.batch_size}: must be at least 1")
    for name in ("device", "precision", "compile"):
        require_known(f"--{name}", getattr(options, name), AXES[name].known)
    case = Case(
        workload="convergence",
        recipe=options.recipe,
        device=options.device,
        precision=options.precision,
        compile=options.compile,
        batch_size=RECIPES[options.recipe].batch_size if options.batch_size is None else options.batch_size,
    )
    if reason := impossible(case, Machine.here()):
        raise UsageError(f"{case.id}: {reason}")
    path = reference_path(case.recipe, case.global_batch_size)
    expected = None if options.make else read_reference(path)
    if expected:
        expected.require(protocol(), OUTCOMES, path)
    seeds = _run(case, options.seeds)
    if expected is None:
        samples = samples_of(seeds)
        if lost := [name for name, sample in samples.items() if not math.isfinite(sample.sd)]:
            raise UsageError(f"{case.id}: a seed comes to no finite {', '.join(lost)}; nothing was written")
        configuration = {**case.to_json(), **protocol(), "seeds": options.seeds}
        environment = {**session_environment(), "command": ["reference", *sys.argv[2:]]}
        write_json(path, Reference(configuration, samples, environment).to_json())
        print(printable(path))
        return 0
    found = verdicts(samples_of(seeds), expected.metrics)
    Printer().table(_table(case, found))
    words = {verdict.word for verdict in found}
    return 1 if "different" in words else 3 if "undecided" in words else 0


def _run(case: Case, seeds: int) -> list[dict[str, float]]:
    outcomes: dict[Case, Any] = {}
    effort = Effort(launches=1, rounds=1, warmup_seconds=0.0, patience_seconds=0.0, seeds=seeds)
    CaseRunner(Limits(), 0.0, say=lambda line: print(printable(line), file=sys.stderr, flush=True)).run(
        {case: effort}, outcomes
    )
    if isinstance(outcomes[case], CaseError):
        raise UsageError(f"{case.id}: {' '.join(str(outcomes[case]).split())}")
    found: list[dict[str, float]] = outcomes[case]["launches"][0]["ranks"][0]["facts"]["seeds"]
    return found


def _table(case: Case, found: list[Verdict]) -> Table:
    columns = ("metric", "difference in seed SDs", "p, equivalent", "p, different", "SD ratio", "p, SD", "verdict")
    rows = []
    for each in found:
        numbers = (each.p_equivalent, each.p_different, each.sd_ratio, each.p_sd)
        cells = [_short(each.difference, "+.2f"), *(_short(number, ".3f") for number in numbers)]
        rows.append([each.metric, *cells, each.word])
    return Table(f"{case.id} against its reference", columns, 1, rows, columns[5:1:-1])


def _short(number: float, form: str) -> str:
    """Return a number in a form, or with a power of ten where it is large: seeds may all come to the same."""
    return f"{number:{form if abs(number) < MOST_WRITTEN_OUT else '.1e'}}" if math.isfinite(number) else NOT_FINITE
