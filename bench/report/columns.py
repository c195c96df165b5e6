"""What the table of each workload shows of a case: WORKLOAD_TABLES, and the meaning of its columns."""

import math
from collections.abc import Callable, Sequence

from bench.report.cells import NONE, NOT_FINITE, mebibytes, milliseconds, number, percent
from bench.results import figures
from bench.results.case_result import CaseResult
from bench.results.checks import Check
from bench.results.records import QualityResult
from bench.results.warnings import failed_checks, undecided_checks
from bench.stability.equivalence import samples_of

Column = tuple[str, Callable[[CaseResult], str]]

ROWS_PER_PHASE = "phases"
"""The workload whose cases take a row for each phase; `tables.py` makes them."""


def _times_plain(result: CaseResult) -> str:
    ratio = result.times_plain
    if ratio is None:
        return NONE
    half_width = (ratio.high - ratio.low) / 2
    return f"{ratio.estimate:.2f}" + (f" ± {half_width:.2f}" if math.isfinite(half_width) else "")


def _compile(result: CaseResult) -> str:
    seconds = figures.compile_seconds(result)
    return f"{seconds:.1f}" if seconds else NONE


def _efficiency(result: CaseResult) -> str:
    speedup = figures.speedup(result)
    return NONE if speedup is None else percent(speedup / result.case.num_processes)


def _slowest_rank(result: CaseResult) -> str:
    seconds = figures.rank_seconds(result)
    return NONE if seconds is None else str(seconds.index(max(seconds)))


def _rank_spread(result: CaseResult) -> str:
    seconds = figures.rank_seconds(result)
    return NONE if seconds is None else percent(max(seconds) / min(seconds) - 1)


def _saved_per_second(result: CaseResult) -> str:
    return mebibytes(result.facts.checkpoint_bytes / result.median())


def _part_of_start(name: str) -> Column:
    return f"{name} s", lambda result: number(figures.startup(result).get(name))


def _tier(name: str) -> Column:
    def cell(result: CaseResult) -> str:
        passed = [check.passed for check in result.checks if check.tier == name]
        return f"{sum(passed)} of {len(passed)}" if passed else NONE

    return name, cell


def _verdict(result: CaseResult) -> str:
    if not result.checks:
        return NONE
    if failed_checks(result):
        return "FAIL"
    return "undecided" if undecided_checks(result) else "pass"


def _gradient_error(player: str) -> Column:
    def cell(result: CaseResult) -> str:
        checks = [check for check in result.checks if check.name == f"{player}'s gradients" and check.reference]
        return " ".join(map(_times_reference, checks)) or NONE

    return f"{player[0].upper()}'s gradient error", cell


def _times_reference(check: Check) -> str:
    assert check.reference
    if not math.isfinite(check.value):
        return NOT_FINITE
    return f"{check.value:.0e} ({check.value / check.reference:,.1f}×)"


def _over_seeds(metric: str) -> Column:
    def cell(result: CaseResult) -> str:
        sample = samples_of(result.facts.seeds)[metric]
        return f"{sample.mean:.3g} ± {sample.sd:.2g}" if math.isfinite(sample.mean) else NOT_FINITE

    return metric, cell


def _quality(result: CaseResult) -> QualityResult:
    assert result.facts.quality is not None
    return result.facts.quality


TIME: Column = ("ms/step", lambda result: milliseconds(result.median()))
IQR: Column = ("IQR", lambda result: percent(result.relative_iqr))
RATE: Column = ("images/s", lambda result: f"{result.images_per_second():,.0f}")
PLAIN: Column = ("× plain", _times_plain)
MEMORY: Column = ("peak MiB", lambda result: mebibytes(figures.peak_bytes(result)))
COMPILE: Column = ("compile s", _compile)
KEPT_LONGEST = (IQR[0], RATE[0], PLAIN[0])
"""Columns that a narrow terminal loses last, in this order."""

