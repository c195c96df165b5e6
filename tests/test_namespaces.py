"""The nodes of the tests themselves: they reach one another, lose their links, and leave nothing behind."""

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, NodesMaker
from tests.namespaces import INTERFACE, PREFIX, UnavailableError, end, make_nodes

pytestmark = pytest.mark.slow

SERVE = """
import socket, sys
server = socket.create_server((sys.argv[1], 4000))
print("ready", flush=True)
print(server.accept()[0].recv(9).decode())
"""
SEND = """
import socket, sys
socket.create_connection((sys.argv[1], 4000), timeout=float(sys.argv[2])).sendall(b"hello")
"""


def namespaces() -> str:
    return subprocess.run(("ip", "netns", "list"), capture_output=True, text=True, check=True).stdout


@pytest.mark.multiprocess
def test_nodes_reach_one_another(nodes: NodesMaker) -> None:
    first, _, third = nodes(3)
    server = first.start([sys.executable, "-c", SERVE, first.address])
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    client = third.start([sys.executable, "-c", SEND, first.host, 30])
    assert end(client, server) == ["", "hello\n"]


@pytest.mark.multiprocess
@pytest.mark.parametrize(("cut", "seen"), [("plug", "timed out"), ("set_interface", "Network is unreachable")])
def test_a_link_goes_down_and_up(cut: str, seen: str, nodes: NodesMaker) -> None:
    first, second = nodes(2)
    server = first.start([sys.executable, "-c", SERVE, first.address])
    assert server.stdout is not None
    server.stdout.readline()
    down, up = ({"connected": False}, {"connected": True}) if cut == "plug" else ({"up": False}, {"up": True})
    getattr(second, cut)(**down)
    assert seen in end(second.start([sys.executable, "-c", SEND, first.address, 1]))[0]
    getattr(second, cut)(**up)
    assert end(second.start([sys.executable, "-c", SEND, first.address, 30]), server) == ["", "hello\n"]


def test_a_killed_node_has_no_process_left(nodes: NodesMaker) -> None:
    first, second = nodes(2)
    sleepers = [first.start(["sh", "-c", "sleep 100 & sleep 100"]), second.start(["sleep", "100"])]
    while len(first.processes()) < 3:
        time.sleep(0.01)
    first.kill()
    assert sleepers[0].wait(60) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while first.processes() and time.monotonic() < deadline:  # until the system has removed them
        time.sleep(0.01)
    assert first.processes() == []
    assert len(second.processes()) == 1


def test_a_link_is_limited(nodes: NodesMaker) -> None:
    (node,) = nodes(1)
    node.limit("8mbit")
    assert "rate 8Mbit" in end(node.start(["tc", "qdisc", "show", "dev", INTERFACE]))[0]


def test_a_link_is_delayed(nodes: NodesMaker) -> None:
    (node,) = nodes(1)
    try:
        node.shape("delay", "1ms")
    except UnavailableError as error:
        pytest.skip(f"no netem: {error}")
    assert "delay 1ms" in end(node.start(["tc", "qdisc", "show", "dev", INTERFACE]))[0]


@pytest.mark.usefixtures("nodes")  # skips where there are none
def test_nothing_is_left_after_a_failure() -> None:
    before = namespaces()
    sleepers = []

    def fail() -> None:
        with make_nodes(2) as made:
            sleepers.append(made[0].start(["sh", "-c", "trap '' TERM INT; sleep 100 & sleep 100"]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sleepers[0].wait(60) == -signal.SIGKILL
    assert namespaces() == before


@pytest.mark.usefixtures("nodes")  # skips where there are none
@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    """Ctrl-C removes the nodes at once; those of a killed process are removed when others are made."""
    program = (
        "import time, tests.namespaces as n\n"
        "with n.make_nodes(2) as nodes:\n"
        "    nodes[1].start(['sleep', '100'])\n"
        "    print(nodes[1].name, flush=True)\n"
        "    time.sleep(100)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    name = owner.stdout.readline().strip()
    assert name.startswith(f"{PREFIX}-{owner.pid}-")
    assert name in namespaces()
    owner.send_signal(number)
    owner.wait(60)
    if number == signal.SIGKILL:
        assert name in namespaces()
        with make_nodes(1):
            pass
    assert name not in namespaces()
