"""What processes that measure tell each other, and what they are given."""

import dataclasses
import math
import mmap
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.harness import processes
from bench.harness.device import peak_resident_bytes, reset_peaks
from bench.harness.exchange import STATUS_BYTES, Exchange, Grant, Phase, Wait
from bench.harness.host import DETERMINISTIC_PRODUCTS, child_environment
from bench.harness.messages import MessageError, decode, encode
from bench.harness.windows import Effort
from bench.harness.world import World, worlds
from bench.runner.assignment import Assignment
from bench.suite.cases import Case
from tests.bench.check_processes import Deaths
from tests.conftest import ROOT


@dataclass(frozen=True)
class Inner:
    phase: Phase
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None = None
    many: Sequence[Inner] = ()
    by_name: Mapping[str, Inner] = dataclasses.field(default_factory=dict)
    either: int | str | None = None


def test_a_message_comes_back_as_it_was() -> None:
    inner = Inner(Phase.FIRST_STEP, (1.5, math.inf))
    message = Outer("ä\n\udcff", inner, [inner, Inner(Phase.DONE)], {"x": inner}, 3)
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line, Inner, Outer) == message
    assert isinstance(decode(line, Outer).inner, Inner)
    case = Case(recipe="mlp-compact", precision="bf16", batch_size=24)
    assignment = Assignment(case, Effort(launches=1, rounds=4), 7, 1.5, None)
    assert decode(encode(assignment), Assignment) == assignment


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"waiting 3 0.02 1",
        b'{"message": "Outer"}',
        b'{"message": "Outer", "name": "x", "age": 3}',
        b'{"message": "Outer", "name": "x", "inner": {"phase": "asleep"}}',
        b'{"message": "Effort", "launches": 1, "rounds": 1}',
        b'["Outer"]',
        b'{"name": "x"}',
        b"[" * 200_000,
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(MessageError, match="not a message of Outer, Grant"):
        decode(line, Outer, Grant)


def test_the_last_status_stands_however_long_those_before(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    assert exchange.status(0) is None
    report = exchange.status_file(0)
    report("é" * 400)
    first = exchange.status(0)
    assert first is not None
    assert first.doing
    assert set(first.doing) == {"é"}
    report("waiting", Phase.WAITING, Wait(3, 0.002, only_replaces=True))
    last = exchange.status(0)
    assert last is not None
    assert (last.pid, last.number, last.doing) == (os.getpid(), 2, "waiting")
    assert last.wait == Wait(3, 0.002, True)
    assert (tmp_path / "rank0.status").stat().st_size == STATUS_BYTES
    (tmp_path / "rank0.status").write_bytes(b" " * STATUS_BYTES)  # as where it is being written
    assert exchange.status(0) is None


def test_a_grant_is_seen_by_whoever_waits_for_its_turn(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    exchange.grant(0, Grant())
    exchange.grant(1, Grant(0.002, finish=True))
    assert exchange.wait_for(0) == Grant(math.inf)
    assert exchange.wait_for(1) == Grant(0.002, finish=True)
    assert exchange.exit_code() is None
    exchange.set_ended(-9)
    assert exchange.exit_code() == -9


def test_a_process_finds_the_place_that_a_launcher_gave_it() -> None:
    assert World.here({}) == World() == worlds(1)[0]
    assert not World().variables
    first, second = worlds(2)
    assert (first.rank, second.rank) == (0, 1)
    assert first.port == second.port > 0
    assert World.here(second.variables) == second
    assert second.variables["LOCAL_RANK"] == "1"
    assert (second.is_first_here, second.num_here) == (False, 2)
    on_other_host = World(3, 4, 2000, first_here=2, size_here=2)
    assert World.here(on_other_host.variables) == on_other_host
    assert on_other_host.variables["LOCAL_RANK"] == "1"
    assert dataclasses.replace(on_other_host, rank=2).is_first_here


def test_children_inherit_nothing_that_changes_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "RANK", "MASTER_PORT", "OMP_NUM_THREADS", "TORCH_COMPILE_DEBUG"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PYTHONPATH", "theirs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    environment = child_environment("cpu", tmp_path, defaults={**DETERMINISTIC_PRODUCTS, "KEPT": "2"})
    assert environment["PYTHONPATH"] == os.pathsep.join([str(tmp_path), str(Path("theirs").absolute())])
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert environment["KEPT"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert not {
        "ACCELERATE_MIXED_PRECISION",
        "RANK",
        "MASTER_PORT",
        "OMP_NUM_THREADS",
        "TORCH_COMPILE_DEBUG",
    } & set(environment)
    assert child_environment("cuda")["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks cannot be reset here")
def test_a_peak_counts_from_its_reset() -> None:
    size = 64 * 2**20
    held = bytearray(os.urandom(size))
    reset_peaks()
    before = peak_resident_bytes()
    held += bytes(b"x" * size)
    assert peak_resident_bytes() - before > size / 2
    del held
    reset_peaks()
    assert peak_resident_bytes() - before < size / 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks do not say how much of them is files")
def test_a_peak_leaves_out_the_pages_of_files(tmp_path: Path) -> None:
    """Of the libraries that their parent has loaded, forks have hardly a page, and other processes all."""
    size = 64 * 2**20
    (tmp_path / "library").write_bytes(bytes(size))
    before = peak_resident_bytes()
    with (tmp_path / "library").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert not any(pages[:: mmap.PAGESIZE])
        assert peak_resident_bytes() - before < size / 2


@pytest.mark.multiprocess
def test_a_process_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """The child has a session of its own, and both are stopped."""
    script = (
        "import os, signal, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.send_signal(signal.SIGSTOP)\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    log = tmp_path / "log"
    process = processes.start([sys.executable, "-c", script], cwd=tmp_path, environment=os.environ, log=log)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
    (child,) = processes.last_lines(log)
    processes.end(process)
    assert processes.ending(process.returncode) == "signal SIGKILL"
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE


@pytest.mark.multiprocess
def test_several_processes_are_killed_before_one_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = Deaths(monkeypatch)
    places: dict[str, Any] = {"cwd": tmp_path, "environment": os.environ, "log": tmp_path / "log"}
    sleeping = [processes.start(["sleep", "60"], **places) for _ in range(3)]
    processes.end(*sleeping)
    assert deaths.at_once() == 3
    assert [processes.ending(process.returncode) for process in sleeping] == ["signal SIGKILL"] * 3


def test_the_end_of_a_log_is_read_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    assert processes.last_lines(log) == []
    log.write_bytes(b"begins\n\n\xff goes on\r\nends \n")
    assert processes.last_lines(log) == ["begins", "\ufffd goes on", "ends"]
    assert processes.last_lines(log, 1) == ["ends"]
    monkeypatch.setattr(processes, "MOST_LOG_BYTES", 10)
    assert processes.last_lines(log) == ["on", "ends"]


@pytest.mark.parametrize(
    ("exit_code", "said"), [(7, "exit code 7"), (-9, "signal SIGKILL"), (-40, "signal 40"), (-300, "signal 300")]
)
def test_how_a_process_ended_is_said_whatever_it_was(exit_code: int, said: str) -> None:
    assert processes.ending(exit_code) == said


@pytest.mark.multiprocess
def test_the_harness_imports_neither_torch_nor_gan() -> None:
    """Or a stub could not stand in for a worker, nor BASE be measured by what HEAD has."""
    modules = ", ".join(f"bench.harness.{path.stem}" for path in (ROOT / "bench" / "harness").glob("[a-z]*.py"))
    script = f"import sys, {modules}; assert not {{'torch', 'gan', 'accelerate', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
