"""Launches: `accelerate launch` starts a case's processes, which measure in turns until they have a record."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bench.harness import processes
from bench.harness.exchange import Exchange, Grant, Phase, Status, Wait
from bench.harness.host import DETERMINISTIC_PRODUCTS, child_environment
from bench.harness.messages import encode
from bench.harness.windows import Effort
from bench.harness.world import free_port
from bench.runner.assignment import Assignment
from bench.runner.diagnosis import CaseError, failed, hung
from bench.runner.hosts import ROOT, Hosts, Rendezvous
from bench.runner.leftovers import temporary_directory, unwritable
from bench.runner.limits import Limits
from bench.runner.spread import OtherNodes, host_of_each_rank
from bench.stability.references import FOLDER_VARIABLE, references_folder
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from gan.files.json_files import read_json
from gan.process.configs import CONFIGS
from gan.process.interface import VARIABLE as INTERFACE
from gan.process.interface import interface_towards
from gan.recipe_files import located

POLL_SECONDS = 0.03
SUSPENDED_SECONDS = 10.0
"""This process was suspended if it did not look for so long, and those that it waits for may have been, too."""
LAUNCHES_PREFIX = "gan-bench-"

Command = Callable[[Case, Rendezvous | None], Sequence[str]]
"""What starts the processes of a case on a host; the files with their assignments follow."""


def config_file(case: Case) -> Path:
    """Return the configuration of `accelerate launch` for a case."""
    if case.num_hosts > 1:
        return CONFIGS / f"multi_node{'_cpu' if case.device == 'cpu' else ''}.yaml"
    kind = "cpu" if case.device == "cpu" else "gpu"
    return CONFIGS / f"{kind}{'_ddp' if case.num_processes > 1 else ''}.yaml"


def accelerate_launch(case: Case, rendezvous: Rendezvous | None = None) -> list[str]:
    """Return the command that starts `bench.runner.worker` in each process of a case on a host.

    Args:
        case: The case.
        rendezvous: If the processes are spread over several hosts. The command then fits all of them.
    """
    flags = [part for name, value in case.launch_flags().items() for part in (f"--{name}", str(value))]
    config = config_file(case)
    if rendezvous is not None:
        config = config.relative_to(ROOT)
        flags += ["--machine_rank", str(rendezvous.node), "--main_process_ip", rendezvous.address]
        flags += ["--main_process_port", str(rendezvous.port)]
    elif case.num_processes > 1:
        flags += ["--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*launcher, *flags, "--module", "bench.runner.worker"]


def _defaults(case: Case) -> dict[str, str]:
    """Return the variables of a case's processes where the user has not set them."""
    return {} if WORKLOADS[case.workload].timed else DETERMINISTIC_PRODUCTS


