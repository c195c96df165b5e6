"""One case's record, turned into figures. They are computed from the raw windows here and nowhere else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.windows import LEAST_ROUNDS, PROBE, undisturbed
from bench.results.checks import worst_checks
from bench.results.statistics import Interval, Seconds, exponential, midmean, midmean_interval
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS, Workload

IQR_LIMIT = 0.15
DRIFT_LIMIT = 0.10
OTHERS_LIMIT = 0.25
STOLEN_LIMIT = 0.10
OVERHEAD_LIMIT = 0.005
AUXILIARY = ("empty", PROBE)


@dataclass(frozen=True)
class CaseResult:
    """One case's record, as `launch.run_case` returns it."""

    record: Mapping[str, Any]

    @cached_property
    def case(self) -> Case:
        """The case; axes that a file does not know, or that are not known here, are left out."""
        known = {field.name for field in fields(Case)}
        return Case(**{name: value for name, value in self.record["case"].items() if name in known})

    @property
    def workload(self) -> Workload:
        """The row of the case's workload."""
        return WORKLOADS[self.case.workload]

    @property
    def launches(self) -> list[list[dict[str, Any]]]:
        """Each launch's ranks."""
        return [launch["ranks"] for launch in self.record["launches"]]

    @property
    def first_rank(self) -> dict[str, Any]:
        """Rank 0 of the first launch."""
        return self.launches[0][0]

    @property
    def arms(self) -> list[str]:
        """Names of the arms with windows, the case's own first."""
        own = [name for name, arm in self.first_rank["arms"].items() if arm["windows"] and name not in AUXILIARY]
        return own if self.workload.in_windows else [self.case.workload]

    def windows(self, arm: str) -> list[Seconds]:
        """Return each launch's seconds per step, window by window, of the slowest rank."""
        if not self.workload.in_windows:
            return [np.array([self._single(ranks[0])]) for ranks in self.launches]
        return [self._undisturbed(ranks, arm, self._all_windows(ranks, arm)) for ranks in self.launches]

    def _single(self, rank: Mapping[str, Any]) -> float:
        """Return the seconds of a launch that is a window by itself."""
        if self.case.workload == "startup":
            return float(sum(rank["startup_seconds"].values()))
        if self.case.workload == "time_to_quality":
            return float(rank["facts"]["quality"]["seconds"])
        return float(rank["facts"]["seconds"])

    @staticmethod
    def _all_windows(ranks: Sequence[Mapping[str, Any]], arm: str) -> Seconds:
        slowest: Seconds = np.max([rank["arms"][arm]["windows"] for rank in ranks], axis=0)
        return slowest / float(ranks[0]["arms"][arm]["steps_per_window"])

    def _undisturbed(self, ranks: Sequence[Mapping[str, Any]], arm: str, windows: Seconds) -> Seconds:
        """Leave out windows of disturbed rounds, unless there would be too few left."""
        quiet = self.quiet_rounds(ranks)
        kept = windows[quiet[:: ranks[0]["arms"][arm]["every"]]]
        return kept if quiet.sum() >= self._least_quiet(quiet) and len(kept) else windows

    @staticmethod
    def _least_quiet(quiet: NDArray[np.bool_]) -> int:
        return min(len(quiet), max(LEAST_ROUNDS, len(quiet) // 3))

    def quiet_rounds(self, ranks: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
        """Say for each round of a launch whether the machine was undisturbed, by the probe at its beginning."""
        probes = ranks[0]["arms"][PROBE]["windows"]
        return np.array(undisturbed(probes, self.record["quickest_probe"] or np.inf))

    def disturbed(self) -> bool:
        """Say whether a launch had too few undisturbed rounds, so that all were taken."""
        if not self.workload.in_windows or not self.workload.repeats_disturbed:
            return False
        return any(quiet.sum() < self._least_quiet(quiet) for quiet in map(self.quiet_rounds, self.launches))

    def median(self, arm: str | None = None) -> float:
        """Return the median seconds per step over the windows of all launches."""
        return float(np.median(np.concatenate(self.windows(arm or self.arms[0]))))

    def quantiles(self, *at: float) -> list[float]:
        """Return quantiles of the seconds per step of the case's own arm."""
        return [float(value) for value in np.quantile(np.concatenate(self.windows(self.arms[0])), at)]

    @property
    def relative_iqr(self) -> float:
        """Interquartile range of the step time, as a fraction of its median."""
        low, middle, high = self.quantiles(0.25, 0.5, 0.75)
        return (high - low) / middle

    def images_per_step(self, arm: str) -> int:
        """Return images over all processes; 0 where a step handles none."""
        return int(self.first_rank["arms"].get(arm, {}).get("images_per_step", 0))

    def images_per_second(self, arm: str | None = None) -> float:
        """Return images per second over all processes, at the median step time."""
        arm = arm or self.arms[0]
        return self.images_per_step(arm) / self.median(arm)

    def log_ratios(self, arm: str = "plain") -> list[Seconds] | None:
        """Return ln(arm / own) of the times per image (per step where there are none), round by round.

        Of every round: what disturbs one disturbs both. None where the case has no such arm.
        """
        own = self.arms[0]
        if arm not in self.arms:
            return None
        weight = np.log(max(1, self.images_per_step(own)) / max(1, self.images_per_step(arm)))
        pairs = [(self._all_windows(ranks, arm), self._all_windows(ranks, own)) for ranks in self.launches]
        return [np.log(theirs[: len(ours)] / ours[: len(theirs)]) + weight for theirs, ours in pairs]

    def times_plain(self) -> Interval | None:
        """Return how many times faster than the plain loop the case is, from windows that took turns."""
        ratios = self.log_ratios()
        return None if ratios is None else exponential(midmean_interval(ratios))

    @property
    def facts(self) -> dict[str, Any]:
        """What was counted: FLOPs and bytes per step, parameters, work of the roofline's arms."""
        facts: dict[str, Any] = self.first_rank["facts"]
        return facts

    def peak(self, arm: str) -> float | None:
        """Return the highest rate of a roofline arm, FLOP/s or bytes/s; None where not measured.

        Where a processor lacks a precision, small products can be the faster ones, so that the peak of products
        takes the step's own into account.
        """
        if arm not in self.arms:
            return None
        arms = [arm, "products"] if arm == "peak_product" and "products" in self.arms else [arm]
        return max(self._rate(each) for each in arms)

    def _rate(self, arm: str) -> float:
        (work,) = self.facts["work"][arm].values()
        return float(work / min(seconds.min() for seconds in self.windows(arm)))

    def flops_per_second(self) -> float | None:
        """Return the rate at which the step's counted FLOPs are done."""
        flops = self.facts.get("flops_per_step")
        return flops / self.median() if flops else None

    def floor_seconds(self) -> float | None:
        """Return the roofline's least time for a step on this machine, as measured in the same processes."""
        flops, copied = self.peak("peak_product"), self.peak("peak_copy")
        if flops is None or copied is None:
            return None
        return float(max(self.facts["flops_per_step"] / flops, self.facts["least_bytes_per_step"] / copied))

    def roofline_fraction(self) -> float | None:
        """Return the floor over the median step time."""
        floor = self.floor_seconds()
        return None if floor is None else floor / self.median()

    def share(self, arm: str) -> float | None:
        """Return an arm's time as a fraction of the case's own; None where it was not measured."""
        return self.median(arm) / self.median() if arm in self.arms else None

    def speedup(self) -> float | None:
        """Return images/s over those of one process alone at the batch that the case names."""
        if self.case.num_processes == 1:
            return 1.0
        ratios = self.log_ratios("solo")
        return None if ratios is None else float(np.exp(midmean(np.concatenate(ratios))))

    def communication_share(self) -> float | None:
        """Return the part of the step that goes when gradients are not reduced, waiting for others included."""
        ratios = self.log_ratios("no_sync")
        return None if ratios is None else max(0.0, 1 - float(np.exp(midmean(np.concatenate(ratios)))))

    def rank_seconds(self) -> list[float] | None:
        """Return each rank's median seconds of a step on its own, without the others; None for one process."""
        if "no_sync" not in self.arms:
            return None
        arms = [
            [ranks[rank]["arms"]["no_sync"] for ranks in self.launches] for rank in range(len(self.launches[0]))
        ]
        return [
            float(
                np.median(np.concatenate([np.array(arm["windows"]) / arm["steps_per_window"] for arm in launches]))
            )
            for launches in arms
        ]

    def peak_bytes(self) -> int:
        """Return the most memory a process held: allocated on the GPU where there is one, resident otherwise."""
        peaks = [rank["memory"] for ranks in self.launches for rank in ranks]
        return int(max(peak["peak_device_bytes"] or peak["peak_host_bytes"] for peak in peaks))

    def startup(self) -> dict[str, float]:
        """Return the median seconds of each part of the start."""
        parts = [ranks[0]["startup_seconds"] for ranks in self.launches]
        return {name: float(np.median([part[name] for part in parts])) for name in parts[0]}

    def mean(self, name: str) -> float:
        """Return the mean of a number that rank 0 of each launch reports."""
        return float(np.mean([ranks[0][name] for ranks in self.launches]))

    def overhead(self) -> float | None:
        """Return an empty window over the shortest real one: what the harness itself costs."""
        if not self.workload.in_windows:
            return None
        arms = [ranks[0]["arms"] for ranks in self.launches]
        shortest = min(
            min(arm["windows"]) for launch in arms for name, arm in launch.items() if name not in AUXILIARY
        )
        return float(np.median([window for launch in arms for window in launch["empty"]["windows"]]) / shortest)

    def checks(self) -> list[dict[str, Any]]:
        """Return what the tiers of stability found, the worst rank's; nothing for other workloads."""
        return worst_checks([rank["facts"].get("checks", []) for ranks in self.launches for rank in ranks])

    def failed_checks(self) -> list[str]:
        """Return a line for each check over its limit: tier, what, by how much, and the likely cause."""
        return [
            f"{check['tier']} {check['name']}: {_short(check['value'])}, the limit is {_short(check['limit'])}: "
            f"{check['cause']}"
            for check in self.checks()
            if not check["passed"] and not check.get("undecided")
        ]

    def undecided_checks(self) -> list[str]:
        """Return a line for each check of which too little is known."""
        return [
            f"{check['tier']} {check['name']}: {check['cause']}"
            for check in self.checks()
            if check.get("undecided")
        ]

    def warnings(self) -> list[str]:
        """Return why these figures may be off, and what to do about it."""
        found: list[str] = []
        if not self.workload.in_windows:
            return self.failed_checks() + self.undecided_checks()
        if self.disturbed():
            quietest = min((self.quiet_rounds(ranks) for ranks in self.launches), key=np.sum)
            found.append(
                f"only {quietest.sum()} of {len(quietest)} rounds were undisturbed, so all were taken: "
                "close other programs, or repeat later"
            )
        if self.relative_iqr > IQR_LIMIT:
            found.append(
                f"the middle half of the windows spans {self.relative_iqr:.0%} of the median: "
                "close other programs, or measure with more --launches"
            )
        for seconds in self.windows(self.arms[0]):
            third = max(1, len(seconds) // 3)
            drift = float(np.median(seconds[-third:]) / np.median(seconds[:third]) - 1)
            if abs(drift) > DRIFT_LIMIT:
                found.append(f"drifted by {drift:+.0%} while measured: let the machine cool or idle, then repeat")
                break
        if not all(rank["arms"][self.arms[0]]["settled"] for ranks in self.launches for rank in ranks):
            found.append("no steady state before the warm-up's time was over: repeat on a quieter machine")
        loads = [[rank["load"] for rank in ranks] for ranks in self.launches]
        others = max(ranks[0]["busy_cores"] - sum(load["own_cores"] for load in ranks) for ranks in loads)
        stolen = max(ranks[0]["stolen_cores"] for ranks in loads)
        if others > OTHERS_LIMIT:
            found.append(f"other processes kept {others:.1f} cores busy: stop them, then repeat")
        if stolen > STOLEN_LIMIT:
            found.append(f"the host took {stolen:.1f} cores away: trust the ratios, not the times")
        overhead = self.overhead()
        if overhead is not None and overhead > OVERHEAD_LIMIT:
            found.append(f"an empty window takes {overhead:.1%} of the shortest real one: report this as a bug")
        return found


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.2g}"
