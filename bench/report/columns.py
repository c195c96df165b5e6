"""COLUMNS: what a table shows of a case, by the column's heading; and what the columns mean.

The rows of `bench.suite.workloads.WORKLOADS` say which workload's table has which columns.
"""

from collections.abc import Callable

from bench.report.cells import NONE, mebibytes, milliseconds, number, percent, ratio, three_digits
from bench.report.settings import TIMES_DEFAULT
from bench.results import figures
from bench.results.case_result import CaseResult
from bench.results.checks import Check
from bench.results.damage import SHOWN_OUTCOMES, STARTUP_PARTS
from bench.results.finite import if_finite
from bench.results.gpu import marks_of
from bench.results.records import QualityResult
from bench.results.warnings import failed_checks, undecided_checks
from bench.stability.equivalence import samples_of
from gan.files.text import significant

Cell = Callable[[CaseResult], str]


def _times_plain(result: CaseResult) -> str:
    return ratio(result.times_plain)


def _percentile(percentage: int) -> Cell:
    def cell(result: CaseResult) -> str:
        seconds = figures.percentile(result, percentage)
        return NONE if seconds is None else milliseconds(seconds)

    return cell


def _seconds_per_thousand(result: CaseResult) -> str:
    return three_digits(1000 / result.images_per_second())


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


def _part_of_start(name: str) -> Cell:
    return lambda result: number(figures.startup_medians(result).get(name))


def _tier(name: str) -> Cell:
    def cell(result: CaseResult) -> str:
        passed = [check.passed for check in result.checks if check.tier == name]
        return f"{sum(passed)} of {len(passed)}" if passed else NONE

    return cell


def _verdict(result: CaseResult) -> str:
    if not result.checks:
        return NONE
    if failed_checks(result):
        return "FAIL"
    return "undecided" if undecided_checks(result) else "pass"


def _gradient_error(player: str) -> Cell:
    def cell(result: CaseResult) -> str:
        checks = [check for check in result.checks if check.name == f"{player}'s gradients" and check.reference]
        return " ".join(map(_times_reference, checks)) or NONE

    return cell


def _times_reference(check: Check) -> str:
    reference = check.reference
    assert reference
    return if_finite(check.value, lambda value: f"{value:.0e} ({value / reference:,.1f}×)")


def _over_seeds(metric: str) -> Cell:
    def cell(result: CaseResult) -> str:
        sample = samples_of(result.facts.seeds)[metric]
        return if_finite(sample.mean, lambda mean: f"{significant(mean, 3)} ± {significant(sample.sd, 2)}")

    return cell


def _energy(result: CaseResult) -> str:
    joules = figures.joules_per_image(result)
    if joules is None:
        return NONE
    estimated = any(gpu.energy.is_estimated for gpu in result.gpus if gpu.energy)
    return f"{'~' if estimated else ''}{three_digits(1000 * joules)}"


def _memory(num_bytes: int | None) -> str:
    return NONE if num_bytes is None else mebibytes(num_bytes)


def _quality(result: CaseResult) -> QualityResult:
    assert result.facts.quality is not None
    return result.facts.quality


def _milliseconds(result: CaseResult) -> str:
    return milliseconds(result.median())


COLUMNS: dict[str, Cell] = {
    "ms/step": _milliseconds,
    "ms/batch": _milliseconds,
    "save ms": _milliseconds,
    "s/epoch": lambda result: number(result.median()),
    "total s": lambda result: number(result.median()),
    "seconds": lambda result: f"{result.median():.1f}",
    "IQR": lambda result: percent(figures.relative_iqr(result)),
    "p90 ms": _percentile(90),
    "p99 ms": _percentile(99),
    "images/s": lambda result: f"{result.images_per_second():,.0f}",
    "s/kimg": _seconds_per_thousand,
    "× plain": _times_plain,
    "reached": lambda result: percent(figures.reached(result)),
    "one bound": lambda result: percent(figures.roofline_fraction(result)),
    "matrix products": lambda result: percent(figures.share(result, "products")),
    "peak MiB": lambda result: mebibytes(figures.peak_bytes(result)),
    "compile s": _compile,
    "× one process": lambda result: number(figures.speedup(result)),
    "efficiency": _efficiency,
    "communication": lambda result: percent(figures.communication_share(result)),
    "slowest rank": _slowest_rank,
    "rank spread": _rank_spread,
    "load ms": lambda result: milliseconds(result.median("load")),
    "MiB": lambda result: mebibytes(result.facts.checkpoint_bytes),
    "MiB/s saved": _saved_per_second,
    "× torch.save": _times_plain,
    **{f"{name} s": _part_of_start(name) for name in STARTUP_PARTS},
    "verdict": _verdict,
    **{name: _tier(name) for name in ("T0", "T1", "T2", "T4")},
    "D's gradient error": _gradient_error("discriminator"),
    "G's gradient error": _gradient_error("generator"),
    "seeds": lambda result: str(len(result.facts.seeds)),
    **{metric: _over_seeds(metric) for metric in SHOWN_OUTCOMES},
    "target FID": lambda result: number(_quality(result).target_fid),
    "FID": lambda result: number(_quality(result).fid),
    "images": lambda result: f"{_quality(result).images:,}",
}
MARK = "GPU"
GPU_COLUMNS: dict[str, Cell] = {
    MARK: lambda result: ", ".join(mark.short for mark in marks_of(result.gpus)) or NONE,
    "mJ/image": _energy,
    "reserved MiB": lambda result: _memory(figures.reserved_bytes(result)),
    "device MiB": lambda result: _memory(figures.device_bytes(result)),
}
"""Columns of every table in windows, where a case has such a figure."""
PHASE_COLUMNS = ("phase", "ms", "of the step", "memory", "products", "GB/s", "images/s")
"""What the table of phases shows of each."""
PLAIN_RATIOS = ("× plain", "× torch.save")
"""Columns with the ratio to the plain loop, after which that to fp32 eager stands."""
KEPT_LONGEST = ("reached", "IQR", "efficiency", TIMES_DEFAULT, "images/s", "× plain")
"""Columns that a narrow terminal loses last, in this order."""

