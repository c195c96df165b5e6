"""`python -m bench pool`: how often is the check wrong? Checks drawn from pools of launch pairs, and simulated."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy import stats

from bench.regress.judge import PEAK_MEMORY, STEP, Figure, figures_of
from bench.regress.options import parse_tolerance
from bench.regress.record import read_record, require_schema
from bench.regress.verdict import (
    FASTER,
    INCONCLUSIVE,
    MARGIN,
    PASS,
    REGRESSION,
    Look,
    Values,
    looks_for,
    overall,
    p_greater,
)
from gan.command_line import optional
from gan.display.tables import Printer, Table
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.json_files import read_json, write_json

POOL_SCHEMA = "gan-regress-pool/1"
NUM_FIGURES = 2
"""Figures that share the bound: the time of one case, and the start-up."""
WORDS = (REGRESSION, INCONCLUSIVE, PASS, FASTER)
BINS = 8
DOSES = (0.02, 0.03, 0.05)


@dataclass(frozen=True)
class PoolOptions:
    """Draw checks from launch pairs of `python -m bench pairs`, by the rule that regress decides with."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES ...]", help_behavior_hint="")
    ] = ()
    """Files of `python -m bench pairs`, or of --summary. Those of one case and dose make one pool; without files,
    only noise is simulated."""
    summary: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write every d of the pools, which is small enough to be kept."""
    checks: int = 100_000
    """How many checks to draw."""
    tolerance: str = "5%"
    """Tolerance of the checks."""
    block: int = 1
    """Pairs are drawn in runs of so many neighbours, to keep their correlation."""
    seed: int = 0
    """Seed of the drawing."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


Pool = dict[str, Values]
"""d of each figure's pairs, in the order in which they were measured; columns of one index are of one pair."""
Noise = Callable[[np.random.Generator, int], Values]
Draw = Callable[[np.random.Generator, int], list[Figure]]
"""Returns the figures of a check that never stops early."""


