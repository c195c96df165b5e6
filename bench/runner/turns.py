"""Run cases under `accelerate launch`, in turns; collect what their processes wrote, leave none behind."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from bench.harness.exchange import Exchange, Grant
from bench.harness.windows import Effort
from bench.runner.diagnosis import CaseError
from bench.runner.launches import Launch, Launcher, _config, _spinning
from bench.runner.limits import Limits
from bench.suite.cases import Case
from gan.files.environment import num_available_cores
from gan.process.launcher import num_threads_asked

SECONDS_BETWEEN_LINES = 10.0

Threads = tuple[str, int]
"""A case's device and number of processes, which decide how long a probe takes."""
Outcome = dict[str, Any] | CaseError


def run_case(
    case: Case,
    effort: Effort,
    limits: Limits = Limits(),
    *,
    on_launch: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a case by itself, as `Turns` does; raise its CaseError."""
    outcomes: dict[Case, Outcome] = {}
    Turns(limits, on_launch=on_launch).run({case: effort}, outcomes)
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise outcome
    return outcome


@dataclass
class Turns:
    """Measures cases side by side: each in processes of its own, which wait while others take their turn.

    A neighbour may slow a shared machine for longer than a case takes. Cases that take turns over minutes see its
    good and its bad times alike, and a disturbed one goes on when the others are done.

    Attributes:
        limits: When to give a launch up.
        patience_seconds: Most that is measured in the stead of disturbed rounds; it is used up.
        quickest_probes: The probe's least seconds yet, by what decides them.
        on_launch: Told of each launch's folder.
        say: Told how the measurement goes, in lines.
    """

    limits: Limits
    patience_seconds: float = math.inf
    quickest_probes: dict[Threads, float] = field(default_factory=dict)
    on_launch: Callable[[Exchange], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    _said_at: float = -math.inf

    def run(self, efforts: Mapping[Case, Effort], outcomes: dict[Case, Outcome]) -> None:
        """Measure cases in fresh processes; no process is left behind, however it ends.

        Args:
            efforts: How long to measure each.
            outcomes: Takes each case's record, JSON-ready, or why there is none. After an interruption it lacks
                cases of which there was nothing to keep.
        """
        launches: dict[Case, list[Any]] = {case: [] for case in efforts}
        try:
            for number in range(max(effort.launches for effort in efforts.values())):
                due = {
                    case: effort
                    for case, effort in efforts.items()
                    if effort.launches > number and case not in outcomes
                }
                self._launch(due, launches, outcomes)
        finally:
            for case, effort in efforts.items():
                if launches[case] and case not in outcomes:
                    outcomes[case] = {
                        "case": case.to_json(),
                        "effort": asdict(effort),
                        "quickest_probe": self.quickest_probes.get(_threads(case)),
                        "accelerate": {"config_file": _config(case).name, **case.launch_flags()},
                        "launches": launches[case],
                    }

    def _launch(
        self, efforts: Mapping[Case, Effort], launches: dict[Case, list[Any]], outcomes: dict[Case, Outcome]
    ) -> None:
        """Launch each case once, let all take turns to their end, and collect what their ranks wrote."""
        with contextlib.ExitStack() as stack:
            num_threads, asked_by = num_threads_asked() or (None, "")
            live = [
                Launch(case, effort, self.limits, self._say_sometimes, num_threads)
                for case, effort in efforts.items()
            ]
            launchers = [Launcher(launches, stack) for launches in _alike(live)]

            def attempt(launch: Launch, action: Callable[[], None]) -> None:
                try:
                    action()
                except CaseError as error:
                    outcomes[launch.case] = error
                    live.remove(launch)
                    launch.end()

            began = time.monotonic()
            try:
                threads = f", {num_threads} thread(s) a process ({asked_by})" if num_threads else ""
                self._say(f"starting {len(live)} case{'s' if len(live) > 1 else ''}{threads}")
                starting: list[Launch] = []
                for launcher in launchers:
                    starting += launcher.start()
                    while len({each.launcher for each in starting}) >= num_available_cores():
                        first = starting.pop(0)
                        attempt(first, first.wait)
                    for launch in launcher.launches:
                        self.on_launch(launch.exchange)
                for launch in starting:
                    attempt(launch, launch.wait)
                if len(live) > 1:
                    self._say(f"{len(live)} cases take turns; started in {time.monotonic() - began:.0f} s")
                while live:
                    for launch in list(live):
                        attempt(launch, partial(self._turn, launch))
                        if launch.done:
                            live.remove(launch)
                            launches[launch.case].append({"ranks": launch.records()})
                            launch.end()
            except KeyboardInterrupt:
                measured = [launch for launch in live if launch.ask_to_finish()]
                for launch in measured:
                    with contextlib.suppress(CaseError):
                        while not launch.done:
                            launch.wait()
                        launches[launch.case].append({"ranks": launch.records()})
                raise

    def _turn(self, launch: "Launch") -> None:
        """Let a case take a turn, or come to an end where patience has run out."""
        threads, wait = _threads(launch.case), launch.waits
        quickest = min(wait.quickest_probe, self.quickest_probes.get(threads, math.inf))
        if quickest < math.inf:
            self.quickest_probes[threads] = quickest
        began = time.monotonic()
        launch.grant(Grant(quickest, finish=wait.only_replaces and self.patience_seconds <= 0))
        launch.wait()
        seconds = time.monotonic() - began
        if wait.only_replaces:
            self.patience_seconds -= seconds
        if wait.turn == 0:
            self._say(f"{launch.case.workload} {launch.case.id} is warm ({seconds:.0f} s)")

    def _say(self, line: str) -> None:
        self._said_at = time.monotonic()
        self.say(line)

    def _say_sometimes(self, line: str) -> None:
        """Say what is being done where nothing has been said for a while."""
        if time.monotonic() - self._said_at > SECONDS_BETWEEN_LINES:
            self._say(line)


def _threads(case: Case) -> Threads:
    return case.device, case.num_processes


def _alike(launches: Sequence["Launch"]) -> list[list["Launch"]]:
    """Group launches that one launcher can start: single processes on the CPU, flags and environment the same.

    Forking what has done its imports saves seconds a case; a process that uses CUDA cannot be forked.
    """
    groups: dict[Any, list[Launch]] = {}
    for launch in launches:
        case = launch.case
        can_fork = hasattr(os, "fork") and case.device == "cpu" and case.num_processes == 1
        alike = (*case.launch_flags().items(), *_spinning(case).items())
        groups.setdefault(alike if can_fork else launch, []).append(launch)
    return list(groups.values())