MEANINGS = {
    "ms/step": "the median (p50) time of a step over the undisturbed windows",
    "p90 ms": "the time of a step that 90 % of the undisturbed windows stay below, averaged in each window; from "
    "10 windows on",
    "p99 ms": "the same of 99 %, from 100 windows on",
    "s/kimg": "seconds per thousand images",
    "IQR": "the interquartile range of that time over these windows, as a fraction of the median",
    "× plain": "images/s over those of the plain loop, which took turns with the case window by window "
    "in the same process; ± is the 95 % interval of the noise within the session. In sampling, the plain loop is "
    "the tutorial's network",
    TIMES_DEFAULT: "images/s over those of the same training in fp32 without a compiler, in the same session: the "
    "ratio of both × plain, whose plain loops took turns with them; ± as there",
    "reached": "the floor over the time of the step; the floor is a sum: the step's products at the measured peak "
    "of products, and what its optimizers and elementwise operations read and write at that of memory",
    "one bound": "the same with the longer of two times as the floor: the step's FLOPs at the one peak, or the "
    "bytes of inputs, weights and moments at the other",
    "matrix products": "the time of the step's own matrix products, alone, over the time of the step",
    "memory": "the part of the phase's time that its reads and writes besides products take at the measured peak "
    "of memory; near 100 % memory limits it, and above that caches or a compiler save traffic",
    "products": "the part of the phase's time that its products take at the measured peak of products",
    "GB/s": "the rate of these reads and writes",
    "limited by": "compute, memory: the peak that the operator comes nearest to, and how near; launch, host: its "
    "kernels or calls are so short that to start them takes as long; neither: it is far from both",
    "compile s": "seconds in torch.compile, whose cache was empty at first",
    "× one process": "images/s over those of one process alone",
    "efficiency": "× one process, divided by the number of processes",
    "communication": "the part of the step that disappears if gradients are not reduced",
    "compute": "the part of the step in which a rank computes; all: the mean over the ranks",
    "by itself": "the step without the all-reduce of gradients; where compute is longer, sums take the cores",
    "exposed": "the part in which a rank waits for a message whose bytes are there on all ranks",
    "waiting": "the part in which a rank waits for the slowest one to have the bytes of a message",
    "ready at": "when the slowest rank had the bytes, since its step began",
    "takes": "from when all ranks had the bytes, and the message before was there, until they were summed; also "
    "beside computation",
    "rank spread": "how much longer the slowest rank takes than the fastest, each without waiting for the others",
    "× torch.save": "the speed of saving over that of torch.save, which neither verifies the file nor syncs it",
    MARK: "what makes the figures of a case doubtful; a note says what to do about it",
    "mJ/image": "the energy of the GPUs per real image while they took this step without a pause, by their own "
    "counters; ~ is power × time",
    "peak MiB": "the most memory of a process: allocated on a GPU; on a CPU resident, without pages of "
    "files, such as the code of libraries",
    "reserved MiB": "the most that PyTorch took from the GPU's driver; peak MiB is what it had allocated of that",
    "device MiB": "what all processes held of the GPU's memory, cases that waited for their turn included",
    "T0": "checks of determinism that passed",
    "T1": "checks of semantics that passed: is the step the algorithm of the plain loop, and does a run resume",
    "T2": "checks of precision that passed",
    "T4": "checks of health that passed",
    "D's gradient error": "the relative error of D's gradients against float64, and as a multiple of that of fp32",
    "G's gradient error": "the same for G",
    "loss_d": "the mean over seeds ± the standard deviation; so are the columns after it",
}
"""Columns that do not explain themselves."""
