"""What tests of checks and races in real processes share."""

import contextlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.__main__ import main
from gan.process.script import exit_code_of

SIDES = ("bench.turns.side", "stub_side.py")
"""What runs the processes of a launch pair, as command lines name it."""


def git(repository: Path, *arguments: str) -> str:
    """Run git, with no settings of the user's."""
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    command = ["git", "-C", str(repository), *identity, *arguments]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def commit(repository: Path) -> None:
    """Make a repository of one commit of a directory's files."""
    git(repository, "init", "--quiet", "--initial-branch", "main")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "all")


def side_processes(temporary: Path) -> list[int]:
    """Return the process ids of the sides whose trees lie in a directory."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if any(name in command for name in SIDES) and str(temporary) in command:
                pids.append(process.pid)
    return pids


def left_behind(repository: Path, temporary: Path) -> list[object]:
    """Return the work trees, directories and processes that a check has not removed."""
    worktrees = git(repository, "worktree", "list", "--porcelain").split("\n\n")[1:]
    return [*filter(None, worktrees), *temporary.glob("gan-regress-*"), *side_processes(temporary)]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Deaths:
    """The order in which processes are killed and waited for. What ends at once is all killed first.

    On a GPU, a killed process takes seconds to be gone. Elsewhere it does not, so a clock would not tell.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._events: list[tuple[str, int]] = []
        kill = os.killpg
        wait = subprocess.Popen.wait

        def noted_kill(pid: int, number: int) -> None:
            self._events.append(("kill", pid))
            kill(pid, number)

        def noted_wait(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
            self._events.append(("wait", process.pid))
            return wait(process, timeout)

        monkeypatch.setattr(os, "killpg", noted_kill)
        monkeypatch.setattr(subprocess.Popen, "wait", noted_wait)

    def at_once(self) -> int:
        """Return how many processes were killed before any of them was waited for; 0 if one was killed later."""
        killed = {pid for what, pid in self._events if what == "kill"}
        of_killed = [(what, pid) for what, pid in self._events if pid in killed]
        first = list(itertools.takewhile(lambda event: event[0] == "kill", of_killed))
        return len(killed) if {pid for _, pid in first} == killed else 0


def has_stalled(logs: Iterator[Path]) -> bool:
    """Say whether one of the stubs that write these logs waits for ever."""
    return any("stalled" in path.read_text() for path in logs)


def hurry(monkeypatch: pytest.MonkeyPatch, logs_of_sides: Callable[[], Iterator[Path]]) -> None:
    """Let the time in which sides have to answer be over two seconds after one of them has stalled.

    Until then they may take as long as a busy machine lets them.

    Args:
        monkeypatch: Undoes it.
        logs_of_sides: As in `forked`.
    """
    stalled_at: list[float] = []

    def monotonic() -> float:
        now = time.monotonic()
        if not stalled_at and has_stalled(logs_of_sides()):
            stalled_at.append(now)
        return now + 1e6 * max(0.0, now - stalled_at[0] - 2) if stalled_at else now

    monkeypatch.setattr("bench.turns.ranks.time", SimpleNamespace(monotonic=monotonic))


@contextmanager
def forked(command: list[str], log: Path, logs_of_sides: Callable[[], Iterator[Path]]) -> Iterator[Any]:
    """A command of `bench` in a fork of this process, which has imported PyTorch; one of its sides has stalled.

    Args:
        command: The arguments of `python -m bench`.
        log: Takes what it prints.
        logs_of_sides: Returns the log of the side that stalls, once there is one.
    """

    def run() -> None:
        with log.open("w") as sys.stderr:
            sys.argv = ["bench", *command]
            code = exit_code_of(main, advice="nothing was written", interrupted="interrupted")
        sys.exit(code)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    try:
        until(lambda: has_stalled(logs_of_sides()))
        yield process
    finally:
        process.kill()
        process.join()
