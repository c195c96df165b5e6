"""Nodes on one machine: network namespaces, joined by veth pairs to a bridge in a namespace of its own.

Nothing is made in the machine's own network, so the addresses cannot clash with others. Nodes share the machine's
files, as nodes of a cluster share an NFS; a command in a node that mounts something mounts it for itself alone.
Nodes know one another by name, too: node0, node1, …. As on Debian, the name of a node is to itself 127.0.1.1.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

INTERFACE = "eth0"
"""The name of every node's interface, besides the loopback `lo`."""
PREFIX = "gan-nodes"
NAME = re.compile(rf"{PREFIX}-(\d+)-(\d+)-\d+-\w+")
"""Of a namespace: process and start of its owner, network, node."""
FILES = Path("/etc/netns")
"""Where `ip netns exec` takes a namespace's own files of /etc from."""
END_SECONDS = 10
_networks = count()


class UnavailableError(Exception):
    """This machine lacks what it takes; the message says what."""


@dataclass(frozen=True)
class Node:
    """A machine, as far as its network goes.

    Attributes:
        name: Of its namespace.
        host: Its name for itself and for other nodes: node0, node1, ….
        address: On the network that all nodes share.
        port: The bridge's end of its cable.
        switch: The namespace of the bridge.
        started: The processes that were started here.
    """

    name: str
    host: str
    address: str
    port: str
    switch: str
    started: list[subprocess.Popen[str]] = field(default_factory=list, compare=False, repr=False)

    def start(
        self, command: Sequence[object], *, env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[str]:
        """Start a command here, in a process group of its own, with text pipes that hold output and errors."""
        named = ("unshare", "--uts", "sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname; exec "$@"', self.host)
        words = ["ip", "netns", "exec", self.name, *named, *map(str, command)]
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **how}
        process = subprocess.Popen(words, env={**os.environ, **(env or {})}, start_new_session=True, **how)
        self.started.append(process)
        return process

    def plug(self, *, connected: bool) -> None:
        """Plug the cable in or pull it out. Packets are then lost, and open connections stay as they are."""
        _ip("-n", self.switch, "link", "set", self.port, "up" if connected else "down")

    def set_interface(self, *, up: bool) -> None:
        """Set the node's interface up or down: programs here learn at once that no address can be reached."""
        _ip("-n", self.name, "link", "set", INTERFACE, "up" if up else "down")

    def shape(self, *netem: str) -> None:
        """Delay, limit or lose what the node sends: `shape("delay", "1ms", "rate", "1gbit")`; nothing undoes it.

        Raises:
            UnavailableError: The machine has no `tc`, or its kernel no netem.
        """
        _shape(self.name, "netem", *netem)

    def limit(self, rate: str) -> None:
        """Limit what the node sends, by the token bucket filter, which kernels without netem have, too."""
        _shape(self.name, "tbf", "rate", rate, "burst", "128kb", "latency", "400ms")

    def processes(self) -> list[int]:
        """Return the processes that run here."""
        return _processes(self.name)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes here at once, as a loss of power would with SIGKILL."""
        for process in self.started:
            process.send_signal(number)  # one that has just been started may not be here yet
        for pid in self.processes():
            _signal(pid, number)


@cache
def obstacle() -> str | None:
    """Return why there are no nodes on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"network namespaces need {package}, and there is no `{program}`"
    try:
        with make_nodes(1):
            return None
    except UnavailableError as error:
        return f"network namespaces are not allowed: {error}"


@contextmanager
def make_nodes(num_nodes: int) -> Iterator[list[Node]]:
    """Make nodes with the addresses 192.0.2.10, 192.0.2.11, …; on the way out end their processes and remove them.

    What processes left behind that were killed is removed first.

    Raises:
        UnavailableError: The machine does not allow it.
    """
    _remove_leftovers()
    beginning = f"{PREFIX}-{os.getpid()}-{_start_of(os.getpid())}-{next(_networks)}"
    switch = f"{beginning}-switch"
    nodes = [
        Node(f"{beginning}-{index}", f"node{index}", f"192.0.2.{10 + index}", f"port{index}", switch)
        for index in range(num_nodes)
    ]
    try:
        _make_switch(switch)
        for node in nodes:
            _connect(node)
            _write_names(node, nodes)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
        _remove([*(node.name for node in nodes), switch])


def end(*processes: subprocess.Popen[str], seconds: float = 60) -> list[str]:
    """Wait for processes that were started in nodes, for so long in all, and return what they wrote.

    Raises:
        subprocess.TimeoutExpired: One still runs. It is left to its node.
    """
    deadline = time.monotonic() + seconds
    return [process.communicate(timeout=max(0.1, deadline - time.monotonic()))[0] for process in processes]


def _make_switch(switch: str) -> None:
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
    _ip("-n", switch, "link", "set", "bridge", "up")


def _connect(node: Node) -> None:
    _ip("netns", "add", node.name)
    cable = ("link", "add", INTERFACE, "netns", node.name, "type", "veth", "peer", "name", node.port)
    _ip(*cable, "netns", node.switch)
    _ip("-n", node.switch, "link", "set", node.port, "master", "bridge", "up")
    _ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", INTERFACE)
    for interface in ("lo", INTERFACE):
        _ip("-n", node.name, "link", "set", interface, "up")


def _write_names(node: Node, nodes: Sequence[Node]) -> None:
    """Write the files that take the place of those in /etc. Names are looked up nowhere else: nothing waits."""
    folder = FILES / node.name
    addresses = [f"{one.address} {one.host}.example{'' if one == node else f' {one.host}'}\n" for one in nodes]
    hosts = ["127.0.0.1 localhost\n", f"127.0.1.1 {node.host}\n", *addresses]
    try:
        folder.mkdir(parents=True)
        (folder / "hosts").write_text("".join(hosts), encoding="utf-8")
        (folder / "resolv.conf").write_text("options timeout:1 attempts:1\n", encoding="utf-8")
    except OSError as error:
        raise UnavailableError(str(error)) from error


def _remove_leftovers() -> None:
    listed = subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=False).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    owners = {name: match.groups() for name in names if (match := NAME.fullmatch(name))}
    _remove([name for name, (pid, start) in owners.items() if _start_of(int(pid)) != start])


