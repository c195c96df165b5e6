"""Why the figures of a case may be off, and what to do about it."""

import numpy as np

from bench.results.case_result import CaseResult
from bench.results.figures import overhead, relative_iqr
from bench.results.gpu import marks_of
from bench.results.phases import attribution

IQR_LIMIT = 0.15  # of the median
DRIFT_LIMIT = 0.10  # of the median of the first third
OTHERS_LIMIT = 0.25  # cores
STOLEN_LIMIT = 0.10  # cores
OVERHEAD_LIMIT = 0.005  # of the shortest window
UNCOVERED_LIMIT = 0.02  # of the windows
MARKS_LIMIT = 0.05  # of the step


def failed_checks(result: CaseResult) -> list[str]:
    """Return a line for each check over its limit: tier, name, value, limit and the most likely cause."""
    return [check.complaint() for check in result.checks if check.failed]


def undecided_checks(result: CaseResult) -> list[str]:
    """Return a line for each check about which too little is known."""
    return [check.complaint() for check in result.checks if check.undecided]


def warnings_of(result: CaseResult) -> list[str]:
    """Return a line for everything that makes the figures of a case doubtful, with what to do about it."""
    if not result.workload.in_windows:
        return failed_checks(result) + undecided_checks(result)
    marks = [mark.line for mark in marks_of(result.gpus)]
    return _unfit_training(result) + marks + _unsteady(result) + _unaccounted(result) + _other_load(result)


def _unaccounted(result: CaseResult) -> list[str]:
    divided = attribution(result)
    warnings = []
    if divided and abs(divided.covered - 1) > UNCOVERED_LIMIT:
        warnings.append(f"its phases add up to {divided.covered:.0%} of the step: report this as a bug")
    if divided and divided.disturbance.low > 1 + MARKS_LIMIT:
        extra = divided.disturbance.estimate - 1
        warnings.append(
            f"marking its phases takes {extra:.0%} of the step: trust --profile rather than the shares"
        )
    return warnings


def _unfit_training(result: CaseResult) -> list[str]:
    """Return what shows that a subject's step is not that of a training."""
    facts = [rank.facts for launch in result.launches for rank in launch]
    lost = sorted({name for of_rank in facts for name, loss in of_rank.last_losses.items() if loss is None})
    warnings = []
    if lost:
        warnings.append(f"{', '.join(lost)} not finite after the last step: this is the time of no training")
    if not all(of_rank.same_weights for of_rank in facts):
        warnings.append(
            "the weights of its processes differ: each trains by itself, or they share the weights out; use DDP, "
            "or read images/s as that of separate trainings"
        )
    return warnings


def _unsteady(result: CaseResult) -> list[str]:
    warnings = []
    if result.disturbed:
        quietest = min(result.quiet_rounds, key=np.sum)
        warnings.append(
            f"only {quietest.sum()} of {len(quietest)} rounds were undisturbed, so all were taken: "
            "close other programs, or repeat later"
        )
    spread = relative_iqr(result)
    if spread > IQR_LIMIT:
        warnings.append(
            f"the middle half of the windows spans {spread:.0%} of the median: "
            "close other programs, or measure with more --launches"
        )
    drift = _largest_drift(result)
    if abs(drift) > DRIFT_LIMIT:
        warnings.append(f"drifted by {drift:+.0%} while measured: let the machine cool or idle, then repeat")
    if not all(rank.arms[result.own_arm].settled for launch in result.launches for rank in launch):
        warnings.append("no steady state before the warm-up's time was over: repeat on a quieter machine")
    return warnings


def _largest_drift(result: CaseResult) -> float:
    """Return by which fraction the last third of a launch's windows differs from its first."""
    drifts = []
    for seconds in result.seconds_per_step[result.own_arm]:
        third = max(1, len(seconds) // 3)
        drifts.append(float(np.median(seconds[-third:]) / np.median(seconds[:third]) - 1))
    return max(drifts, key=abs)


def _other_load(result: CaseResult) -> list[str]:
    warnings = []
    others = max(launch[0].busy_cores - sum(rank.own_cores for rank in launch) for launch in result.launches)
    if others > OTHERS_LIMIT:
        warnings.append(f"other processes kept {others:.1f} cores busy: stop them, then repeat")
    stolen = max(launch[0].stolen_cores for launch in result.launches)
    if stolen > STOLEN_LIMIT:
        warnings.append(f"the host took {stolen:.1f} cores away: trust the ratios, not the times")
    harness = overhead(result)
    if harness > OVERHEAD_LIMIT:
        warnings.append(f"an empty window takes {harness:.1%} of the shortest real one: report this as a bug")
    return warnings