@dataclass(eq=False)
class CaseLaunch:
    """The processes that measure a case, once.

    Attributes:
        case: The case.
        effort: How long to measure.
        limits: When to give the launch up.
        num_threads: CPU threads of each process; None to share the cores.
        traces: Where traces of profiled steps are written; None to profile nothing.
        on_progress: Told how far the slowest process is, in words.
        wait: What its processes wait for.
        done: Whether all its processes have written their records.
        others: Its nodes on other hosts; None if all its processes run here.
    """

    case: Case
    effort: Effort
    limits: Limits
    num_threads: int | None = None
    traces: Path | None = None
    on_progress: Callable[[str], None] = lambda _: None
    wait: Wait = field(default_factory=lambda: Wait(-1))
    done: bool = False
    others: OtherNodes | None = None
    launcher: "LauncherProcess" = field(init=False)
    exchange: Exchange = field(init=False)
    _granted_turn: int = -1
    _granted_at_seconds: float = 0.0
    _seconds: float = 0.0
    _last_statuses: dict[int, Status] = field(default_factory=dict)
    _silences: dict[int, float] = field(default_factory=dict)

    @property
    def ranks(self) -> range:
        """Its processes."""
        return range(self.case.num_processes)

    def assign(self, launcher: "LauncherProcess", exchange: Exchange, hosts: tuple[str, ...] = ()) -> None:
        """Write what is to be measured.

        Args:
            launcher: Starts its processes.
            exchange: Through which they are talked to.
            hosts: The name of each rank's host, if they are spread over several.
        """
        self.launcher = launcher
        self.exchange = exchange
        case = replace(self.case, recipe=located(self.case.recipe))  # the process works in another directory
        assignment = Assignment(
            case,
            self.effort,
            os.getpid(),
            time.monotonic(),
            self.num_threads,
            place=str(Path.cwd()),
            traces="" if self.traces is None else str(self.traces),
            hosts=hosts,
        )
        exchange.assignment.write_bytes(encode(assignment))

    def grant(self, grant: Grant) -> None:
        """Let the processes take the turn that they wait for, or end."""
        self._granted_turn = self.wait.turn
        self._tell(self.wait.turn, grant)

    def _tell(self, turn: int, grant: Grant) -> None:
        self._granted_at_seconds = time.monotonic()
        self.exchange.grant(turn, grant)
        if self.others:
            self.others.grant(turn, grant)

    def complete_turn(self) -> None:
        """Return when every rank waits for the next turn, or has written its record (`done`).

        Raises:
            CaseError: That will not happen, or takes too long.
        """
        looked_at = time.monotonic()
        began = looked_at - self._seconds
        while (exit_code := self._exit_code()) is None:
            time.sleep(POLL_SECONDS)
            pause = time.monotonic() - looked_at
            looked_at += pause
            if pause > SUSPENDED_SECONDS:
                began += pause
                self._granted_at_seconds = looked_at
            statuses = {rank: status for rank in self.ranks if (status := self.exchange.status(rank))}
            all_began = len(statuses) == len(self.ranks)
            if all_began and all(status.phase == Phase.DONE for status in statuses.values()):
                self.done = True
                return
            busy = {rank: status for rank, status in statuses.items() if not self._awaits_grant(status)}
            seconds = time.monotonic() - began
            if all_began and not busy:
                assert statuses[0].wait
                self.wait = statuses[0].wait
                self._seconds = seconds
                return
            self._require_progress(busy, seconds)
        if exit_code or not all(self.exchange.record(rank).exists() for rank in self.ranks):
            raise self._failed(exit_code)
        self.done = True

    def _awaits_grant(self, status: Status) -> bool:
        """Say whether a rank waits for a turn after the one that was granted."""
        return status.wait is not None and status.wait.turn > self.wait.turn

    def _require_progress(self, busy: dict[int, Status], seconds: float) -> None:
        """Tell how far the ranks are that measure; raise CaseError where that takes too long.

        Args:
            busy: Their last statuses.
            seconds: How long the launch has taken so far, in its turns.
        """
        most_seconds = self.limits.seconds_of(self.case)
        if seconds > most_seconds:
            raise self._hung(f"not done after {most_seconds:g} s (--case-timeout)")
        for rank, status in busy.items():
            silence = time.monotonic() - max(status.monotonic_seconds, self._granted_at_seconds)
            limit = self.limits.silence_of(self.case, status.phase, self._longest_silence(rank, status))
            if silence > limit:
                raise self._hung(f"no progress for {limit:.0f} s (--stall-timeout)")
        if busy:
            slowest = min(busy.values(), key=lambda status: status.number)
            turn = f"turn {self._granted_turn}, " if self._granted_turn > 0 else ""
            self.on_progress(f"{self.case.workload} {self.case.id}: {turn}{slowest.doing} ({seconds:.0f} s)")

    def _failed(self, exit_code: int) -> CaseError:
        if reason := unwritable(self.exchange.root):
            return CaseError(f"{reason} for what is measured")
        if self.others:
            return self.others.failed(self.launcher.exit_code)
        return failed(self.exchange, self.case.num_processes, exit_code)

    def _hung(self, complaint: str) -> CaseError:
        if self.others:
            return self.others.hung(complaint)
        return hung(self.exchange, self.case.num_processes, complaint)

    def _longest_silence(self, rank: int, status: Status) -> float:
        """Return the most seconds between two reports of a rank, without its preparations and its waiting."""
        last = self._last_statuses.get(rank)
        if last and status.number > last.number and last.phase in (Phase.FIRST_STEP, Phase.STEPS):
            seconds = (status.monotonic_seconds - last.monotonic_seconds) / (status.number - last.number)
            self._silences[rank] = max(self._silences.get(rank, 0.0), seconds)
        self._last_statuses[rank] = status
        return self._silences.get(rank, 0.0)

    def _exit_code(self) -> int | None:
        """Return how its processes ended; over several hosts the first exit code but 0. None if they have not."""
        exit_code = self.exchange.exit_code()
        here = self.launcher.exit_code() if exit_code is None else exit_code
        codes = [here, *(self.others.exit_codes() if self.others else ())]
        return next(filter(None, codes), None if None in codes else 0)

    def ask_to_finish(self) -> bool:
        """Ask for what has been measured; say whether there is anything. The first turn warms up."""
        if self.wait.turn <= 1 and self._granted_turn < 1:
            return False
        for turn in (self.wait.turn, self.wait.turn + 1):
            if turn > self._granted_turn:
                self._tell(turn, Grant(finish=True, beside_others=True))
        return True

    def records(self) -> list[dict[str, Any]]:
        """Return what each rank measured."""
        return [read_json(self.exchange.record(rank), nonfinite=True) for rank in self.ranks]

    def end(self) -> None:
        """End its processes."""
        self.launcher.leave(self)


