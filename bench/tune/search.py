"""The search: settings one change away from the best ones race, and the better half goes on with twice the quads.

What measures and judges them is given to it, so it knows of no processes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bench.results.checks import Check
from bench.suite.cases import Case
from bench.tune.settings import identity

FIRST_QUADS = 24
"""About a second for short steps, which is little beside the start of the processes; long steps take fewer."""
WIDTH = 2
"""So many settings are built upon. Two, because the better one alone is not always a part of the best pair."""
LEAST_GAIN = 0.01
"""A setting has to be faster by this fraction, for the search to go on and for it to be recommended."""
HOPELESS = math.log(1.06)
"""A setting whose log ratio to the best one is larger is not judged, and not built upon."""


@dataclass(frozen=True)
class Heat:
    """One measurement of a setting beside the default, in fresh processes.

    Attributes:
        num_quads: Quads that were measured: of slow steps fewer than were asked for.
        log_ratio: ln of its time per image over the default's.
    """

    num_quads: int
    log_ratio: float


@dataclass(frozen=True)
class Trial:
    """What is known of a setting.

    Attributes:
        case: The setting, and what is trained.
        heats: Its measurements, in order.
        checks: Of tiers T1 and T2; None before it is judged.
        dropped: Why it cannot be recommended; empty if it can.
    """

    case: Case
    heats: tuple[Heat, ...] = ()
    checks: tuple[Check, ...] | None = None
    dropped: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.case.setting

    @property
    def log_ratio(self) -> float:
        """Its last measurement, that with the most quads; infinite without one."""
        return self.heats[-1].log_ratio if self.heats else math.inf

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts the best first: those that went further come before the others."""
        return -len(self.heats), self.log_ratio

    @property
    def is_eligible(self) -> bool:
        """Whether it was judged and may be recommended."""
        return self.checks is not None and not self.dropped


@dataclass(frozen=True)
class Failed:
    """A setting could not be measured or judged.

    Attributes:
        reason: In one line.
        may_pass_alone: Whether other settings beside it may have been the cause.
    """

    reason: str
    may_pass_alone: bool = False


class Measures(Protocol):
    """What a search asks for."""

    def heat(self, cases: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
        """Return a heat of each setting, in at most so many quads; only of the first ones if the time is over."""

    def judge(self, case: Case) -> tuple[Check, ...] | Failed:
        """Return the checks of tiers T1 and T2."""

    def has_time(self) -> bool:
        """Say whether there is time for another heat or judgement before the final race."""


@dataclass
class Search:
    """Looks for the fastest setting that trains the same GAN.

    Attributes:
        default: Where it begins, and what all are compared with.
        neighbours: Returns the settings one change away, each with why it is impossible, or "".
        measures: Measures and judges them.
        say: Told what is going on.
        trials: All settings that were tried, by what they run.
        ended: Why it ended, in one line.
    """

    default: Case
    neighbours: Callable[[Case], Sequence[tuple[Case, str]]]
    measures: Measures
    say: Callable[[str], None] = lambda _: None
    trials: dict[object, Trial] = field(default_factory=dict)
    ended: str = ""

    def run(self) -> Trial | None:
        """Search; return the best setting that may be recommended, or None."""
        frontier = [self.default]
        best = 0.0
        while frontier and not self.ended:
            fresh = self._fresh(frontier)
            if not fresh:
                self.ended = "every setting one change away from the best ones was tried"
                break
            survivors = self._halve(fresh, best)
            frontier = [trial.case for trial in survivors]
            now = min([best, *(trial.log_ratio for trial in survivors)])
            if not self.ended and now > best - math.log1p(LEAST_GAIN):
                self.ended = "no setting one change away was better by more than 1 %"
            best = now
        eligible = [trial for trial in self.trials.values() if trial.is_eligible]
        return min(eligible, key=lambda trial: trial.log_ratio, default=None)

    def _fresh(self, frontier: Sequence[Case]) -> list[Case]:
        """Return the settings to try next; note those that are impossible here."""
        known = {identity(self.default), *self.trials}
        fresh = []
        for parent in frontier:
            for case, reason in self.neighbours(parent):
                key = identity(case)
                if key in known:
                    continue
                known.add(key)
                if not reason:
                    fresh.append(case)
                if not reason or parent == self.default:
                    self.trials[key] = Trial(case, dropped=reason)
        return fresh

    def _halve(self, cases: Sequence[Case], best: float) -> list[Trial]:
        """Let settings race until WIDTH of them are left; return the best ones that may be recommended.

        Args:
            cases: The settings.
            best: The log ratio of the best one so far.
        """
        running = list(cases)
        num_quads = FIRST_QUADS
        while running and self._may_go_on():
            outcomes = self.measures.heat(running, num_quads)
            for case, outcome in outcomes.items():
                if isinstance(outcome, Failed):
                    self._note(case, dropped=outcome.reason)
                else:
                    self._note(case, heats=(*self.trials[identity(case)].heats, outcome))
            alive = [case for case in running if not self.trials[identity(case)].dropped]
            alive.sort(key=lambda case: self.trials[identity(case)].log_ratio)
            was_in_time = len(outcomes) == len(running) or self._may_go_on()
            if len(alive) <= WIDTH or not was_in_time:
                break
            running = alive[: max(WIDTH, math.ceil(len(alive) / 2))]
            num_quads *= 2
        return self._judged([self.trials[identity(case)] for case in cases], best + HOPELESS)

    def _judged(self, trials: Sequence[Trial], most: float) -> list[Trial]:
        """Judge settings, the best first, until WIDTH of them have passed, or one if time is over; return those.

        Args:
            trials: The settings.
            most: The largest log ratio of one that is judged.
        """
        passed: list[Trial] = []
        for trial in sorted(trials, key=lambda trial: trial.rank):
            if trial.dropped or trial.log_ratio > most or len(passed) == WIDTH:
                continue
            if passed and not self.measures.has_time():
                break
            self.say(f"checking {trial.name}")
            outcome = self.measures.judge(trial.case)
            if isinstance(outcome, Failed):
                self._note(trial.case, dropped=outcome.reason)
                continue
            failures = [check.complaint() for check in outcome if check.failed]
            self._note(trial.case, checks=outcome, dropped="; ".join(failures))
            if not failures:
                passed.append(self.trials[identity(trial.case)])
        return passed

    def _may_go_on(self) -> bool:
        if not self.measures.has_time():
            self.ended = "the time for the search was over: --budget gives it more"
        return not self.ended

    def drop(self, case: Case, reason: str) -> None:
        """Note that a setting cannot be recommended after all, and why."""
        self._note(case, dropped=reason)

    def _note(self, case: Case, **changes: object) -> None:
        key = identity(case)
        self.trials[key] = replace(self.trials[key], **changes)  # type: ignore[arg-type]
