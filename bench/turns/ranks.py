"""The processes of a launch pair: they are started, told what to do, and ended; none is left behind."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from bench.harness.host import child_environment
from bench.harness.messages import decode, encode
from bench.harness.processes import SECONDS_TO_DIE, end, ending, last_lines, start
from bench.harness.world import World, worlds
from bench.turns import messages as m
from gan.process import spinning


class Places(Protocol):
    """Where sides are: what they measure, and what measures them."""

    @property
    def root(self) -> Path:
        """A temporary directory for logs."""

    @property
    def code(self) -> Path:
        """The directory that holds the `bench` that measures."""

    @property
    def has_gan(self) -> bool:
        """Whether the trees' `gan` is measured; otherwise only subjects are."""

    @property
    def working_tree(self) -> Path | None:
        """The directory that the trees are revisions of; None if they are no copies."""

    def tree(self, side: str) -> Path:
        """Return the directory with what a side measures."""

    def cache(self, side: str) -> Path:
        """Return the directory of a side's compiler cache."""


SIDE_PROCESS = (sys.executable, "-m", "bench.turns.side")
ANSWER_SECONDS = 600.0
LOOK_SECONDS = 1.0
"""How often to look whether a process that does not answer still lives."""
MOST_LOG_BYTES = 2**26
"""A process that prints more than this is ended, before it fills the disk."""

A = TypeVar("A")


class PairError(Exception):
    """Sides could not be measured, and why, in one line: `side` is whose fault it is, and `reason` follows it."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side.upper()}: {reason}")
        self.side = side
        self.reason = reason


class NoAnswerError(PairError):
    """A side did not answer within so many `seconds`."""

    def __init__(self, side: str, reason: str, seconds: float) -> None:
        super().__init__(side, reason)
        self.seconds = seconds


class RankProcess:
    """The process of one rank of a side.

    Attributes:
        side: "base", "head", or the name of a setting.
        process: Takes commands at its standard input.
        answers: Where its answers are read.
    """

    def __init__(self, places: Places, side: str, device: str, world: World) -> None:
        self.side = side
        self.rank_label = f"rank {world.rank}: " if world.size > 1 else ""
        self._log = places.root / f"{side}-{world.rank}.log"
        reading, writing = os.pipe()
        self.answers = os.fdopen(reading, "rb", buffering=0)
        spec = m.Start(
            owner=os.getpid(),
            answers=writing,
            started_seconds=time.monotonic(),
            tree=str(places.tree(side)),
            has_gan=places.has_gan,
            working_tree=str(places.working_tree or ""),
            spinning="" if device == "cuda" else spinning.__file__,
        )
        try:
            self.process = start(
                [*SIDE_PROCESS, encode(spec).decode().strip()],
                cwd=places.code,
                environment=_environment(places, side, device, world),
                log=self._log,
                commanded=True,
                pass_fds=(writing,),
            )
        finally:
            os.close(writing)

    @property
    def name(self) -> str:
        """The side, and the rank if there are several."""
        return f"{self.side.upper()} {self.rank_label}".rstrip(": ")

    def fileno(self) -> int:
        """Return the descriptor that answers come from, for `select`."""
        return self.answers.fileno()

    def send(self, command: m.SideCommand[Any]) -> None:
        """Give a command; raise PairError if the process has gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(encode(command))
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Return the answer to the last command; raise PairError."""
        line = b""
        while not line.endswith(b"\n"):
            part = self.answers.read(65536)
            if not part:
                raise self._gone()
            line += part
        answer = decode(line, *m.SIDE_ANSWERS)
        if isinstance(answer, m.Failure):
            raise PairError(self.side, f"{self.rank_label}{answer.reason}")
        return answer

    def require_well(self) -> None:
        """Raise PairError if the process has gone, whoever holds its pipe, or prints without end."""
        if self.process.poll() is not None and not select.select([self], [], [], 0)[0]:
            raise self._gone()  # without a last answer
        if self._log.stat().st_size > MOST_LOG_BYTES:
            raise PairError(self.side, f"{self.rank_label}it printed more than {MOST_LOG_BYTES // 2**20} MiB")

    def _gone(self) -> PairError:
        try:
            exit_code = self.process.wait(SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return PairError(self.side, f"{self.rank_label}it closed its pipe, and goes on")
        printed = "".join(f": {line}" for line in last_lines(self._log, 1))
        if exit_code == -signal.SIGKILL:
            printed = "; has the machine run out of memory?"
        return PairError(self.side, f"{self.rank_label}its process ended with {ending(exit_code)}{printed}")

    def resident_bytes(self) -> int:
        """Return the host memory that the process holds; 0 if it has gone."""
        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0


def end_at_once(started: Sequence[RankProcess]) -> None:
    """Kill processes and whatever they started, and close their pipes."""
    end(*(rank.process for rank in started))
    for rank in started:
        for pipe in (rank.process.stdin, rank.answers):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


def _environment(places: Places, side: str, device: str, world: World) -> dict[str, str]:
    imported_from = (places.code, places.tree(side)) if places.has_gan else (places.code,)
    return {
        **child_environment(device, *imported_from),
        "TORCHINDUCTOR_CACHE_DIR": str(places.cache(side) / "inductor"),
        "TRITON_CACHE_DIR": str(places.cache(side) / "triton"),
        "TORCH_EXTENSIONS_DIR": str(places.cache(side) / "extensions"),  # by name alone, whatever their source
        **world.variables,
    }


@dataclass(frozen=True)
class SideRanks:
    """One side's processes, in the order of their ranks. All get the same commands.

    Attributes:
        ranks: The processes.
        answer_seconds: The most that an answer may take; None stands for ANSWER_SECONDS.
    """

    ranks: Sequence[RankProcess]
    answer_seconds: float | None = None

    def send(self, command: m.SideCommand[Any]) -> None:
        """Give a command to all ranks."""
        for process in self.ranks:
            process.send(command)

    def ask(self, command: m.SideCommand[A]) -> list[A]:
        """Give a command and return each rank's answer; raise PairError."""
        self.send(command)
        return answers_of(self.ranks, self.answer_seconds)

    def resident_bytes(self) -> int:
        """Return the host memory that the side's processes hold."""
        return sum(process.resident_bytes() for process in self.ranks)

    def run(self, num_steps: int) -> m.Window:
        """Take a window, which is as long as that of the slowest rank."""
        windows = self.ask(m.TakeWindow(num_steps))
        return m.Window(
            max(window.seconds for window in windows),
            sum(window.num_compilations for window in windows),
            max(window.waited_seconds for window in windows),
        )