class LauncherProcess:
    """One `accelerate launch`, and the launches of cases whose processes it starts.

    Args:
        launches: Alike, as `grouped` returns them.
        stack: Ends the processes when it is closed.
        command: What starts them.
        hosts: Where processes of a case over several hosts run; only its own launch is then started.

    Attributes:
        launches: Those that have not come to an end.
        process: `accelerate launch` on this host; None before it is started.
    """

    def __init__(
        self, launches: list[CaseLaunch], stack: contextlib.ExitStack, command: Command, hosts: Hosts | None = None
    ) -> None:
        self.launches = launches
        self.process: subprocess.Popen[bytes] | None = None
        self._hosts = hosts if launches[0].case.num_hosts > 1 else None
        self._command = command
        self._stack = stack.enter_context(contextlib.ExitStack())
        self._root = self._stack.enter_context(temporary_directory(LAUNCHES_PREFIX))

    def start(self) -> list[CaseLaunch]:
        """Start the processes; return the launches."""
        for number, launch in enumerate(self.launches):
            (self._root / str(number)).mkdir()
            names = host_of_each_rank(launch.case, self._hosts) if self._hosts else ()
            launch.assign(self, Exchange(self._root / str(number)), names)
        case = self.launches[0].case
        command = self._command(case, None) if self._hosts is None else self._spread(case, self._hosts)
        exchanges = [launch.exchange for launch in self.launches]
        scratch = self._root / "tmp"  # torchrun leaves its logs behind
        scratch.mkdir()
        environment = child_environment(case.device, ROOT, defaults=_defaults(case))
        if self._hosts and (interface := interface_towards(self._hosts.names[1])):
            environment.setdefault(INTERFACE, interface)
        self.process = processes.start(
            [*command, *(str(exchange.assignment) for exchange in exchanges)],
            cwd=ROOT,
            environment={**environment, FOLDER_VARIABLE: str(references_folder()), "TMPDIR": str(scratch)},
            log=exchanges[0].launcher_log,
        )
        self._stack.callback(processes.end, self.process)
        if others := self.launches[0].others:
            self._stack.callback(others.leave)
        return list(self.launches)

    def _spread(self, case: Case, hosts: Hosts) -> Sequence[str]:
        """Start the nodes of a case on other hosts; return the command of this one."""
        port = free_port()
        commands = [self._command(case, Rendezvous(node, hosts.names[0], port)) for node in range(case.num_hosts)]
        (launch,) = self.launches
        launch.others = OtherNodes.of(case, hosts, launch.exchange, commands, _defaults(case))
        launch.others.start(self._stack)
        return commands[0]

    def exit_code(self) -> int | None:
        """Return the launcher's exit code, if it has ended."""
        return self.process.poll() if self.process else None

    def end(self) -> None:
        """End all its processes, and remove the folder."""
        self._stack.close()

    def leave(self, launch: CaseLaunch) -> None:
        """End a launch's processes; with the last one the launcher, and remove the folder."""
        self.launches.remove(launch)
        if not self.launches:
            self.end()
        elif status := launch.exchange.status(0):
            with contextlib.suppress(psutil.Error):
                psutil.Process(status.pid).kill()


def end_at_once(launchers: Sequence[LauncherProcess]) -> None:
    """End all that launchers still run, here and on other hosts, and remove their folders."""
    running = [launcher for launcher in launchers if launcher.launches]
    for launcher in running:
        for launch in launcher.launches:
            if launch.others:
                launch.others.leave()
    processes.end(*(launcher.process for launcher in running if launcher.process))
    for launcher in running:
        launcher.end()


def grouped(launches: Sequence[CaseLaunch]) -> list[list[CaseLaunch]]:
    """Group launches that one launcher can start: single processes on the CPU, flags and environment the same.

    Forking a process that has done its imports saves seconds a case. A process that uses CUDA cannot be forked.
    """
    groups: dict[Hashable, list[CaseLaunch]] = {}
    for launch in launches:
        case = launch.case
        can_fork = hasattr(os, "fork") and case.device == "cpu" and case.num_processes == 1
        alike = (*case.launch_flags().items(), *_defaults(case).items())
        groups.setdefault(alike if can_fork else id(launch), []).append(launch)
    return list(groups.values())
