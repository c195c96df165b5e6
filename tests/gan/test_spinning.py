"""How threads wait for one another: as libgomp lets them, until this process waits for cores."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.harness.spinning import Spinning
from gan.options import TrainOptions
from gan.process import spinning
from gan.process.spinning import (
    ADAPTED,
    CALM,
    CONTENDED,
    LOOKS_UNTIL_CALM,
    LOOKS_UNTIL_CONTENDED,
    SETTINGS,
    WATCH,
    Contention,
    adapt_spinning,
    waited_seconds,
)
from gan.session.strategy import configure_backends, describe_process
from tests.conftest import ROOT, slow_or_nightly

BUSY = 2 * CONTENDED
MEDIUM = (CALM + CONTENDED) / 2
CALM_LOOK = CALM / 2
LINUX = pytest.mark.skipif(waited_seconds() is None, reason="this system does not say how long threads wait")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def looks(*waits: float) -> list[bool]:
    contention = Contention()
    return [contention.look(waiting) for waiting in waits]


def test_threads_are_contended_from_the_second_look_until_they_have_been_calm_for_three() -> None:
    assert (LOOKS_UNTIL_CONTENDED, LOOKS_UNTIL_CALM) == (2, 3)
    seen = looks(BUSY, BUSY, CALM_LOOK, CALM_LOOK, CALM_LOOK, BUSY)
    assert seen == [False, True, True, True, False, False]


def test_a_moment_changes_nothing() -> None:
    assert not any(looks(BUSY, CALM_LOOK, BUSY, MEDIUM, BUSY, CALM_LOOK))
    assert all(looks(BUSY, BUSY, CALM_LOOK, CALM_LOOK, BUSY, CALM_LOOK, CALM_LOOK, MEDIUM)[1:])


def test_waits_of_all_threads_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task, nanoseconds in (("17", 1_500_000_000), ("18", 250_000_000)):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(f"99 {nanoseconds} 3\n")
    (tmp_path / "19").mkdir()  # has ended
    monkeypatch.setattr(spinning, "TASKS", tmp_path)
    assert waited_seconds() == (1.75, 2)


@pytest.mark.parametrize("content", [None, "", "12", "a b c"])
def test_a_system_that_does_not_say_so_is_left_alone(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spinning, "TASKS", tmp_path / "task")
    monkeypatch.setattr(spinning, "WATCH", "a watch of nothing")
    if content is not None:
        (tmp_path / "task" / "1").mkdir(parents=True)
        (tmp_path / "task" / "1" / "schedstat").write_text(content)
    assert waited_seconds() is None
    adapt_spinning()
    assert not spinning.spinning()


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spinning, "WATCH", "a watch that nobody begins")
    monkeypatch.setenv(name, "1000")
    adapt_spinning()
    assert not any(thread.name == spinning.WATCH for thread in threading.enumerate())
    assert describe_process()["spinning"] == f"{name}=1000"


@LINUX
def test_one_watch_a_process_however_often_it_is_asked_for() -> None:
    adapt_spinning()
    adapt_spinning()
    assert Spinning(Path(spinning.__file__)).label == ADAPTED, "there is a watch, so this one changes nothing"
    num_threads = torch.get_num_threads()
    configure_backends(TrainOptions(num_threads=2))
    torch.set_num_threads(num_threads)
    assert describe_process()["spinning"] == ADAPTED
    assert [thread.name for thread in threading.enumerate()].count(WATCH) == 1


@pytest.fixture
def busy() -> Iterator[None]:
    """Twice as many busy processes as cores."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


CHILD = """
import sys, threading, time
import torch
from gan.process import spinning

def crowded():
    return any(thread.name.endswith("crowd") for thread in threading.enumerate())

def until(expected):
    began = time.monotonic()
    while crowded() is not expected and time.monotonic() - began < 60:
        torch.mm(large, large)
    assert crowded() is expected

came = False
total = 0.0

def waited():
    global total
    total += 0.0 if came else 1.0
    return total, 2

torch.set_num_threads(2)
large = torch.rand(600, 600)
if sys.argv[1] == "told":
    spinning.waited_seconds = waited
told = spinning.spin_as_told() if sys.argv[1] == "by a queue" else None
spinning.adapt_spinning()
if told:
    assert [thread.name for thread in threading.enumerate()].count(spinning.WATCH) == 1
    spinning.waited_seconds = None  # nobody looks
    told.put(True)
until(True)
came = True
if told:
    told.put(False)
    until(False)
num_crowded = 0
while sys.argv[1] == "told" and crowded():
    num_crowded = max(num_crowded, len(list(spinning.TASKS.iterdir())))
    torch.mm(large, large)
if sys.argv[1] == "told":
    began = time.monotonic()
    while len(list(spinning.TASKS.iterdir())) > num_crowded - 3 and time.monotonic() - began < 60:
        time.sleep(0.01)
    assert len(list(spinning.TASKS.iterdir())) <= num_crowded - 3
print(spinning.spinning())
"""


def require_adapted_child(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stdout.strip()) == (0, ADAPTED), done.stderr


@LINUX
@pytest.mark.multiprocess
def test_more_threads_than_cores_come_and_go_with_the_wait() -> None:
    require_adapted_child("told")


WAITING_CHILD = """
import time
import torch
from gan.process import spinning

looks = []
waited = spinning.waited_seconds
spinning.waited_seconds = lambda: looks.append(1) or waited()
spinning.adapt_spinning()
looks.clear()
time.sleep(0.8)
assert not looks
large = torch.rand(600, 600)
began = time.monotonic()
while not looks and time.monotonic() - began < 60:
    torch.mm(large, large)
assert looks
"""


@LINUX
@pytest.mark.multiprocess
def test_a_process_that_waits_for_its_turn_does_not_look() -> None:
    """Twenty of them, looking ten times a second, would be a load for the one whose turn it is."""
    done = subprocess.run(
        [sys.executable, "-c", WAITING_CHILD], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


@LINUX
@pytest.mark.multiprocess
def test_a_process_that_is_told_does_not_decide_by_itself() -> None:
    require_adapted_child("by a queue")


@pytest.mark.nightly
@LINUX
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.usefixtures("busy")
def test_they_come_beside_busy_processes_and_the_process_ends_with_them() -> None:
    require_adapted_child("beside")


@LINUX
@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(torch.accelerator.is_available(), reason="a GPU would be used")
@pytest.mark.parametrize("variable", slow_or_nightly(["", "GOMP_SPINCOUNT"], slow=[""]))
def test_launched_training_says_how_its_threads_wait(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher sets KMP_BLOCKTIME, which nobody has asked for."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    command = [*launcher, "gan/train.py", "--num-threads", "2", "--dry-run"]
    if variable:
        monkeypatch.setenv(variable, "500")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    expected = "GOMP_SPINCOUNT=500" if variable else ADAPTED
    assert f"2 thread(s) each, spinning {expected}" in " ".join(done.stdout.split()), done.stderr
