"""Why the figures of a case may be off, and what to do about it."""

from dataclasses import dataclass

import numpy as np

from bench.results.case_result import CaseResult, Launch
from bench.results.figures import overhead, relative_iqr
from bench.results.gpu import marks_of
from bench.results.phases import attribution
from bench.results.records import RankResult

IQR_LIMIT = 0.15  # of the median
DRIFT_LIMIT = 0.10  # of the median of the first third
OTHERS_LIMIT = 0.25  # cores
STOLEN_LIMIT = 0.10  # cores
OVERHEAD_LIMIT = 0.005  # of the shortest window
UNCOVERED_LIMIT = 0.02  # of the windows
MARKS_LIMIT = 0.05  # of the step


@dataclass(frozen=True)
class Doubt:
    """Why the figures of a case may be off.

    Attributes:
        kind: The same for all cases of which the same is doubtful.
        amount: What was seen in this case; empty if the kind says all.
        advice: What to do about it, the same for all cases of a kind.
    """

    kind: str
    amount: str
    advice: str


def failed_checks(result: CaseResult) -> list[str]:
    """Return a line for each check over its limit: tier, name, value, limit and the most likely cause."""
    return [check.complaint() for check in result.checks if check.failed]


def undecided_checks(result: CaseResult) -> list[str]:
    """Return a line for each check about which too little is known."""
    return [check.complaint() for check in result.checks if check.undecided]


def doubts_of(result: CaseResult) -> list[Doubt]:
    """Return everything that makes the figures of a case in windows doubtful; checks are judged elsewhere."""
    if not result.workload.in_windows:
        return []
    marks = [Doubt(mark.short, mark.read, mark.advice) for mark in marks_of(result.gpus)]
    of_case = _unfit_training(result) + _unlike_hosts(result) + _other_exchange(result) + marks
    return of_case + _unsteady(result) + _unaccounted(result) + _other_load(result)


def _by_host(launch: Launch) -> list[list[RankResult]]:
    """Return the ranks of a launch by host: the load is that of a machine."""
    by_host: dict[str, list[RankResult]] = {}
    for rank in launch:
        by_host.setdefault(rank.host.machine or rank.host.name if rank.host else "", []).append(rank)
    return list(by_host.values())


def _unlike_hosts(result: CaseResult) -> list[Doubt]:
    unlike = (
        len({host.line for host in result.hosts}) > 1 or len({rank.threads for rank in result.launches[0]}) > 1
    )
    advice = "a step waits for the slowest: see the notes, and measure on hosts that are alike"
    doubts = [Doubt("its hosts differ", "", advice)] if unlike and result.hosts else []
    networks = [host.network for host in result.hosts if host.network]
    if len(set(networks)) < len(networks):
        advice = "nothing went over a network; name each machine once"
        doubts.append(Doubt("some of its hosts are the same machine", "", advice))
    if result.hosts and (names := _differing_variables(result.launches[0])):
        advice = "set these variables alike on all hosts"
        doubts.append(Doubt("libraries of its hosts are set differently", ", ".join(names), advice))
    return doubts


def _differing_variables(launch: Launch) -> list[str]:
    """Return the names of the variables of libraries that are not the same in all ranks."""
    of_ranks = [variables for rank in launch if isinstance(variables := rank.flags.get("variables"), dict)]
    names = {name for variables in of_ranks for name in variables}
    return sorted(name for name in names if len({variables.get(name) for variables in of_ranks}) > 1)


def _other_exchange(result: CaseResult) -> list[Doubt]:
    case = result.case
    asked = case.shared_memory and case.may_share_memory
    if all(rank.shares_memory == asked for launch in result.launches for rank in launch):
        return []
    if asked:
        advice = "they could not, as in containers; measure with --shared-memory no, whose name says so"
        return [Doubt("its processes shared no memory", "", advice)]
    return [Doubt("its processes shared memory", "", "its name says otherwise: measure again")]


