"""A node of a case on another host than pytest's: `python -m bench.runner.node`, as `--launch-template` starts it.

It talks to the process that measures over its standard streams, so that nothing is shared but a connection. It
starts the launcher of its host and passes on what its ranks report, print and record. When its input ends, or
nothing is heard for long, it ends all that it has started.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness import node_messages as m
from bench.harness import processes
from bench.harness.exchange import Exchange, Phase, Status
from bench.harness.host import child_environment
from bench.harness.messages import MessageError, decode, encode
from bench.runner.hosts import ROOT, code_digest
from bench.runner.leftovers import temporary_directory, unwritable
from gan.process.interface import VARIABLE as INTERFACE
from gan.process.interface import interface_towards
from gan.process.signals import ending_signals

NODES_PREFIX = "gan-bench-node-"
POLL_SECONDS = 0.03
STATUS_SECONDS = 0.2
"""So often a status in the middle of steps is passed on. A measurement is not to be disturbed by news of it."""
MOST_PRINTED_BYTES = 16384
"""At a time, of one log: the last ones."""
SECONDS_TO_DUMP = 0.3


class OwnerGoneError(Exception):
    """Nobody takes messages any more, nor reads why."""


class OwnerUnreachableError(Exception):
    """The program that has started this node does not pass on its standard streams."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: --launch-template has to pass the standard streams on, as ssh does without -n, and docker "
            "exec and kubectl exec with -i"
        )


class Owner:
    """The process that measures, at the other end of the standard streams.

    Attributes:
        received: Its messages; None when there will be no more.
        heard_at: When the last one came, in seconds of `time.monotonic`.

    Raises:
        OwnerUnreachableError: One of the streams is closed.
    """

    def __init__(self) -> None:
        for name in ("stdin", "stdout"):
            if getattr(sys, name) is None:  # its descriptor may be another file's by now
                raise OwnerUnreachableError(f"{name} is closed")
        self._input = os.fdopen(os.dup(0), "rb")
        self._output = os.fdopen(os.dup(1), "wb")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)  # what anything here prints is no message
        self.received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.heard_at = time.monotonic()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        for line in self._input:
            self.heard_at = time.monotonic()
            with contextlib.suppress(MessageError):  # of a newer version
                self.received.put(decode(line, *m.TO_NODE))
        self.received.put(None)

    def greet(self) -> m.Begin:
        """Say that this node is there, and return what it is to start; raise OwnerUnreachableError without it."""
        # A login shell may have printed something without a line break, as a terminal's title.
        self._write(b"\n" + encode(m.Hello(socket.gethostname(), code_digest())))
        while (message := self.received.get()) is not None:
            if isinstance(message, m.Begin):
                return message
        raise OwnerUnreachableError("stdin ended before there was anything in it")

    def send(self, message: Any) -> None:
        """Send a message; raise OwnerGoneError where nobody takes it."""
        self._write(encode(message))

    def _write(self, line: bytes) -> None:
        try:
            self._output.write(line)
            self._output.flush()
        except OSError as error:
            raise OwnerGoneError from error


@dataclass
class _Log:
    path: Path
    rank: int | None
    position: int = 0

    def new_text(self) -> str:
        """Return what was printed since, or the end of it if that is much."""
        try:
            with self.path.open("rb") as file:
                file.seek(0, os.SEEK_END)
                self.position = max(self.position, file.tell() - MOST_PRINTED_BYTES)
                file.seek(self.position)
                text = file.read()
        except FileNotFoundError:
            return ""
        self.position += len(text)
        return text.decode(errors="replace")


