"""The cases that one run of pytest measures, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.results.case_result import CaseResult
from bench.results.environment import session_environment
from bench.results.file import MissingCase, SessionSummary
from bench.runner.launch import CaseError, Limits, Outcome, Turns
from bench.suite.cases import Case
from bench.suite.machine import Machine
from bench.suite.suites import Suite
from bench.suite.workloads import WORKLOADS


class Session:
    """What one run of pytest measures, and what became of it."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.machine = Machine.here()
        self.suite_name: str = option("suite")
        require_known("--suite", self.suite_name, SUITES)
        self.suite: Suite = SUITES[self.suite_name]
        self.chosen = {name: parse_axis(name, given) for name in AXES if (given := option(f"axis_{name}"))}
        for name in ("launches", "rounds"):
            given = option(name)
            if given is not None:
                if given < 1:
                    raise UsageError(f"--{name} {given}: must be at least 1")
                self.suite = replace(self.suite, effort=replace(self.suite.effort, **{name: given}))
        self.limits = Limits(option("case_timeout"), option("stall_timeout"))
        for name, given in vars(self.limits).items():
            if given is not None and not given > 0:
                raise UsageError(f"--{name.split('_')[0]}-timeout {given:g}: must be above 0 seconds")
        self.cases = self.suite.cases(self.machine, self.chosen, option("keyword"))
        self.environment = session_environment()
        self.results: list[CaseResult] = []
        self.turns = Turns(self.limits, self.suite.patience_seconds)
        self.due: list[Case] = []
        self.outcomes: dict[Case, Outcome] = {}
        self.stopped = False
        self.failed: list[MissingCase] = []
        self.skipped: list[MissingCase] = []
        self.interrupted = False
        self.quiet = option("benchmark_quiet") and not option("benchmark_verbose")
        self.compare: str | bool = option("benchmark_compare")
        self.notes: list[str] = []
        self.regressed = False

    def outcome_of(self, case: Case) -> Outcome | None:
        """Return a case's record or why there is none, and measure it if need be with those due after it.

        None when the session was interrupted before there was anything of it.
        """
        if case not in self.outcomes and not self.stopped:
            group = self._group(case)
            try:
                self.turns.run({each: self.suite.effort_of(each) for each in group}, self.outcomes)
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
        """Return the cases to be measured in turns with `first`, the next ones that are due."""
        if WORKLOADS[first.workload].alone:
            return [first]
        group, room = [first], self.machine.processes_at_once - first.num_processes
        for case in self.due[self.due.index(first) + 1 :]:
            room -= 0 if WORKLOADS[case.workload].alone else case.num_processes
            if room < 0:
                break
            if not WORKLOADS[case.workload].alone and case not in self.outcomes:
                group.append(case)
        return group

    def anything_left(self) -> bool:
        """Say whether cases were measured whose tests have not run yet."""
        return len(self.outcomes) > len(self.results) + len(self.failed)

    def summary(self) -> SessionSummary:
        """Return what became of the session."""
        complete = not self.interrupted and not self.failed
        return SessionSummary(self.suite_name, complete, self.failed, self.skipped)
