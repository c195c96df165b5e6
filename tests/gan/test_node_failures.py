"""What failures of nodes look like: each ends all other nodes soon, with a line that names the rank."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gan.node_runs import BEGINNING_SECONDS, LIMIT, LONG, NUM_NODES, NodeRun, note
from tests.gan.test_resume import assert_same_run

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.multiprocess]

LAUNCHER_LIMIT = 15
"""Seconds that launchers wait for one another, where a test says so."""
LATE_SECONDS = 15


# While the run trains


def lose_rank(run: NodeRun, number: int) -> None:
    run.signal_rank(number, signal.SIGKILL)


def lose_node(run: NodeRun, number: int) -> None:
    run.nodes[number].kill()


def lose_link(run: NodeRun, number: int) -> None:
    run.nodes[number].plug(connected=False)


def stop_rank(run: NodeRun, number: int) -> None:
    run.signal_rank(number, signal.SIGSTOP)


LOSSES: dict[str, tuple[Callable[[NodeRun, int], None], int]] = {
    "killed rank": (lose_rank, 1),
    "killed rank 0": (lose_rank, 0),
    "killed node": (lose_node, 1),
    "killed node of rank 0": (lose_node, 0),
    "link down for good": (lose_link, 1),
    "SIGSTOP": (stop_rank, 1),
}


@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("failure", LOSSES)
def test_the_other_nodes_name_the_lost_one(failure: str, num_nodes: int, node_run: Callable[..., NodeRun]) -> None:
    lose, lost = LOSSES[failure]
    disturbed = node_run(num_nodes)
    disturbed.start_all(LONG)
    disturbed.wait_for_another_checkpoint()
    disturbed.fail_now()
    lose(disturbed, lost)
    others = [number for number in range(num_nodes) if number != lost]
    ended = disturbed.outcomes(*others, seconds=LIMIT + 30)
    note(failure, ended, num_nodes)
    for one in ended:
        assert one.exit_code == 1, one.output
        (line,) = one.lines
        assert line.startswith(f"rank {lost} on node{lost}: "), line
        assert re.search(rf"; rank {one.rank} waited for it in ", line), line
        assert one.seconds < LIMIT + 20
    if lose is stop_rank:
        disturbed.fail_now()
        disturbed.signal_rank(lost, signal.SIGCONT)
    if lose is not lose_node:
        (of_lost,) = disturbed.outcomes(lost, seconds=LIMIT + 30)
        note(f"{failure}: itself{', after SIGCONT' if lose is stop_rank else ''}", [of_lost], num_nodes)
        assert of_lost.exit_code == 1, of_lost.output
        assert len(of_lost.lines) == (lose is not lose_rank), of_lost.output
    disturbed.require_no_process_left()
    disturbed.require_resumable()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The directory that nodes share, on a small file system of its own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=32M", "tmpfs", folder), check=True)
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


def fill(path: Path) -> None:
    """Write to a file until there is no space left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))


@pytest.mark.parametrize("num_nodes", NUM_NODES)
def test_a_full_disk_ends_all_nodes(num_nodes: int, node_run: Callable[..., NodeRun], small_disk: Path) -> None:
    disturbed = node_run(num_nodes)
    disturbed.start_all(LONG)
    disturbed.wait_for_another_checkpoint()
    disturbed.fail_now()
    fill(small_disk / "filled")
    ended = disturbed.outcomes(*range(num_nodes), seconds=LIMIT + 30)
    note("full disk", ended, num_nodes)
    for one in ended:
        assert one.exit_code == 1, one.output
        (line,) = one.lines
        assert line.startswith("" if one.rank == 0 else "rank 0 could not save the run: "), line
        assert f"{disturbed.folder}/run/" in line, line
        assert "No space left on device" in line, line
        assert "what was saved before is whole" in line, line
    disturbed.require_no_process_left()
    (small_disk / "filled").unlink()
    disturbed.require_resumable()


@pytest.mark.parametrize("num_nodes", NUM_NODES)
def test_a_link_that_comes_back_within_the_limit_does_no_harm(
    num_nodes: int, node_run: Callable[..., NodeRun]
) -> None:
    disturbed = node_run(num_nodes)
    disturbed.start_all(LONG)
    disturbed.wait_for_another_checkpoint()
    disturbed.fail_now()
    disturbed.nodes[1].plug(connected=False)
    time.sleep(LIMIT / 2)
    disturbed.nodes[1].plug(connected=True)
    disturbed.wait_for_another_checkpoint(disturbed.checkpoints(), seconds=30)
    note(f"link down {LIMIT / 2:g} s", disturbed.outcomes(*range(num_nodes), seconds=0), num_nodes)
    assert all(launcher.poll() is None for launcher in disturbed.launchers.values())


# While the run begins


@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("first", range(3))
def test_nodes_may_start_in_any_order(first: int, num_nodes: int, node_run: Callable[..., NodeRun]) -> None:
    """One of them is first, and all others come later."""
    if first >= num_nodes:
        pytest.skip("there is no such node")
    ordered = node_run(num_nodes)
    ordered.fail_now()
    ordered.start(first, "--steps 20")
    time.sleep(LATE_SECONDS)
    assert ordered.launchers[first].poll() is None, ordered.written(first)
    for number in set(range(num_nodes)) - {first}:
        ordered.start(number, "--steps 20")
    ended = ordered.outcomes(*range(num_nodes), seconds=LATE_SECONDS + BEGINNING_SECONDS)
    note(f"node {first} first, the others {LATE_SECONDS} s late", ended, num_nodes)
    assert [one.exit_code for one in ended] == [0] * num_nodes, [one.output for one in ended]
    assert "done: " in ended[0].output
    ordered.require_no_process_left()