@dataclass
class Node:
    """The ranks on this host, and what of them the owner has been told.

    Attributes:
        begin: What was asked for.
        root: A directory for their files.
        owner: Who measures.
    """

    begin: m.Begin
    root: Path
    owner: Owner
    exchange: Exchange = field(init=False)
    _launcher: "subprocess.Popen[bytes] | None" = None
    _ended: bool = False
    _passed_on: set[tuple[str, int]] = field(default_factory=set)
    _statuses: dict[int, Status] = field(default_factory=dict)
    _told_at: dict[int, float] = field(default_factory=dict)
    _beat_at: float = 0.0

    def __post_init__(self) -> None:
        (self.root / "0").mkdir()
        self.exchange = Exchange(self.root / "0")
        self._logs = [_Log(self.exchange.log(rank), rank) for rank in self.begin.ranks]
        self._logs.append(_Log(self.exchange.launcher_log, None))

    def start(self) -> None:
        """Start the launcher."""
        here = {"owner": os.getpid(), "launched_at_seconds": time.monotonic()}
        self.exchange.assignment.write_text(json.dumps({**self.begin.assignment, **here}) + "\n", encoding="utf-8")
        scratch = self.root / "tmp"  # torchrun leaves its logs behind
        scratch.mkdir()
        variables = {**child_environment(self.begin.device, ROOT), **self.begin.variables, "TMPDIR": str(scratch)}
        interface = interface_towards(self.begin.main_host)
        if interface is not None:
            variables.setdefault(INTERFACE, interface)
        self._launcher = processes.start(
            [sys.executable, *self.begin.words, str(self.exchange.assignment)],
            cwd=ROOT,
            environment=variables,
            log=self.exchange.launcher_log,
        )

    def serve(self) -> None:
        """Pass on messages until the owner has no more."""
        while True:
            with contextlib.suppress(queue.Empty):
                message = self.owner.received.get(timeout=POLL_SECONDS)
                if message is None:
                    return
                self._take(message)
            self._pass_on()

    def end(self) -> None:
        """End all processes of this node."""
        if self._launcher is not None:
            processes.end(self._launcher)

    def _take(self, message: Any) -> None:
        if isinstance(message, m.Turn):
            self.exchange.grant(message.number, message.grant)
        elif isinstance(message, m.Look):
            self._look()

    def _look(self) -> None:
        """Let all ranks print where they stand, and say what the system says of them."""
        statuses = {rank: status for rank in self.begin.ranks if (status := self.exchange.status(rank))}
        states = {str(rank): processes.state_of(status.pid) for rank, status in statuses.items()}
        for status in statuses.values():
            processes.ask_where_it_stands(status.pid)
        time.sleep(SECONDS_TO_DUMP)
        self._pass_on_logs()
        self.owner.send(m.Stand(states))

    def _pass_on(self) -> None:
        """Tell the owner what is new. A rank that is done has its record told before."""
        assert self._launcher
        exit_code = self._launcher.poll()
        statuses = {rank: self.exchange.status(rank) for rank in self.begin.ranks}
        self._pass_on_logs()
        for message in self._new_files():
            self.owner.send(message)
        for rank, status in statuses.items():
            if status and self._is_news(rank, status):
                self._statuses[rank] = status
                self._told_at[rank] = time.monotonic()
                self.owner.send(m.Reported(rank, status))
        if exit_code is not None and not self._ended:
            self._ended = True
            if exit_code and (reason := unwritable(self.root)):
                self.owner.send(m.Printed(f"{reason}\n"))
            self.owner.send(m.LauncherEnded(exit_code))
        if time.monotonic() - self._beat_at > m.BEAT_SECONDS:
            self._beat_at = time.monotonic()
            self.owner.send(m.Beat())

    def _pass_on_logs(self) -> None:
        for log in self._logs:
            if text := log.new_text():
                self.owner.send(m.Printed(text, log.rank))

    def _new_files(self) -> Iterator[m.Recorded | m.Refused]:
        for rank in self.begin.ranks:
            record = self.exchange.record(rank)
            if ("record", rank) not in self._passed_on and record.exists():
                self._passed_on.add(("record", rank))
                yield m.Recorded(rank, json.loads(record.read_text(encoding="utf-8")))
            if ("refusal", rank) not in self._passed_on and (refusal := self.exchange.refusal(rank)):
                self._passed_on.add(("refusal", rank))
                yield m.Refused(rank, refusal)

    def _is_news(self, rank: int, status: Status) -> bool:
        last = self._statuses.get(rank)
        if last is None or status.number == last.number:
            return last is None
        in_the_middle = status.phase == last.phase == Phase.STEPS
        return not in_the_middle or time.monotonic() - self._told_at[rank] > STATUS_SECONDS


def _end_in_silence(owner: Owner, nodes: Sequence[Node]) -> None:
    """End everything when nothing was heard for long, wherever the main thread is: a full pipe may hold it."""
    while time.monotonic() - owner.heard_at < m.SILENCE_SECONDS:
        time.sleep(m.BEAT_SECONDS)
    for node in nodes:
        node.end()
    os._exit(1)


def main() -> None:
    """Serve one case."""
    for number in (*ending_signals(), signal.SIGINT):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        _serve(Owner())
    except OwnerGoneError:
        pass
    except (OwnerUnreachableError, OSError) as error:  # OSError: its disk is full, …
        sys.exit(str(error))


def _serve(owner: Owner) -> None:
    nodes: list[Node] = []
    threading.Thread(target=_end_in_silence, args=(owner, nodes), daemon=True).start()
    begin = owner.greet()
    with temporary_directory(NODES_PREFIX) as root:
        node = Node(begin, root, owner)
        nodes.append(node)
        try:
            node.start()
            node.serve()
        finally:
            node.end()


if __name__ == "__main__":
    main()
