"""A node on another host, as the process that measures sees it: its files in the exchange are written here."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.harness import node_messages as m
from bench.harness import processes
from bench.harness.exchange import Exchange, StatusFile
from bench.harness.messages import MessageError, decode, encode
from bench.runner.hosts import Hosts, code_digest

SECONDS_TO_ANSWER = 120.0
"""A node that has not said hello for so long cannot be reached."""
SECONDS_TO_LEAVE = 10.0
"""After its input has ended, a node has so long to end what it has started."""
SECONDS_TO_LOOK = 3.0
MOST_MESSAGE_BYTES = 2**26
"""A longer line is no message. The record of a rank takes some 20 bytes for each window of each arm."""
MOST_NOISE_BYTES = 2**22
"""A login shell prints less, and a node that prints more prints without end."""


@dataclass
class OtherNode:
    """What runs on another host.

    Attributes:
        number: Of the node; this host's is 0.
        hosts: Among them, its own.
        begin: What it is to start.
        exchange: Takes what its ranks report, print and record.
        log: Takes what its launcher and the program that reaches it print.
        exit_code: Of its launcher, as soon as that has ended.
    """

    number: int
    hosts: Hosts
    begin: m.Begin
    exchange: Exchange
    log: Path
    exit_code: int | None = None
    _process: "subprocess.Popen[bytes] | None" = None
    _receiver: threading.Thread | None = None
    _left: threading.Event = field(default_factory=threading.Event)
    _left_at: float = 0.0
    _started_at: float = 0.0
    _heard_at: float = 0.0
    _refused: str = ""
    _states: Mapping[str, str] | None = None
    _status_files: dict[int, StatusFile] = field(default_factory=dict)
    _said_hello: bool = False
    _may_send: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        """Its host, as it was named."""
        return self.hosts.names[self.number]

    def start(self) -> None:
        """Start it, and return at once. A host that did not come for an earlier case is not tried again."""
        if reason := self.hosts.never_came.get(self.number):
            self._refused = f"{reason} (for an earlier case; it is not tried again)"
            return
        command = self.hosts.command(self.number)
        self._started_at = time.monotonic()
        try:
            with self.log.open("ab") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
        except OSError as error:
            self._refused = f"could not be started: {command[0]}: {error.strerror}"
            return
        self._process = process
        self._receiver = threading.Thread(target=self._receive, args=(process,), daemon=True)
        self._receiver.start()
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def lost(self) -> str:
        """Why nothing more will be heard of it; "" while something may be, or after its launcher has ended."""
        reason = self._why_lost()
        if reason and not self._said_hello:
            self.hosts.never_came.setdefault(self.number, reason)
        return reason

    def _why_lost(self) -> str:
        if self._process is None or self._has_said_its_end():
            return self._refused
        ended = self._process.poll()
        if ended is not None:
            self._receive_the_rest()
            if self._has_said_its_end():
                return self._refused
            what = "the connection to it ended" if self._said_hello else "could not be started"
            program = Path(self.hosts.command(self.number)[0]).name
            return f"{what}: {program} ended with {processes.ending(ended)}"
        now = time.monotonic()
        if not self._said_hello:
            late = now - self._started_at > SECONDS_TO_ANSWER
            return f"could not be started: no answer within {SECONDS_TO_ANSWER:.0f} s" if late else ""
        silence = now - self._heard_at > m.SILENCE_SECONDS
        return f"nothing was heard of it for {m.SILENCE_SECONDS:.0f} s" if silence else ""

    def _has_said_its_end(self) -> bool:
        return bool(self._refused) or self.exit_code is not None

    def send(self, message: Any) -> None:
        """Send it a message. One that is gone does not matter here: it is found out elsewhere."""
        with self._may_send, contextlib.suppress(OSError, ValueError):
            if self._process and self._process.stdin:
                self._process.stdin.write(encode(message))
                self._process.stdin.flush()

    def look(self) -> Mapping[str, str]:
        """Return what its system says of each rank, after each has printed where it stands."""
        self._states = None
        self.send(m.Look())
        until = time.monotonic() + SECONDS_TO_LOOK
        while self._states is None and time.monotonic() < until:
            time.sleep(m.BEAT_SECONDS / 20)
        return self._states or {}

    def leave(self) -> None:
        """Let it end what it has started, and return at once."""
        if not self._left.is_set():
            self._left_at = time.monotonic()
        self._left.set()
        with self._may_send, contextlib.suppress(OSError):
            if self._process and self._process.stdin:
                self._process.stdin.close()

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait until it has ended what it has started, and so the connection, but not for too long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, self._left_at + SECONDS_TO_LEAVE - time.monotonic()))

    def _close(self) -> None:
        self._receive_the_rest()
        for file in self._status_files.values():
            file.close()

    def _receive_the_rest(self) -> None:
        """Wait until all is read that it has said before its end."""
        if self._receiver:
            self._receiver.join(m.BEAT_SECONDS)

    def _beat(self) -> None:
        while not self._left.wait(m.BEAT_SECONDS):
            if self._said_hello:
                self.send(m.Beat())

    def _receive(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout
        noise_bytes = 0
        with (
            contextlib.suppress(OSError),  # its files are gone: the case is over
            process.stdout as lines,
            self.log.open("ab", buffering=0) as log,
        ):
            while line := lines.readline(MOST_MESSAGE_BYTES if self._said_hello else MOST_NOISE_BYTES):
                try:
                    message = decode(line, *m.FROM_NODE)
                except MessageError:  # a login shell may print something, too
                    noise_bytes += len(line)
                    if noise_bytes >= MOST_NOISE_BYTES:
                        said = line[:20].decode(errors="replace")
                        self._refused = f"prints something else than messages, as {said!r}"
                        return
                    log.write(line)
                    continue
                self._heard_at = time.monotonic()
                self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case m.Hello():
                self._greet(message)
            case m.Printed(text, rank):
                self._append(self.log if rank is None else self.exchange.log(rank), text)
            case m.Reported(rank, status):
                if rank not in self._status_files:
                    self._status_files[rank] = self.exchange.status_file(rank)
                self._status_files[rank].put(replace(status, monotonic_seconds=time.monotonic()))
            case m.Recorded(rank, record):
                self.exchange.write_record(rank, record)
            case m.Refused(rank, refusal):
                self.exchange.refuse(rank, refusal)
            case m.Stand(states):
                self._states = states
            case m.LauncherEnded(exit_code):
                self.exit_code = exit_code

    def _greet(self, hello: m.Hello) -> None:
        self.hosts.never_came[self.number] = ""
        if hello.code == code_digest():
            self.send(self.begin)
            self._said_hello = True  # only now: `_beat` waits for it, and nothing is to come before `begin`
            return
        self._refused = (
            f"has another version of this project ({hello.hostname}: {hello.code}, here: {code_digest()}); "
            "install the same on all hosts"
        )

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def end_nodes(nodes: Sequence[OtherNode]) -> None:
    """Let nodes end what they have started, SECONDS_TO_LEAVE at most; then end the connections to them."""
    for node in nodes:
        node.leave()
    connected = [(node, node._process) for node in nodes if node._process]
    for node, process in connected:
        node._wait(process)
    processes.end(*(process for _, process in connected))
    for node, _ in connected:
        node._close()
