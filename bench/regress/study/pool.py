"""`python -m bench pool`: how often is the check wrong? Checks drawn from real launch pairs, and simulated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from scipy import stats

from bench.regress.record import (
    MEMORY,
    STARTUP,
    STARTUP_TIMES,
    STEP,
    Figure,
    figures,
    machine_of,
    read_record,
    require_schema,
)
from bench.regress.verdict import MARGIN, REGRESSION, Look, Values, decide, judge_memory, looks, overall, p_greater
from gan.display.tables import Printer, Table
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.json_files import read_json, write_json
from gan.options import optional

SCHEMA = "gan-regress-pool/1"
FIGURES = 2
"""That the bound is shared by: the time of one case, and the start-up."""
WORDS = ("REGRESSION", "INCONCLUSIVE", "PASS", "FASTER")
BINS = 8
DOSES = (0.02, 0.03, 0.05)


@dataclass(frozen=True)
class PoolOptions:
    """Draw checks from launch pairs that `regress --pairs N` measured, by the rule that regress decides with."""

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="")] = ()
    """Of `python -m bench regress --pairs N --output FILE`, with one case each, or of --summary. Those of one dose
    make one pool; without files, only noise is simulated."""
    summary: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write every d of the pools, which is small enough to be kept."""
    checks: int = 100_000
    """How many to draw."""
    tolerance: float = 0.05
    """Of the checks."""
    block: int = 1
    """Pairs are drawn in runs of so many neighbours, to keep their correlation."""
    seed: int = 0
    """Of the drawing."""


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
    """Return what draws from measured pairs with replacement, in runs of `block` neighbours."""
    num_pairs = len(next(iter(pool.values())))

    def draw(rng: np.random.Generator, size: int) -> list[Figure]:
        starts = rng.integers(0, num_pairs, -(-size // block))
        drawn = (starts[:, None] + np.arange(block)).ravel()[:size] % num_pairs
        return [
            Figure("", what, values[drawn].tolist(), STARTUP_TIMES if what == STARTUP else 1.0)
            for what, values in pool.items()
        ]

    return draw


def simulated(noise: Noise, centers: Sequence[float], scale: float = SCALE) -> Draw:
    """Return what draws a figure of simulated noise for each center."""
    return lambda rng, size: [Figure("", STEP, (center + scale * noise(rng, size)).tolist()) for center in centers]


def outcome(drawn: Sequence[Figure], plan: Sequence[Look], tolerance: float) -> tuple[str, int]:
    """Return what a check of these figures comes to, and after how many pairs it ends."""
    decisions = [
        decide(figure.values, plan, tolerance * figure.times) for figure in drawn if figure.what != MEMORY
    ]
    pairs = max(decision.pairs for decision in decisions)
    memory = [judge_memory(figure.values[:pairs], tolerance).word for figure in drawn if figure.what == MEMORY]
    return overall([str(decision.word) for decision in decisions] + memory), pairs


def drawn_checks(draw: Draw, options: PoolOptions) -> tuple[dict[str, float], float]:
    """Return how often each word comes out of checks that are drawn, and the median number of pairs they take."""
    rng, plan = np.random.default_rng(options.seed), looks(FIGURES)
    size = 2 * plan[-1].pairs
    found = [outcome(draw(rng, size), plan, options.tolerance) for _ in range(options.checks)]
    words = [word for word, _ in found]
    shares = {word: words.count(word) / options.checks for word in WORDS}
    return shares, float(np.median([pairs for _, pairs in found]))


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
    return np.array([p_greater(draw(rng, pairs)[0].values) for _ in range(checks)])


def pool(options: PoolOptions) -> None:
    """Print what the pools look like and what checks drawn from them come to; raise UsageError."""
    for flag, value in (("--checks", options.checks), ("--block", options.block)):
        if value < 1:
            raise UsageError(f"{flag} {value}: must be at least 1")
    if not 0.01 < options.tolerance < 1:
        raise UsageError(f"--tolerance {options.tolerance}: must be more than 0.01 and less than 1")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed}: must be at least 0")
    printer = Printer()
    machines: set[str] = set()
    require_other_files({"--summary": options.summary}, options.files)
    pools = _pools(options.files, machines)
    if len(machines) > 1:
        raise UsageError(f"the files are of {len(machines)} machines or versions: {' | '.join(sorted(machines))}")
    if options.summary:
        rounded = {
            name: {what: [round(value, 6) for value in values.tolist()] for what, values in pool.items()}
            for name, pool in pools.items()
        }
        write_json(options.summary, {"schema": SCHEMA, "machine": "".join(machines), "pools": rounded})
    for look in looks(FIGURES):
        said = f"look after {look.pairs} pairs: level {look.level:.4f}, confirmed on as many; "
        printer.line(f"{said}a pass at {look.pass_level:.4f}")
    if pools:
        printer.table(_describe(pools))
    draws = {name: drawn_from(pool, options.block) for name, pool in pools.items()}
    for name, noise in NULLS.items():
        draws[f"simulated, {name}, no change"] = simulated(noise, [0.0] * FIGURES)
        draws[f"simulated, {name}, all at the margin"] = simulated(noise, [MARGIN] * FIGURES)
    for dose in DOSES:
        draws[f"simulated, normal, one at {dose:+.0%}"] = simulated(NULLS["normal"], [math.log1p(dose), 0.0])
    rows = []
    for name, draw in draws.items():
        found, pairs = drawn_checks(draw, options)
        bound = highest_rate(found[REGRESSION], options.checks)
        rows.append([name, *(f"{found[word]:.3%}" for word in WORDS), f"{bound:.3%}", f"{pairs:g}"])
    columns = ("checks of", *WORDS, "REGRESSION at most (95 %)", "median pairs")
    printer.table(Table("verdicts", columns, 1, rows))
    for name, pool in pools.items():
        found_p = p_values(drawn_from(pool, options.block), min(options.checks, 20_000), 12, options.seed)
        counts = np.histogram(found_p, bins=BINS, range=(0, 1))[0] / len(found_p)
        shown = " ".join(f"{share:.1%}" for share in counts)
        printer.line(f"{name}: p against no change, 12 pairs, in {BINS} equal bins: {shown}")


def _pools(paths: Sequence[Path], machines: set[str]) -> dict[str, Pool]:
    """Return the log ratios of each dose, in the order of files; note the machines."""
    pools: dict[str, list[dict[str, Sequence[float]]]] = {}
    for path in paths:
        data = read_json(path, nonfinite=True)
        if isinstance(data, dict) and data.get("schema") == SCHEMA:
            require_schema(path, data, "pool")
            machines.add(data["machine"])
            for name, pool in data["pools"].items():
                pools.setdefault(name, []).append(pool)
            continue
        record = read_record(path)
        machines.add(machine_of(record))
        if len(record["cases"]) != 1:
            raise UsageError(f"{path}: has {len(record['cases'])} cases; a pool has one")
        name = f"{next(iter(record['cases']))}, {record['options']['inject']:+.0%}"
        pools.setdefault(name, []).append({figure.what: figure.values for figure in figures(record)})
    for name, parts in pools.items():
        if any(part.keys() != parts[0].keys() for part in parts):
            raise UsageError(f"{name}: the files have not the same figures of it")
        if any(len(values) != len(next(iter(part.values()))) for part in parts for values in part.values()):
            raise UsageError(f"{name}: a file has not as many launch pairs of each figure")
        if sum(len(next(iter(part.values()))) for part in parts) < 2:
            raise UsageError(f"{name}: a pool needs at least 2 launch pairs")
    return {
        name: {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}
        for name, parts in pools.items()
    }


def _describe(pools: dict[str, Pool]) -> Table:
    rows = []
    for name, what, values in (
        (name, what, pool[what]) for name, pool in pools.items() for what in pool if what != MEMORY
    ):
        robust = stats.median_abs_deviation(values, scale="normal")
        rows.append(
            [
                name,
                what,
                str(len(values)),
                *(f"{100 * number:+.2f} %" for number in (np.mean(values), np.median(values))),
                *(f"{100 * number:.2f} %" for number in (np.std(values, ddof=1), robust)),
                f"{autocorrelation(values):+.2f} ± {1.96 / math.sqrt(len(values)):.2f}",
                f"{stats.kurtosis(values):+.1f}",
                f"{100 * values.min():+.1f} to {100 * values.max():+.1f} %",
            ]
        )
    columns = ("pool", "figure", "pairs", "mean", "median", "SD", "SD by MAD", "neighbours", "kurtosis", "range")
    return Table("d of launch pairs", columns, 2, rows)
