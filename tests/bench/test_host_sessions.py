"""`pytest bench --hosts` over nodes: network namespaces, which a stand-in for ssh reaches."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.results.file import Results, read
from bench.suite.machine import Machine
from tests import namespaces
from tests.bench.check_processes import until
from tests.conftest import ROOT, NodesMaker
from tests.documents import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.multiprocess]

DOCUMENT = ROOT / "docs" / "benchmarks.md"
SSH = """#!/bin/sh
while [ "$1" = -o ]; do shift 2; done
host="$1"; shift
test "$host" != "$UNREACHABLE" || { echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; }
cd / && exec ip netns exec "$NODES-${host#node}" sh -c "$*"
"""
QUICK = "--recipe mlp-compact --scaling weak --rounds 8 -p no:cacheprovider"
STUBS = """
import sys, pytest
from functools import partial
from bench.runner import session
from tests.bench import stub
session.CaseRunner = partial(session.CaseRunner, command=stub.command)
sys.exit(pytest.main(sys.argv[1:]))
"""


class Cluster:
    """Nodes, the first of which runs pytest."""

    def __init__(self, nodes: Sequence[namespaces.Node], path: Path) -> None:
        self.nodes = nodes
        self.storage = path / "results"
        self.temporary = path / "temporary"
        self.temporary.mkdir()
        programs = path / "bin"
        programs.mkdir()
        (programs / "ssh").write_text(SSH)
        (programs / "ssh").chmod(0o755)
        self.environment = {
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "NODES": nodes[0].name.rpartition("-")[0],
            "TMPDIR": str(self.temporary),
            "PYTEST_ADDOPTS": f"--benchmark-storage=file://{self.storage}",
        }

    def start(self, command: str, **variables: str) -> "subprocess.Popen[str]":
        """Start a command of a shell on the first node."""
        return self.nodes[0].start(["sh", "-c", command], cwd=ROOT, env={**self.environment, **variables})

    def start_stubs(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start `pytest` on the first node, with stubs for what is measured."""
        words = (sys.executable, "-c", STUBS, *arguments, "--hosts", "node0,node1", *shlex.split(QUICK))
        return self.start(shlex.join(words), **variables)

    def end(self, process: "subprocess.Popen[str]", code: int = 0) -> str:
        """Wait for the end of pytest; return what it printed. No process is left."""
        (said,) = namespaces.end(process, seconds=150)
        assert process.returncode == code, said
        until(lambda: not any(node.processes() for node in self.nodes), 20)
        return said

    def require_nothing_left(self) -> None:
        """Require that no temporary file is left. Who is killed leaves some, which the next session removes."""
        assert not list(self.temporary.iterdir())

    @property
    def results(self) -> Results:
        """What was stored."""
        (path,) = self.storage.rglob("*.json")
        return read(path)


@pytest.fixture
def cluster(nodes: NodesMaker, tmp_path: Path) -> Cluster:
    return Cluster(nodes(2), tmp_path)


def documented() -> list[str]:
    return [line for line in blocks_of(DOCUMENT) if "--hosts" in line]


def test_the_documented_command_measures_over_two_nodes(cluster: Cluster) -> None:
    said = cluster.end(cluster.start(f"{documented()[0]} {QUICK}"))
    (result,) = cluster.results.cases
    assert result.case.id.endswith("-p2-h2")
    (launch,) = result.launches
    assert [rank.host.name for rank in launch if rank.host] == ["node0", "node1"]
    (num_windows,) = {len(rank.arms["step"].windows) for rank in launch}
    assert 10 <= num_windows <= 16
    assert {rank.threads for rank in launch} == {Machine.here().num_cores}, (
        "a node's cores are its processes' alone"
    )
    assert launch[1].arms["probe"].windows.min() > 0, "the probe sees what disturbs the other host"
    assert "on 2 hosts, node0, node1, all alike: " in said
    cluster.require_nothing_left()


def test_the_documented_template_measures_one_host_and_two(cluster: Cluster) -> None:
    cluster.end(cluster.start(f"{documented()[1]} {QUICK}"))
    assert [result.case.num_hosts for result in cluster.results.cases] == [1, 2]
    cluster.require_nothing_left()


def test_a_node_that_is_killed_ends_its_case_and_the_next_is_measured(cluster: Cluster) -> None:
    process = cluster.start_stubs("bench/test_scaling.py", "bench/test_around.py::test_sampling")
    until(lambda: "tests.bench.stub rank" in commands_of(cluster.nodes[1]))
    cluster.nodes[1].kill()
    said = cluster.end(process, code=1)
    assert "node1: the connection to it ended: ssh ended with signal SIGKILL" in said
    assert [result.case.workload for result in cluster.results.cases] == ["sampling"]
    assert cluster.results.session.failed[0].case.endswith("-p2-h2")


def test_a_host_that_cannot_be_reached_ends_its_case_and_the_next_is_measured(cluster: Cluster) -> None:
    process = cluster.start_stubs(
        "bench/test_scaling.py", "bench/test_around.py::test_sampling", UNREACHABLE="node1"
    )
    said = cluster.end(process, code=1)
    assert "node1: could not be started: ssh ended with exit code 255" in said
    assert "port 22: No route to host" in said
    assert [result.case.workload for result in cluster.results.cases] == ["sampling"]


def test_a_node_whose_network_goes_down_ends_its_case(cluster: Cluster) -> None:
    """Steps wait for its gradients. What the stand-in for ssh needs is no network, so it still answers."""
    process = cluster.start(f"{documented()[0]} {QUICK} --suite full --num-processes 2 --stall-timeout 5")
    until(lambda: "bench.runner.worker" in commands_of(cluster.nodes[1]))
    assert process.stdout
    while "is warm" not in process.stdout.readline():
        pass
    cluster.nodes[1].plug(connected=False)
    said = cluster.end(process, code=1)
    assert "no progress for " in said
    assert "on node1" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_node_is_left_when_pytest_ends(number: int, cluster: Cluster) -> None:
    process = cluster.start_stubs("bench/test_scaling.py", "--rounds", "9999")
    until(lambda: "tests.bench.stub rank" in commands_of(cluster.nodes[1]))
    for pid in cluster.nodes[0].processes():
        if "pytest.main" in command_of(pid):
            os.kill(pid, number)
    namespaces.end(process, seconds=60)
    until(lambda: not any(node.processes() for node in cluster.nodes), 20)


def commands_of(node: namespaces.Node) -> str:
    """Return the command lines of a node's processes."""
    return "\n".join(map(command_of, node.processes()))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")
    except OSError:
        return ""
