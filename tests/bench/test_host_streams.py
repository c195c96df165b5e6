"""A node on another host and its owner, where more than their messages goes through the streams, or less."""

import shlex
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.harness import node_messages as m
from bench.harness.exchange import Exchange
from bench.runner import other_node
from bench.runner.diagnosis import NodeEnd, failed_on_hosts
from bench.runner.hosts import NODE, Hosts
from bench.runner.launches import CaseLaunch, end_at_once
from bench.runner.leftovers import unwritable
from bench.runner.limits import Limits
from bench.runner.node import Node
from bench.runner.other_node import OtherNode, end_nodes
from bench.runner.spread import OtherNodes
from tests.bench.check_processes import until
from tests.bench.test_hosts import LITTLE, TWO

QUIT = m.Begin(("-c", "raise SystemExit(7)"), {}, "cpu", {}, "127.0.0.1", ())
"""What a node is to start: a program that ends at once."""
COMMAND = shlex.join((sys.executable, *NODE))
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full, which is a full disk")


@pytest.fixture
def exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """An exchange beside which a node's log is written. Nodes have the same temporary directory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "0").mkdir()
    return Exchange(tmp_path / "0")


def reach(exchange: Exchange, script: str) -> OtherNode:
    """Start a node by a shell's script, and return it when it has ended or is lost. Its connection is closed."""
    hosts = Hosts(("first", "second"), ("sh", "-c", script))
    node = OtherNode(1, hosts, QUIT, exchange, exchange.root.parent / "node1.log")
    node.start()
    try:
        until(lambda: node.lost or node.exit_code is not None)
    finally:
        end_nodes([node])
    return node


def said_of(node: OtherNode) -> str:
    """Return what the case says that the node ends."""
    end = NodeEnd(node.host, (), node.exit_code, node.lost, node.log)
    return str(failed_on_hosts(node.exchange, 0, [end]))


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "noise",
    ["printf '\\033]0;title\\007'", "printf '[%.0s' $(seq 100000); echo; printf '> '"],
    ids=["title", "brackets and a prompt"],
)
def test_what_a_login_shell_prints_without_a_line_break_hides_no_message(noise: str, exchange: Exchange) -> None:
    node = reach(exchange, f"{noise}; exec {COMMAND}")
    assert (node.lost, node.exit_code) == ("", 7)


@pytest.mark.multiprocess
@pytest.mark.parametrize("noise", ["cat /dev/zero", "yes"])
def test_a_node_that_prints_without_end_is_given_up(
    noise: str, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_node, "MOST_NOISE_BYTES", 2**12)
    node = reach(exchange, f"exec {noise}")
    assert "second: prints something else than messages, as " in said_of(node)
    assert node.log.stat().st_size <= 2**12


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("streams", "reason"),
    [("</dev/null", "stdin ended before"), ("<&-", "stdin is closed: "), (">&-", "stdout is closed: ")],
)
def test_a_node_whose_streams_are_not_passed_on_says_so(streams: str, reason: str, exchange: Exchange) -> None:
    node = reach(exchange, f"exec {COMMAND} {streams}")
    said = said_of(node)
    assert "sh ended with exit code 1\nits log ends:\n  " in said
    assert reason in said
    assert "--launch-template has to pass the standard streams on" in said
    assert "Traceback" not in said


@pytest.mark.multiprocess
def test_nothing_comes_before_what_a_node_is_to_start(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a beat, though the connection be slow."""
    sent: list[Any] = []
    send = OtherNode.send

    def slowly(self: OtherNode, message: Any) -> None:
        if isinstance(message, m.Begin):
            time.sleep(0.1)
        send(self, message)
        sent.append(message)

    monkeypatch.setattr(OtherNode, "send", slowly)
    monkeypatch.setattr(m, "BEAT_SECONDS", 0.01)
    assert reach(exchange, f"exec {COMMAND}").exit_code == 7
    assert sent[0] == QUIT


@pytest.mark.multiprocess
def test_nodes_of_several_cases_have_their_time_to_leave_together(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of several cases that are interrupted, each of which waits for its own. Waiting alone takes time."""
    now = 100.0
    given = []
    wait = subprocess.Popen.wait

    def wait_in_vain(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
        nonlocal now
        if timeout is None:
            return wait(process)
        given.append(timeout)
        now += timeout
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(other_node, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(subprocess.Popen, "wait", wait_in_vain)
    hosts = Hosts(("first", "second"), ("sleep", "60"))
    nodes = [OtherNode(1, hosts, QUIT, exchange, exchange.root.parent / "node1.log") for _ in range(3)]
    for node in nodes:
        node.start()
    launchers = []
    for node in nodes:
        launch = SimpleNamespace(others=OtherNodes(TWO, hosts, exchange, [node]))
        launchers.append(SimpleNamespace(launches=[launch], process=None, end=partial(end_nodes, [node])))
    end_at_once(launchers)  # type: ignore[arg-type]
    assert given == [other_node.SECONDS_TO_LEAVE, 0.0, 0.0]
    assert all("sleep ended with signal SIGKILL" in node.lost for node in nodes)


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A directory where the disk is full when `unwritable` tries it."""
    (tmp_path / "probe").symlink_to(FULL)
    return tmp_path


class Told:
    """An owner that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(message)


@needs_full
def test_a_full_disk_is_noticed_and_nothing_is_left_of_the_trial(tmp_path: Path, full_disk: Path) -> None:
    assert unwritable(full_disk) == f"{tmp_path}: No space left on device; TMPDIR names another place"
    assert unwritable(full_disk) == ""
    assert not list(tmp_path.iterdir())


@needs_full
@pytest.mark.multiprocess
def test_a_node_says_that_its_disk_is_full_when_its_launcher_has_failed(full_disk: Path) -> None:
    """What the ranks and the launcher say of it is on that disk."""
    owner: Any = Told()
    node = Node(QUIT, full_disk, owner)
    node.start()
    assert node._launcher
    node._launcher.wait()
    node._pass_on()
    printed, ended = (one for one in owner.messages if not isinstance(one, m.Beat))
    assert printed == m.Printed(f"{full_disk}: No space left on device; TMPDIR names another place\n")
    assert ended == m.LauncherEnded(7)


@needs_full
def test_a_case_that_fails_on_a_full_disk_says_so(full_disk: Path) -> None:
    launch = CaseLaunch(TWO, LITTLE, Limits())
    launch.exchange = Exchange(full_disk)
    assert "No space left on device; TMPDIR names another place" in str(launch._failed(1))


def test_a_long_line_of_a_log_is_shown_in_part(exchange: Exchange) -> None:
    log = exchange.root.parent / "node1.log"
    log.write_text(f"begins{' x' * 5000} ends\n", encoding="utf-8")
    said = str(failed_on_hosts(exchange, 0, [NodeEnd("second", (), 1, "", log)]))
    *_, line = said.splitlines()
    assert line.startswith("  begins x x")
    assert line.endswith("x ends")
    assert len(line) < 500