@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("missing", [0, 1])
def test_a_node_that_never_comes(missing: int, num_nodes: int, node_run: Callable[..., NodeRun]) -> None:
    """No process of the run starts: it is the launchers that wait, for as long as they are told."""
    waiting = node_run(num_nodes)
    waiting.fail_now()
    others = [number for number in range(num_nodes) if number != missing]
    for number in others:
        waiting.start(number, LONG, launcher=f"--rdzv_conf timeout={LAUNCHER_LIMIT}")
    ended = waiting.outcomes(*others, seconds=LAUNCHER_LIMIT + 60)
    note(f"node {missing} never comes (--rdzv_conf timeout={LAUNCHER_LIMIT})", ended, num_nodes)
    assert [one.exit_code for one in ended] == [1] * len(others), [one.output for one in ended]
    waiting.require_no_process_left()
    assert not (waiting.folder / "run").exists()


@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("late", [0, 1])
def test_a_process_that_starts_too_late(late: int, num_nodes: int, node_run: Callable[..., NodeRun]) -> None:
    """Its launcher is there in time."""
    waiting = node_run(num_nodes)
    limit = 20
    waiting.fail_now()
    for number in range(num_nodes):
        waiting.start(
            number, f"{LONG} --distributed-timeout {limit}", env={"LATE": "1000"} if number == late else None
        )
    others = [number for number in range(num_nodes) if number != late]
    ended = waiting.outcomes(*others, seconds=limit + BEGINNING_SECONDS)
    note(f"process {late} starts too late (limit {limit} s)", ended, num_nodes)
    for one in ended:
        assert one.exit_code == 1, one.output
        (line,) = one.lines
        assert re.match(rf"rank {late}\b.*: not started within {limit} s \(--distributed-timeout\)", line), line
    waiting.nodes[late].kill()
    waiting.require_no_process_left()
    assert not (waiting.folder / "run").exists()


OTHER_RUN = """
import time
from torch.distributed import TCPStore
store = TCPStore("0.0.0.0", 29500, is_master=True, wait_for_workers=False)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("num_nodes", NUM_NODES)
def test_a_taken_port(num_nodes: int, node_run: Callable[..., NodeRun]) -> None:
    """The store of another run of the first node is there."""
    taken = node_run(num_nodes)
    other = taken.nodes[0].start([sys.executable, "-c", OTHER_RUN], stderr=subprocess.DEVNULL)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    taken.fail_now()
    for number in range(num_nodes):
        taken.start(number, LONG, launcher=f"--rdzv_conf timeout={LAUNCHER_LIMIT}")
    ended = taken.outcomes(*range(num_nodes), seconds=LAUNCHER_LIMIT + 60)
    other.kill()
    note(f"taken port (--rdzv_conf timeout={LAUNCHER_LIMIT})", ended, num_nodes)
    assert [one.exit_code for one in ended] == [1] * num_nodes, [one.output for one in ended]
    assert "another process is utilizing it" in ended[0].output
    taken.require_no_process_left()
    assert not (taken.folder / "run").exists()


# Restarts


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_lost_nodes_come_back_and_the_run_ends_with_the_same_bits(
    sent: signal.Signals, num_nodes: int, node_run: Callable[..., NodeRun]
) -> None:
    """Launchers start all ranks again once the lost node's launcher is there. GAN_TEST_KILLS says how often.

    A node that is needed elsewhere is sent SIGTERM: the run saves itself before it loses it.
    """
    most_kills = int(os.environ.get("GAN_TEST_KILLS", "1"))
    options = f"--epochs {6 + 2 * most_kills} --keep-checkpoints 100"
    runs = []
    for num_kills in (0, most_kills):
        killed = node_run(num_nodes, name=f"{num_kills}-kills", elastic=True)
        killed.start_all(options)
        killed.fail_now()
        seen: set[Path] = set()
        for _ in range(num_kills):
            killed.wait_for_another_checkpoint([*seen])
            seen |= set(killed.checkpoints())
            if sent == signal.SIGKILL:
                killed.nodes[1].kill()
            else:
                killed.launchers[1].send_signal(sent)
            killed.launchers[1].wait(60)
            killed.start(1, options)
        began = time.monotonic()
        ended = killed.outcomes(*range(num_nodes), seconds=began - killed.began + 150 + 10 * most_kills)
        note(f"{num_kills} × {sent.name} to a node, elastic", ended, num_nodes)
        assert [one.exit_code for one in ended] == [0] * num_nodes, [one.output for one in ended]
        runs.append(killed.folder / "run")
    assert_same_run(*runs)


def test_an_elastic_launch_ends_with_its_first_node(node_run: Callable[..., NodeRun]) -> None:
    """It keeps the rendezvous of the launchers."""
    disturbed = node_run(2, elastic=True)
    disturbed.start_all(LONG)
    disturbed.wait_for_another_checkpoint()
    disturbed.fail_now()
    lose_node(disturbed, 0)
    ended = disturbed.outcomes(1, seconds=120)
    note("killed first node, elastic", ended, 2)
    assert ended[0].exit_code == 1, ended[0].output
    assert ended[0].lines[0].startswith("rank 0 on node0: "), ended[0].lines
    disturbed.require_no_process_left()
    disturbed.require_resumable()