def _unaccounted(result: CaseResult) -> list[Doubt]:
    divided = attribution(result)
    doubts = []
    if divided and abs(divided.covered - 1) > UNCOVERED_LIMIT:
        amount = f"they are {divided.covered:.0%} of it"
        kind = f"{'parts' if result.facts.messages else 'phases'} do not add up to the step"
        doubts.append(Doubt(kind, amount, "report this as a bug"))
    if divided and divided.disturbance.low > 1 + MARKS_LIMIT:
        amount = f"{divided.disturbance.estimate - 1:.0%} of the step"
        if result.facts.messages:
            advice = "read ms/step and communication rather than the parts"
            doubts.append(Doubt("timing the messages takes long", amount, advice))
        else:
            doubts.append(Doubt("marking the phases takes long", amount, "trust --profile rather than the shares"))
    return doubts


def _unfit_training(result: CaseResult) -> list[Doubt]:
    """Return what shows that a subject's step is not that of a training."""
    facts = [rank.facts for launch in result.launches for rank in launch]
    lost = sorted({name for of_rank in facts for name, loss in of_rank.last_losses.items() if loss is None})
    doubts = []
    if lost:
        doubts.append(Doubt("not finite after the last step", ", ".join(lost), "this is the time of no training"))
    if len({of_rank.subject_sha256 for of_rank in facts}) > 1:
        doubts.append(Doubt("its processes ran different files of the subject", "", "copy one to all hosts"))
    if not all(of_rank.same_weights for of_rank in facts):
        advice = (
            "each trains by itself, or they share the weights out; use DDP, or read images/s as that of separate "
            "trainings"
        )
        doubts.append(Doubt("the weights of its processes differ", "", advice))
    return doubts


def _unsteady(result: CaseResult) -> list[Doubt]:
    doubts = []
    if result.disturbed:
        quietest = min(result.quiet_rounds, key=np.sum)
        amount = f"{quietest.sum()} of {len(quietest)} rounds undisturbed"
        advice = "too few, so all rounds were taken: close other programs, or repeat later"
        doubts.append(Doubt("disturbed", amount, advice))
    spread = relative_iqr(result)
    if spread > IQR_LIMIT:
        advice = "close other programs, or measure with more --launches"
        doubts.append(Doubt("wide IQR", f"{spread:.0%} of the median", advice))
    drift = _largest_drift(result)
    if abs(drift) > DRIFT_LIMIT:
        doubts.append(Doubt("drifted", f"by {drift:+.0%}", "let the machine cool or idle, then repeat"))
    if not all(rank.arms[result.own_arm].settled for launch in result.launches for rank in launch):
        doubts.append(Doubt("no steady state after the warm-up", "", "repeat on a quieter machine"))
    return doubts


def _largest_drift(result: CaseResult) -> float:
    """Return by which fraction the last third of a launch's windows differs from its first."""
    drifts = []
    for seconds in result.seconds_per_step[result.own_arm]:
        third = max(1, len(seconds) // 3)
        drifts.append(float(np.median(seconds[-third:]) / np.median(seconds[:third]) - 1))
    return max(drifts, key=abs)


def _other_load(result: CaseResult) -> list[Doubt]:
    doubts = []
    on_hosts = [ranks for launch in result.launches for ranks in _by_host(launch)]
    others = max(ranks[0].busy_cores - sum(rank.own_cores for rank in ranks) for ranks in on_hosts)
    if others > OTHERS_LIMIT:
        doubts.append(Doubt("other processes were busy", f"on {others:.1f} cores", "stop them, then repeat"))
    stolen = max(ranks[0].stolen_cores for ranks in on_hosts)
    if stolen > STOLEN_LIMIT:
        doubts.append(Doubt("the host took cores away", f"{stolen:.1f}", "trust the ratios, not the times"))
    harness = overhead(result)
    if harness > OVERHEAD_LIMIT:
        amount = f"{harness:.1%} of the shortest real one"
        doubts.append(Doubt("an empty window takes long", amount, "report this as a bug"))
    return doubts
