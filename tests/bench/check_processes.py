"""What tests of regression checks in real processes share."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

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


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