def _remove(names: Sequence[str]) -> None:
    """End all processes of namespaces and remove them; one that is not there does no harm."""
    deadline = time.monotonic() + END_SECONDS
    for name in names:
        while (pids := _processes(name)) and time.monotonic() < deadline:  # they may start more meanwhile
            for pid in pids:
                _signal(pid, signal.SIGKILL)
            time.sleep(0.02)
        subprocess.run(("ip", "netns", "delete", name), capture_output=True, check=False)
        shutil.rmtree(FILES / name, ignore_errors=True)


def _processes(name: str) -> list[int]:
    listed = subprocess.run(("ip", "netns", "pids", name), capture_output=True, text=True, check=False).stdout
    return [pid for pid in map(int, listed.split()) if not _is_zombie(pid)]


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_zombie(pid: int) -> bool:
    """Say whether a process has ended, and only waits to be asked for its exit code."""
    fields = _fields_of(pid)
    return not fields or fields[0] == "Z"


def _start_of(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; "" for one that has ended.

    Numbers of processes are used again. With its beginning, a number means one process.
    """
    fields = _fields_of(pid)
    return fields[19] if fields else ""


def _fields_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat that follow the program's name."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _shape(name: str, *discipline: str) -> None:
    if shutil.which("tc") is None:
        raise UnavailableError("a link is shaped by `tc` of iproute2, and there is none")
    _run("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", INTERFACE, "root", *discipline)


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise UnavailableError(f"{' '.join(command)}: {said[-1]}")