def _bursts(rng: np.random.Generator, size: int) -> Values:
    """Volatile and quiet times, each some pairs long; every sign is drawn by itself."""
    level = np.repeat(rng.choice([0.5, 3.0], size // 4 + 1), 4)[:size]
    values: Values = level * rng.normal(size=size)
    return values


def _neighbours(rng: np.random.Generator, size: int, correlation: float = 0.2) -> Values:
    """Each value resembles the one before."""
    values = rng.normal(size=size)
    for index in range(1, size):
        values[index] = correlation * values[index - 1] + math.sqrt(1 - correlation**2) * values[index]
    return values


NULLS: dict[str, Noise] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails (t, 2 degrees)": lambda rng, size: rng.standard_t(2, size),
    "bursts of noise": _bursts,
    "neighbours correlate by 0.2": _neighbours,
    "drift by 2 SD": lambda rng, size: rng.normal(size=size) + rng.choice([-1, 1]) * np.linspace(-1, 1, size),
}
"""Noise in units of its SD, or of its scale where it has none."""
SCALE = 0.0087
"""Of the simulated noise: the SD of d between launch pairs, as docs/regression.md reports it."""


def drawn_from(pool: Pool, block: int) -> Draw:
    """Return what draws checks from measured pairs with replacement, in runs of `block` neighbours."""
    num_pairs = len(next(iter(pool.values())))

    def draw(rng: np.random.Generator, size: int) -> list[Figure]:
        starts = rng.integers(0, num_pairs, -(-size // block))
        indices = (starts[:, None] + np.arange(block)).ravel()[:size] % num_pairs
        return [Figure("", what, values[indices].tolist()) for what, values in pool.items()]

    return draw


def simulated(noise: Noise, centers: Sequence[float], scale: float = SCALE) -> Draw:
    """Return what draws a figure of simulated noise for each center."""
    return lambda rng, size: [Figure("", STEP, (center + scale * noise(rng, size)).tolist()) for center in centers]


def outcome(drawn: Sequence[Figure], looks: Sequence[Look], tolerance: float) -> tuple[str, int]:
    """Return a drawn check's verdict, and after how many pairs it ends."""
    decisions = [figure.decide(looks, tolerance) for figure in drawn if figure.is_tested]
    num_pairs = max(decision.pairs for decision in decisions)
    memory = [
        replace(figure, log_ratios=figure.log_ratios[:num_pairs]).judge(looks, tolerance).word
        for figure in drawn
        if not figure.is_tested
    ]
    return overall([str(decision.word) for decision in decisions] + memory), num_pairs


def drawn_checks(draw: Draw, options: PoolOptions) -> tuple[dict[str, float], float]:
    """Return the share of each verdict among checks that are drawn, and the median number of pairs they take."""
    rng = np.random.default_rng(options.seed)
    looks = looks_for(NUM_FIGURES)
    tolerance = parse_tolerance(options.tolerance)
    size = looks[-1].pairs
    outcomes = [outcome(draw(rng, size), looks, tolerance) for _ in range(options.checks)]
    words = [word for word, _ in outcomes]
    shares = {word: words.count(word) / options.checks for word in WORDS}
    return shares, float(np.median([num_pairs for _, num_pairs in outcomes]))


def highest_rate(share: float, checks: int) -> float:
    """Return the upper end of the exact 95 % interval of a rate (Clopper & Pearson 1934)."""
    count = round(share * checks)
    return 1.0 if count == checks else float(stats.beta.ppf(0.975, count + 1, checks - count))


def autocorrelation(values: Values) -> float:
    """Return the correlation of neighbours; 0 where all values are one."""
    centered = values - values.mean()
    total = float((centered**2).sum())
    return float((centered[1:] * centered[:-1]).sum()) / total if total else 0.0


def p_values(draw: Draw, checks: int, pairs: int, seed: int) -> Values:
    """Return the p-values against no change of the first figure of checks of so many pairs."""
    rng = np.random.default_rng(seed)
    return np.array([p_greater(draw(rng, pairs)[0].log_ratios) for _ in range(checks)])


def pool(options: PoolOptions) -> None:
    """Print what the pools look like and the verdicts of checks drawn from them; raise UsageError."""
    _require_valid(options)
    pools = _read_pools(options.files)
    if options.summary:
        rounded = {
            name: {what: [round(value, 6) for value in values.tolist()] for what, values in pool.items()}
            for name, pool in pools.values.items()
        }
        write_json(options.summary, {"schema": POOL_SCHEMA, "machine": pools.machine, "pools": rounded})
    printer = Printer(wide=options.wide, advice="--wide shows them")
    for look in looks_for(NUM_FIGURES):
        alarm = f"an alarm at {look.level:.6f}" if look.level else "no alarm yet"
        printer.line(f"look after {look.pairs} pairs: {alarm}, a pass at {look.pass_level:.4f}")
    if pools.values:
        printer.table(_describe(pools.values))
    printer.table(_verdicts(pools.values, options))
    for name, values in pools.values.items():
        p = p_values(drawn_from(values, options.block), min(options.checks, 20_000), 12, options.seed)
        counts = np.histogram(p, bins=BINS, range=(0, 1))[0] / len(p)
        shown = " ".join(f"{share:.1%}" for share in counts)
        printer.line(f"{name}: p against no change, 12 pairs, in {BINS} equal bins: {shown}")


def _require_valid(options: PoolOptions) -> None:
    for flag, value in (("--checks", options.checks), ("--block", options.block)):
        if value < 1:
            raise UsageError(f"{flag} {value}: must be at least 1")
    parse_tolerance(options.tolerance)
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: must be at least 0")
    require_other_files({"--summary": options.summary}, options.files)


def _verdicts(pools: Mapping[str, Pool], options: PoolOptions) -> Table:
    """Draw checks from the pools and from simulated noise; return how they were judged."""
    draws = {name: drawn_from(pool, options.block) for name, pool in pools.items()}
    for name, noise in NULLS.items():
        draws[f"simulated, {name}, no change"] = simulated(noise, [0.0] * NUM_FIGURES)
        draws[f"simulated, {name}, all at the margin"] = simulated(noise, [MARGIN] * NUM_FIGURES)
    for dose in DOSES:
        draws[f"simulated, normal, one at {dose:+.0%}"] = simulated(NULLS["normal"], [math.log1p(dose), 0.0])
    rows = []
    for name, draw in draws.items():
        shares, num_pairs = drawn_checks(draw, options)
        bound = highest_rate(shares[REGRESSION], options.checks)
        rows.append([name, *(f"{shares[word]:.3%}" for word in WORDS), f"{bound:.3%}", f"{num_pairs:g}"])
    columns = ("checks of", *WORDS, "REGRESSION at most (95 %)", "median pairs")
    return Table("verdicts", columns, 1, rows)


@dataclass(frozen=True)
class Pools:
    """Pools that were measured on one machine.

    Attributes:
        machine: The machine and versions; empty without pools.
        values: The pools by name: case and dose.
    """

    machine: str
    values: Mapping[str, Pool]


def _read_pools(paths: Sequence[Path]) -> Pools:
    """Read files of launch pairs and summaries; raise UsageError."""
    parts: dict[str, list[Mapping[str, Sequence[float]]]] = {}
    machines = set()
    for path in paths:
        machine, pools = _read_file(path)
        machines.add(machine)
        for name, pool in pools.items():
            parts.setdefault(name, []).append(pool)
    for name, pools_of_name in parts.items():
        if complaint := _complaint_of(pools_of_name):
            raise UsageError(f"{name}: {complaint}")
    if len(machines) > 1:
        raise UsageError(f"the files are of {len(machines)} machines or versions: {' | '.join(sorted(machines))}")
    values = {
        name: {what: np.concatenate([pool[what] for pool in pools_of_name]) for what in pools_of_name[0]}
        for name, pools_of_name in parts.items()
    }
    return Pools("".join(machines), values)


def _read_file(path: Path) -> tuple[str, Mapping[str, Mapping[str, Sequence[float]]]]:
    """Return the machine of a file, and by pool and figure its log ratios; raise UsageError."""
    data = read_json(path, nonfinite=True)
    if isinstance(data, dict) and data.get("schema") == POOL_SCHEMA:
        require_schema(path, data, "pool")
        return data["machine"], data["pools"]
    record = read_record(path)
    if len(record.cases) != 1:
        raise UsageError(f"{path}: has {len(record.cases)} cases; a pool has one")
    name = f"{next(iter(record.cases))}, {100 * record.options.inject:+g}%"
    return record.machine, {name: {figure.what: figure.log_ratios for figure in figures_of(record)}}


def _complaint_of(parts: Sequence[Mapping[str, Sequence[float]]]) -> str | None:
    """Return why the files of a pool do not fit together, or None."""
    if any(part.keys() != parts[0].keys() for part in parts):
        return "the files have not the same figures of it"
    if any(len(values) != len(next(iter(part.values()))) for part in parts for values in part.values()):
        return "a file has not as many launch pairs of each figure"
    if sum(len(next(iter(part.values()))) for part in parts) < 2:
        return "a pool needs at least 2 launch pairs"
    return None


def _describe(pools: Mapping[str, Pool]) -> Table:
    rows = [
        [name, what, *_describe_values(values)]
        for name, pool in pools.items()
        for what, values in pool.items()
        if what != PEAK_MEMORY
    ]
    columns = ("pool", "figure", "pairs", "mean", "median", "SD", "SD by MAD", "neighbours", "kurtosis", "range")
    return Table("d of launch pairs", columns, 2, rows)


def _describe_values(values: Values) -> list[str]:
    spread = stats.median_abs_deviation(values, scale="normal")
    return [
        str(len(values)),
        f"{100 * np.mean(values):+.2f} %",
        f"{100 * np.median(values):+.2f} %",
        f"{100 * np.std(values, ddof=1):.2f} %",
        f"{100 * spread:.2f} %",
        f"{autocorrelation(values):+.2f} ± {1.96 / math.sqrt(len(values)):.2f}",
        f"{stats.kurtosis(values):+.1f}",
        f"{100 * values.min():+.1f} to {100 * values.max():+.1f} %",
    ]
