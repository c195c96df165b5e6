"""Runs cases side by side: starts their processes, lets them take turns, and collects their records."""

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness.exchange import Exchange, Grant
from bench.harness.windows import Effort
from bench.runner.diagnosis import CaseError
from bench.runner.hosts import Hosts
from bench.runner.launches import (
    CaseLaunch,
    Command,
    LauncherProcess,
    accelerate_launch,
    config_file,
    end_at_once,
    grouped,
)
from bench.runner.limits import Limits
from bench.suite.cases import Case
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.process.launcher import num_threads_asked
from gan.recipe_files import file_of

SECONDS_BETWEEN_LINES = 10.0
MOST_STARTS_OVER_HOSTS = 8
"""Cases over hosts that start at once. Of more than 10 that log in, sshd turns some away (MaxStartups)."""

Threads = tuple[str, int, int]
"""A case's device, number of processes and number of hosts, which decide how long a probe takes."""
Outcome = dict[str, Any] | CaseError
"""A case's record, JSON-ready, or why there is none."""


@dataclass
class CaseRunner:
    """Measures cases side by side: each in processes of its own, which wait while other cases take their turn.

    A neighbour may slow a shared machine for longer than a case takes. Cases that take turns over minutes see its
    good and its bad times alike, and a disturbed case goes on when the others are done.

    Attributes:
        limits: When to give a launch up.
        patience_seconds: How much longer to measure in all, to replace disturbed rounds. It counts down.
        quickest_probes: The least seconds of a probe so far.
        on_launch: Told of each launch's folder.
        say: Told how the measurement goes, in lines.
        command: What starts the processes of a case.
        traces: Where traces of profiled steps are written; None to profile nothing.
        hosts: Over which the processes of a case can be spread; None for this one alone.
    """

    limits: Limits
    patience_seconds: float = math.inf
    quickest_probes: dict[Threads, float] = field(default_factory=dict)
    on_launch: Callable[[Exchange], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    command: Command = accelerate_launch
    traces: Path | None = None
    hosts: Hosts | None = None
    _said_at_seconds: float = -math.inf

    def run(self, efforts: Mapping[Case, Effort], outcomes: dict[Case, Outcome]) -> None:
        """Measure cases in fresh processes; no process is left behind, however it ends.

        Args:
            efforts: Cases, and how long to measure them.
            outcomes: Takes the outcome of each case. After an interruption it lacks cases of which there was
                nothing to keep.
        """
        launches: dict[Case, list[Any]] = {case: [] for case in efforts}
        try:
            for number in range(max(effort.launches for effort in efforts.values())):
                due = {
                    case: effort
                    for case, effort in efforts.items()
                    if effort.launches > number and case not in outcomes
                }
                if due:  # or all of them have failed
                    self._launch(due, launches, outcomes, self.traces if number == 0 else None)
        finally:
            for case, effort in efforts.items():
                if launches[case] and case not in outcomes:
                    outcomes[case] = {
                        "case": case.to_json(),
                        **_digest_of_recipe(case),
                        "effort": asdict(effort),
                        "quickest_probe": self.quickest_probes.get(_threads(case)),
                        "accelerate": {"config_file": config_file(case).name, **case.launch_flags()},
                        "launches": launches[case],
                    }

    def _launch(
        self,
        efforts: Mapping[Case, Effort],
        launches: dict[Case, list[Any]],
        outcomes: dict[Case, Outcome],
        traces: Path | None,
    ) -> None:
        """Launch each case once, let all take turns to their end, and collect what their ranks wrote."""
        num_threads, asked_by = num_threads_asked() or (None, "")
        live = [
            CaseLaunch(case, effort, self.limits, num_threads, traces, self._say_sometimes)
            for case, effort in efforts.items()
        ]
        threads = f", {num_threads} thread(s) a process ({asked_by})" if num_threads else ""
        self._say(f"starting {len(live)} case{'s' if len(live) > 1 else ''}{threads}")
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            side_by_side = _SideBySide(live, launches, outcomes)
            try:
                launchers = [LauncherProcess(group, stack, self.command, self.hosts) for group in grouped(live)]
                stack.callback(end_at_once, launchers)
                side_by_side.start(launchers, self.on_launch)
                if len(live) > 1:
                    self._say(f"{len(live)} cases take turns; started in {time.monotonic() - began:.0f} s")
                while live:
                    for launch in list(live):
                        side_by_side.attempt(launch, partial(self._turn, launch))
            except KeyboardInterrupt:
                side_by_side.finish()
                raise

    def _turn(self, launch: CaseLaunch) -> None:
        """Let a case take a turn, or come to an end where patience has run out."""
        threads = _threads(launch.case)
        wait = launch.wait
        quickest = min(wait.quickest_probe, self.quickest_probes.get(threads, math.inf))
        if quickest < math.inf:
            self.quickest_probes[threads] = quickest
        began = time.monotonic()
        launch.grant(Grant(quickest, finish=wait.only_replaces and self.patience_seconds <= 0))
        launch.complete_turn()
        seconds = time.monotonic() - began
        if wait.only_replaces:
            self.patience_seconds -= seconds
        if wait.turn == 0:
            self._say(f"{launch.case.workload} {launch.case.id} is warm ({seconds:.0f} s)")

    def _say(self, line: str) -> None:
        self._said_at_seconds = time.monotonic()
        self.say(line)

    def _say_sometimes(self, line: str) -> None:
        """Say what is being done where nothing has been said for a while."""
        if time.monotonic() - self._said_at_seconds > SECONDS_BETWEEN_LINES:
            self._say(line)


@dataclass
class _SideBySide:
    """Launches that take turns.

    Attributes:
        live: Those that have not come to an end.
        records: Takes what the ranks of a launch have measured.
        outcomes: Takes why there is nothing.
    """

    live: list[CaseLaunch]
    records: dict[Case, list[Any]]
    outcomes: dict[Case, Outcome]

    def start(self, launchers: Sequence[LauncherProcess], on_launch: Callable[[Exchange], None]) -> None:
        """Start as many launchers at once as there are cores; return when all their processes wait for a turn."""
        starting: list[CaseLaunch] = []
        over_hosts = any(launch.case.num_hosts > 1 for launch in self.live)
        most = min(num_available_cores(), MOST_STARTS_OVER_HOSTS if over_hosts else math.inf)
        for launcher in launchers:
            starting += launcher.start()
            while len({launch.launcher for launch in starting}) >= most:
                first = starting.pop(0)
                self.attempt(first, first.complete_turn)
            for launch in launcher.launches:
                on_launch(launch.exchange)
        for launch in starting:
            self.attempt(launch, launch.complete_turn)

    def attempt(self, launch: CaseLaunch, action: Callable[[], None]) -> None:
        """Do something with a launch, and take it out if it fails or is done."""
        failure = None
        try:
            action()
        except CaseError as error:
            failure = error
        if failure or launch.done:
            self.live.remove(launch)
            if failure:
                self.outcomes[launch.case] = failure
            else:
                self.records[launch.case].append({"ranks": launch.records()})
            launch.end()

    def finish(self) -> None:
        """Let launches that have measured anything come to their end; an interruption does not wait for others."""
        measured = [launch for launch in self.live if launch.ask_to_finish()]
        for launch in measured:
            with contextlib.suppress(CaseError):
                while not launch.done:
                    launch.complete_turn()
                self.records[launch.case].append({"ranks": launch.records()})


def _digest_of_recipe(case: Case) -> dict[str, str]:
    file = file_of(case.recipe)
    with contextlib.suppress(UsageError):  # removed while it was measured
        return {"recipe_sha256": file.sha256()} if file else {}
    return {}


def _threads(case: Case) -> Threads:
    return case.device, case.num_processes, case.num_hosts
