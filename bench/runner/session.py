"""The cases that one run of pytest measures, and what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.results.case_result import CaseResult
from bench.results.environment import session_environment
from bench.results.file import MissingCase, SessionSummary
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseError
from bench.runner.limits import Limits
from bench.suite.cases import Case
from bench.suite.machine import Machine
from bench.suite.suites import Suite
from bench.suite.workloads import WORKLOADS


@dataclass
class MeasurementSession:
    """Measures cases in groups that take turns, and keeps their outcomes until pytest asks for them.

    Attributes:
        suite_name: The name of the suite.
        suite: How long to measure each case.
        cases: All cases of the session; pytest may deselect some.
        machine: What decides how many cases can take turns.
        limits: When to give a launch up.
        environment: What the session ran on, as it is recorded.
        runner: Measures groups of cases.
        due: The cases that pytest will ask for, in order.
        outcomes: Records, and errors of cases without one.
        results: Results of the cases that pytest has asked for.
        failed: Cases that failed.
        skipped: Cases that were not measured.
        asked_for: The cases that pytest has asked for.
        stopped: Whether the measurement was interrupted, so that nothing more is measured.
        interrupted: Whether pytest was interrupted.
    """

    suite_name: str
    suite: Suite
    cases: list[Case]
    machine: Machine
    limits: Limits
    environment: Mapping[str, Any] = field(default_factory=session_environment)
    runner: CaseRunner = field(init=False)
    due: list[Case] = field(default_factory=list)
    outcomes: dict[Case, Outcome] = field(default_factory=dict)
    results: list[CaseResult] = field(default_factory=list)
    failed: list[MissingCase] = field(default_factory=list)
    skipped: list[MissingCase] = field(default_factory=list)
    asked_for: set[Case] = field(default_factory=set)
    stopped: bool = False
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.runner = CaseRunner(self.limits, self.suite.patience_seconds)

    def outcome_of(self, case: Case) -> Outcome | None:
        """Return a case's record or its error, after measuring it with the cases due after it if need be.

        None if the session was interrupted before anything of the case was measured.
        """
        self.asked_for.add(case)
        if case not in self.outcomes and not self.stopped:
            group = self._group(case)
            try:
                self.runner.run({member: self.suite.effort_of(member) for member in group}, self.outcomes)
            except KeyboardInterrupt:
                self.stopped = True
            except OSError as error:  # the temporary directory is full, or away
                where = f"{error.filename}: " if error.filename else ""
                failure = CaseError(
                    f"{where}{error.strerror or error}; TMPDIR names another place for what is measured"
                )
                self.outcomes = {**dict.fromkeys(group, failure), **self.outcomes}
        return self.outcomes.get(case)

    def _group(self, first: Case) -> list[Case]:
        """Return the cases to be measured in turns with `first`: the next ones that are due, as many as fit."""
        if WORKLOADS[first.workload].alone:
            return [first]
        group = [first]
        room = self.machine.processes_at_once - first.num_processes
        for case in self.due[self.due.index(first) + 1 :]:
            if WORKLOADS[case.workload].alone:
                continue
            room -= case.num_processes
            if room < 0:
                break
            if case not in self.outcomes:
                group.append(case)
        return group

    def anything_left(self) -> bool:
        """Say whether cases were measured whose tests have not run yet."""
        return not self.outcomes.keys() <= self.asked_for

    def summary(self) -> SessionSummary:
        """Return what became of the session."""
        complete = not self.interrupted and not self.failed
        return SessionSummary(self.suite_name, complete, self.failed, self.skipped)
