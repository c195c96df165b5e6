"""`python -m bench pairs`: measure launch pairs for a pool, whatever the verdict."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.regress.check import failed_too_often, measure_check
from bench.regress.command import require_writable
from bench.regress.judge import verdict_of
from bench.regress.options import parse_cases, parse_dose, parse_seconds
from bench.regress.progress import ending_with_signals, progress_line
from bench.regress.record import CheckOptions, write_record
from bench.regress.settings import MOST_QUADS, CheckSettings
from bench.regress.summary import show_check
from bench.regress.trees import two_trees
from gan.command_line import optional
from gan.errors import UsageError
from gan.files.text import printable

LARGEST = {"--pairs": 2_000, "--quads": 10_000, "--products": 10**9}
"""What schema.json takes, and what a machine can do."""


@dataclass(frozen=True)
class PairsOptions:
    """Measure launch pairs of BASE and HEAD, whatever their verdict, and write them for `python -m bench pool`."""

    output: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """File for every window."""
    pairs: int = 40
    """How many launch pairs to measure."""
    base: str = "HEAD"
    """The revision to compare with: branch, tag or commit."""
    head: Path = Path()
    """The working tree, as its files are now."""
    case: str = "quickstart"
    """A recipe and axes, as in mlp,compile=inductor,batch_size=32 or mlp,workload=epoch."""
    budget: str = "1h"
    """Stop after so long: s, m or h."""
    inject: str = "0%"
    """Extra work in each of HEAD's steps; a minus sign puts it into BASE's."""
    products: Annotated[int | None, optional(int, "INT", "measured")] = None
    """How many products of small matrices --inject is, as an earlier file says."""
    quads: int = MOST_QUADS
    """Largest number of quads a pair."""
    seed: Annotated[int | None, optional(int, "INT", "drawn")] = None
    """Seed of the random orders."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


def pairs(options: PairsOptions) -> None:
    """Measure launch pairs and write them, also if too many others failed; raise UsageError."""
    values = {"--pairs": options.pairs, "--quads": options.quads, "--products": options.products}
    for flag, value in values.items():
        if value is not None and not 1 <= value <= LARGEST[flag]:
            raise UsageError(f"{flag} {value}: must be from 1 to {LARGEST[flag]:,}")
    if options.seed is not None and options.seed < 0:
        raise UsageError(f"--seed {options.seed}: must be at least 0")
    dose = parse_dose(options.inject)
    if options.products is not None and not dose:
        raise UsageError(f"--products {options.products}: says how many --inject is; give --inject, too, as in 3%")
    budget_seconds = parse_seconds("--budget", options.budget)
    settings = CheckSettings(
        CheckOptions(options.base, 0.05, budget_seconds, options.pairs, dose),
        parse_cases([options.case]),
        semantics=False,
        most_quads=options.quads,
        products=options.products,
        seed=options.seed,
    )
    require_writable({"--output": options.output})
    with ending_with_signals(), progress_line() as say, two_trees(options.head, options.base) as trees:
        record = measure_check(settings, trees, say)
    write_record(options.output, record, verdict_of(record).to_json())
    show_check(record, wide=options.wide)
    print(printable(options.output))
    if failed_too_often(record):
        raise UsageError(f"{record.failed_pairs[-1]}; mend it; {options.output} has the pairs that were measured")
