"""`python -m bench reference`: stored outcomes of several seeds, made once and compared with on other machines."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bench.harness.windows import Effort
from bench.quality.checked import check_submission
from bench.regress.command import require_writable_folder
from bench.results.case_result import CaseResult
from bench.results.environment import session_environment
from bench.results.finite import if_finite
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseError
from bench.runner.limits import Limits
from bench.stability.convergence import OUTCOMES, protocol
from bench.stability.equivalence import (
    LEAST_SEEDS,
    Verdict,
    samples_of,
    verdicts,
)
from bench.stability.references import Reference, read_reference, reference_path
from bench.suite.cases import AXES, Case
from bench.suite.machine import Machine, impossible
from gan.command_line import optional, require_alone
from gan.display.tables import Printer, Table
from gan.errors import UsageError, require_known
from gan.files.json_files import write_json
from gan.files.text import printable
from gan.recipe_files import recipe_named

MOST_WRITTEN_OUT = 1e4
"""Larger numbers are shown with a power of ten."""


@dataclass(frozen=True)
class ReferenceOptions:
    """Train several seeds on digits, and compare their outcomes with a reference (tier T3).

    Exit code 0: equivalent within one standard deviation between seeds. 1: different. 2: bad input, or a run that
    failed. 3: undecided; give more --seeds.
    """

    recipe: str = "quickstart"
    """The GAN: a row of gan/recipes.py, or FILE.py or FILE.py:NAME."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: str = "fp32"
    """fp32, bf16, fp16 or tf32."""
    compile: str = "no"
    """no, inductor, or another backend of torch.compile."""
    batch_size: Annotated[int | None, optional(int, "INT", "the recipe's")] = None
    """Images per step."""
    seeds: int = 20
    """How many seeds to train."""
    submission: Annotated[Path | None, optional(Path, "FILE", "none")] = None
    """Train nothing, but check a file of time-to-quality: is it by the rules, and has it seen as many images as
    the reference points of its recipe? With --make, keep it as those."""
    make: bool = False
    """Write the reference instead of comparing with it: results/reference/RECIPE-bBATCH.json."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


def reference(options: ReferenceOptions) -> int:
    """Make a reference or compare with one; return an exit code.

    Raises:
        UsageError: Bad input, no reference, or a run that failed.
    """
    if options.submission is not None:
        require_alone(options, ("submission", "make", "wide"), "--submission trains nothing")
        return check_submission(options.submission, make=options.make, wide=options.wide)
    case = _case_of(options)
    path = reference_path(case.recipe, case.global_batch_size)
    if options.make:
        require_writable_folder(path.parent, "nothing was trained")
        write_json(path, _made(case, options.seeds).to_json())
        print(printable(path))
        return 0
    expected = read_reference(path)
    expected.require(protocol(), OUTCOMES, path)
    compared = verdicts(samples_of(_run(case, options.seeds)), expected.metrics)
    Printer(wide=options.wide, advice="--wide shows them").table(_table(case, compared))
    words = {verdict.word for verdict in compared}
    if "different" in words:
        return 1
    return 3 if "undecided" in words else 0


def _case_of(options: ReferenceOptions) -> Case:
    """Return the case that the options describe; raise UsageError if it cannot run here."""
    row = recipe_named(options.recipe, takes_settings=False)
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
        batch_size=row.batch_size if options.batch_size is None else options.batch_size,
    )
    if reason := impossible(case, Machine.here()):
        raise UsageError(f"{case.id}: {reason}")
    return case


def _made(case: Case, num_seeds: int) -> Reference:
    """Return a new reference; raise UsageError if an outcome of a seed is not finite."""
    samples = samples_of(_run(case, num_seeds))
    if lost := [name for name, sample in samples.items() if not math.isfinite(sample.sd)]:
        raise UsageError(f"{case.id}: the {', '.join(lost)} of a seed is not finite; nothing was written")
    configuration = {**case.to_json(), **protocol(), "seeds": num_seeds}
    return Reference(configuration, samples, session_environment())


def _run(case: Case, num_seeds: int) -> Sequence[Mapping[str, float]]:
    """Train the seeds in one launch; return the outcome of each, by metric."""
    outcomes: dict[Case, Outcome] = {}
    effort = Effort(launches=1, rounds=1, warmup_seconds=0.0, patience_seconds=0.0, seeds=num_seeds)
    CaseRunner(Limits(), 0.0, say=lambda line: print(printable(line), file=sys.stderr, flush=True)).run(
        {case: effort}, outcomes
    )
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise UsageError(f"{case.id}: {' '.join(str(outcome).split())}")
    return CaseResult.of(outcome).facts.seeds


def _table(case: Case, compared: Sequence[Verdict]) -> Table:
    columns = ("metric", "difference in seed SDs", "p, equivalent", "p, different", "SD ratio", "p, SD", "verdict")
    rows = []
    for verdict in compared:
        numbers = (verdict.p_equivalent, verdict.p_different, verdict.sd_ratio, verdict.p_sd)
        cells = [_short(verdict.difference, "+.2f"), *(_short(number, ".3f") for number in numbers)]
        rows.append([verdict.metric, *cells, verdict.word])
    return Table(f"{case.id} against its reference", columns, 1, rows, columns[5:1:-1])


def _short(number: float, form: str) -> str:
    """Return a number in a form, or with a power of ten if it is large: all seeds may have the same outcome."""
    return if_finite(number, lambda value: f"{value:{form if abs(value) < MOST_WRITTEN_OUT else '.1e'}}")
