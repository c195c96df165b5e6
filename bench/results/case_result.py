"""One case's result: its times and ratios, computed from the raw windows here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.harness.windows import LEAST_ROUNDS, PROBE, undisturbed
from bench.results.checks import Check, worst_checks
from bench.results.damage import Json
from bench.results.gpu import GpuFacts
from bench.results.records import Facts, HostFacts, RankResult, parse_case, parse_rank
from bench.results.statistics import Interval, Seconds, exponential, midmean_interval
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS, Workload

EMPTY = "empty"
"""An arm whose step does nothing: what the harness itself costs."""
AUXILIARY = {EMPTY, PROBE}

Launch = tuple[RankResult, ...]


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What was measured of one case.

    Attributes:
        case: What was asked for.
        quickest_probe: Seconds of the probe's window when the machine was at rest; infinite if no case knew.
        accelerate: The configuration file and the flags of `accelerate launch`.
        launches: The ranks of each launch, in order.
    """

    case: Case
    quickest_probe: float
    accelerate: Mapping[str, object]
    launches: tuple[Launch, ...]

    @classmethod
    def of(cls, record: Json) -> "CaseResult":
        """Return the result that a record holds, as `CaseRunner.run` makes it and as a file has it."""
        return cls(
            case=parse_case(record["case"]),
            quickest_probe=record["quickest_probe"] or np.inf,
            accelerate=record["accelerate"],
            launches=tuple(tuple(map(parse_rank, launch["ranks"])) for launch in record["launches"]),
        )

    @property
    def name(self) -> str:
        """Workload and case in one line."""
        return f"{self.case.workload} {self.case.id}"

    @property
    def workload(self) -> Workload:
        """The row of the case's workload."""
        return WORKLOADS[self.case.workload]

    @property
    def first_rank(self) -> RankResult:
        """Rank 0 of the first launch."""
        return self.launches[0][0]

    @property
    def facts(self) -> Facts:
        """What rank 0 of the first launch counted or found."""
        return self.first_rank.facts

    @cached_property
    def hosts(self) -> list[HostFacts]:
        """The hosts over which its processes were spread, in order; none if all ran on that of the session."""
        return list({rank.host.name: rank.host for rank in self.launches[0] if rank.host}.values())

    @cached_property
    def gpus(self) -> list[GpuFacts]:
        """What its processes read of their GPUs, in all launches; none on a CPU."""
        return [rank.gpu for launch in self.launches for rank in launch if rank.gpu]

    @cached_property
    def checks(self) -> list[Check]:
        """The checks of stability, of the worst rank; none for other workloads."""
        return worst_checks([rank.facts.checks for launch in self.launches for rank in launch])

    @property
    def own_arm(self) -> str:
        """The arm that is the case's own."""
        return next(iter(self.seconds_per_step))

    @property
    def period(self) -> int:
        """Steps over which the times of the case are means; 1 if all its steps are alike."""
        return next((arm.period for arm in self.first_rank.arms.values()), 1)

    @cached_property
    def seconds_per_step(self) -> dict[str, list[Seconds]]:
        """By arm, the case's own first: seconds per step in the windows of each launch, of the slowest rank.

        Windows of disturbed rounds are left out, unless too few others are left. A workload without windows has
        one number per launch, under its own name.
        """
        if not self.workload.in_windows:
            seconds = [_whole_seconds(self.workload, launch[0]) for launch in self.launches]
            return {self.case.workload: [np.array([value]) for value in seconds]}
        measured = [
            name for name, arm in self.first_rank.arms.items() if len(arm.windows) and name not in AUXILIARY
        ]
        return {
            arm: [
                _undisturbed(_all_windows(launch, arm), quiet, launch[0].arms[arm].every)
                for launch, quiet in zip(self.launches, self.quiet_rounds, strict=True)
            ]
            for arm in measured
        }

    def seconds_of_rank(self, arm: str, number: int) -> list[Seconds]:
        """Return the seconds per step in the windows of each launch, as `seconds_per_step` does, of one rank."""
        return [
            _undisturbed(launch[number].arms[arm].seconds_per_step, quiet, launch[0].arms[arm].every)
            for launch, quiet in zip(self.launches, self.quiet_rounds, strict=True)
        ]

    @cached_property
    def quiet_rounds(self) -> list[NDArray[np.bool_]]:
        """For each launch, whether the machine was undisturbed in each round, by the probe at its beginning."""
        probes = [launch[0].arms[PROBE].windows.tolist() for launch in self.launches]
        return [np.array(undisturbed(windows, self.quickest_probe)) for windows in probes]

    @cached_property
    def disturbed(self) -> bool:
        """Whether a launch had too few undisturbed rounds, so that all were taken."""
        if not self.workload.in_windows or not self.workload.repeats_disturbed:
            return False
        return any(quiet.sum() < _least_quiet(quiet) for quiet in self.quiet_rounds)

    def median(self, arm: str | None = None) -> float:
        """Return the median seconds per step over the windows of all launches, of the case's own arm if None."""
        return float(np.median(np.concatenate(self.seconds_per_step[arm or self.own_arm])))

    def images_per_step(self, arm: str) -> int:
        """Return images over all processes; 0 if a step handles none."""
        arms = self.first_rank.arms
        return arms[arm].images_per_step if arm in arms else 0

    def images_per_second(self, arm: str | None = None) -> float:
        """Return images per second over all processes, at the median step time."""
        arm = arm or self.own_arm
        return self.images_per_step(arm) / self.median(arm)

    def log_ratios(self, arm: str = "plain") -> list[Seconds] | None:
        """Return ln(arm / own) of the times per image (per step if there are none), for each round of each launch.

        All rounds count: what disturbs one arm disturbs both. None if the case has no such arm.
        """
        own_arm = self.own_arm
        if arm not in self.seconds_per_step:
            return None
        weight = np.log(max(1, self.images_per_step(own_arm)) / max(1, self.images_per_step(arm)))
        ratios = []
        for launch in self.launches:
            own = _all_windows(launch, own_arm)
            other = _all_windows(launch, arm)
            num_rounds = min(len(own), len(other))
            ratios.append(np.log(other[:num_rounds] / own[:num_rounds]) + weight)
        return ratios

    @cached_property
    def times_plain(self) -> Interval | None:
        """How many times as fast as the plain loop the case is, from windows that took turns."""
        ratios = self.log_ratios()
        return None if ratios is None else exponential(midmean_interval(ratios))


def _whole_seconds(workload: Workload, rank: RankResult) -> float:
    """Return how long a launch took whose workload has no windows."""
    if workload.kind == "start":
        return float(sum(rank.startup_seconds.values()))
    return float(rank.facts.seconds if rank.facts.quality is None else rank.facts.quality.seconds)


def _all_windows(launch: Launch, arm: str) -> Seconds:
    """Return the seconds per step in each window of a launch, of the rank that was slowest in it."""
    slowest: Seconds = np.max([rank.arms[arm].windows for rank in launch], axis=0)
    return slowest / float(launch[0].arms[arm].steps_per_window)


def _undisturbed(windows: Seconds, quiet: NDArray[np.bool_], every: int) -> Seconds:
    """Leave out the windows of disturbed rounds, unless too few would be left."""
    kept = windows[quiet[::every]]
    return kept if quiet.sum() >= _least_quiet(quiet) and len(kept) else windows


def _least_quiet(quiet: NDArray[np.bool_]) -> int:
    return min(len(quiet), max(LEAST_ROUNDS, len(quiet) // 3))