WORKLOAD_TABLES: dict[str, tuple[str, Sequence[Column]]] = {
    "step": (
        "Training step",
        (
            TIME,
            IQR,
            RATE,
            PLAIN,
            ("floor reached", lambda result: percent(figures.roofline_fraction(result))),
            ("matrix products", lambda result: percent(figures.share(result, "products"))),
            MEMORY,
            ("first step s", lambda result: number(figures.startup(result)["first step"])),
            COMPILE,
        ),
    ),
    "scaling": (
        "Scaling",
        (
            TIME,
            IQR,
            RATE,
            ("× one process", lambda result: number(figures.speedup(result))),
            ("efficiency", _efficiency),
            ("communication", lambda result: percent(figures.communication_share(result))),
            ("slowest rank", _slowest_rank),
            ("rank spread", _rank_spread),
            PLAIN,
        ),
    ),
    ROWS_PER_PHASE: ("Phases of the step", ()),
    "epoch": (
        "Whole epoch",
        (("s/epoch", lambda result: number(result.median())), IQR, RATE, PLAIN),
    ),
    "sampling": ("Sampling", (("ms/batch", TIME[1]), IQR, RATE, PLAIN, MEMORY, COMPILE)),
    "checkpoint": (
        "Checkpoint",
        (
            ("save ms", TIME[1]),
            IQR,
            ("load ms", lambda result: milliseconds(result.median("load"))),
            ("MiB", lambda result: mebibytes(result.facts.checkpoint_bytes)),
            ("MiB/s saved", _saved_per_second),
            ("× torch.save", _times_plain),
        ),
    ),
    "startup": (
        "Start to the end of the first step",
        (
            ("total s", lambda result: number(result.median())),
            *map(_part_of_start, ("launcher", "imports", "prepare", "first step")),
            COMPILE,
        ),
    ),
    "stability": (
        "Loss stability",
        (
            ("verdict", _verdict),
            *map(_tier, ("T0", "T1", "T2", "T4")),
            *map(_gradient_error, ("discriminator", "generator")),
        ),
    ),
    "convergence": (
        "Outcomes of several seeds",
        (
            ("verdict", _verdict),
            ("seeds", lambda result: str(len(result.facts.seeds))),
            *map(_over_seeds, ("loss_d", "loss_g", "fid", "coverage", "images_to_quality")),
        ),
    ),
    "time_to_quality": (
        "Time to quality",
        (
            ("verdict", _verdict),
            ("target FID", lambda result: number(_quality(result).target_fid)),
            ("FID", lambda result: number(_quality(result).fid)),
            ("seconds", lambda result: f"{result.median():.1f}"),
            ("images", lambda result: f"{_quality(result).images:,}"),
        ),
    ),
}

MEANINGS = {
    "ms/step": "the median time of a step over all windows",
    "IQR": "the interquartile range of that time over all windows, as a fraction of the median",
    "× plain": "images/s over those of the plain tutorial loop, which took turns with the case window by window "
    "in the same process; ± is the 95 % interval of the noise within the session. In sampling, the plain loop is "
    "the tutorial's network",
    "floor reached": "the floor over the time of the step; the floor is the least time that the step's FLOPs and "
    "bytes take at the measured peaks of this machine",
    "matrix products": "the time of the step's own matrix products, alone, over the time of the step",
    "compile s": "seconds in torch.compile, whose cache was empty at first",
    "× one process": "images/s over those of one process alone",
    "efficiency": "× one process, divided by the number of processes",
    "communication": "the part of the step that disappears if gradients are not reduced",
    "rank spread": "how much longer the slowest rank takes than the fastest, each without waiting for the others",
    "× torch.save": "the speed of saving over that of torch.save, which neither verifies the file nor syncs it",
    "D's gradient error": "the relative error of D's gradients against float64, and as a multiple of that of fp32",
    "G's gradient error": "the same for G",
}
"""Columns that do not explain themselves."""