def answers_of(ranks: Sequence[RankProcess], answer_seconds: float | None = None) -> list[Any]:
    """Return each process's answer; raise PairError for the first that fails, whichever that is."""
    most_seconds = ANSWER_SECONDS if answer_seconds is None else answer_seconds
    answers: dict[RankProcess, Any] = {}
    deadline = time.monotonic() + most_seconds
    while waiting := [process for process in ranks if process not in answers]:
        seconds_left = deadline - time.monotonic()
        ready, _, _ = select.select(waiting, [], [], max(0.0, min(LOOK_SECONDS, seconds_left)))
        if not ready and seconds_left > 0:
            for process in waiting:
                process.require_well()
            continue
        if not ready:
            first, *others = waiting
            also = f" (nor from {', '.join(process.name for process in others)})" if others else ""
            reason = f"{first.rank_label}no answer for {most_seconds:g} s{also}; all were ended"
            raise NoAnswerError(first.side, reason, most_seconds)
        answers |= {process: process.receive() for process in ready}
        deadline = time.monotonic() + most_seconds
    return [answers[process] for process in ranks]


def ask_all(sides: Mapping[str, SideRanks], command: m.SideCommand[A]) -> dict[str, list[A]]:
    """Let all sides do at once what is not timed; return each rank's answer."""
    for side in sides.values():
        side.send(command)
    return answers_of_all(sides)


def answers_of_all(sides: Mapping[str, SideRanks]) -> dict[str, list[Any]]:
    """Return each rank's answer to what its side was told last."""
    processes = [process for side in sides.values() for process in side.ranks]
    answers = iter(answers_of(processes, next(iter(sides.values())).answer_seconds))
    return {name: [next(answers) for _ in side.ranks] for name, side in sides.items()}


@contextmanager
def processes(
    places: Places, sides: Sequence[str], device: str, num_processes: int = 1
) -> Iterator[dict[str, SideRanks]]:
    """Start fresh processes of some sides, in their order; end them on leaving."""
    started: list[RankProcess] = []
    try:
        for side in sides:
            for world in worlds(num_processes):
                # one by one, so that all are ended if one of them does not start
                started.append(RankProcess(places, side, device, world))  # noqa: PERF401
        yield {side: SideRanks([rank for rank in started if rank.side == side]) for side in sides}
    finally:
        end_at_once(started)
