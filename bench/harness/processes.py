"""Processes that measure: each in a session of its own, ended with all its children, and with its owner."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

SECONDS_TO_DIE = 10
MOST_LOG_BYTES = 2**20
"""Of a log, its end. What has gone wrong is there."""


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    commanded: bool = False,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, so that Ctrl-C reaches its owner alone.

    Args:
        command: What it runs.
        cwd: Its working directory.
        environment: All its variables.
        log: Takes what it prints.
        commanded: Whether the owner writes to its standard input.
        pass_fds: Descriptors that it inherits.
    """
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE if commanded else subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )


def end(*processes: "subprocess.Popen[bytes]") -> None:
    """Kill processes and whatever they started, stopped processes included, and wait until all are gone.

    All are killed before it waits for one: on a GPU, a killed process takes seconds to be gone.
    """
    doomed = [member for process in processes for member in _kill(process)]
    for process in processes:
        process.wait()
    psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)


def _kill(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Kill a process and whatever it started, and return them."""
    doomed = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        doomed = [first, *first.children(recursive=True)]
    for member in doomed:
        with contextlib.suppress(psutil.Error):
            member.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # those of its session whose parents have gone before
    return doomed


def end_with(owner: int) -> None:
    """End this process, from now on, as soon as process `owner` is gone, however that ended.

    A stopped process cannot do so: `bench.runner.leftovers.prune` ends it in a later session.
    """
    try:
        process = psutil.Process(owner)
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while _lives(process):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(process: psutil.Process) -> bool:
    """Say whether it is the same process still: no zombie, and no other that was given its number."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def state_of(pid: int) -> str:
    """Return what a process does, as the system says: "sleeping", "stopped", …, or "gone"."""
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"


def ask_where_it_stands(pid: int) -> None:
    """Let a rank print the stack of its main thread into its log."""
    if hasattr(signal, "SIGUSR1"):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)


def ending(exit_code: int) -> str:
    """Say how a process ended.

    >>> ending(7), ending(-9), ending(-40)
    ('exit code 7', 'signal SIGKILL', 'signal 40')
    """
    if exit_code >= 0:
        return f"exit code {exit_code}"
    with contextlib.suppress(ValueError):  # real-time signals have no name
        return f"signal {signal.Signals(-exit_code).name}"
    return f"signal {-exit_code}"


def last_lines(log: Path, count: int | None = None) -> list[str]:
    """Return the last lines of a log that are not blank, or all in its last MiB; none if it cannot be read."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - MOST_LOG_BYTES))
            text = file.read(MOST_LOG_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-(count or 0) :]
