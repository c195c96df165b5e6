"""Cases in processes of their own, and what becomes of them when those fail."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.harness.exchange import Exchange
from bench.harness.windows import Effort
from bench.results.case_result import CaseResult
from bench.results.figures import roofline_fraction
from bench.runner.diagnosis import CaseError
from bench.runner.limits import Limits
from bench.runner.turns import run_case
from bench.suite.cases import Case
from gan.files.environment import num_available_cores
from tests.bench.fault import inject
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
TWO = Case(workload="scaling", recipe="mlp-compact", num_processes=2, batch_size=8)
LITTLE = Effort(launches=1, rounds=4, window_seconds=0.005)
LONG = Effort(launches=1, rounds=100_000, measure_seconds=1000)
LIMITS = Limits(case_seconds=120, stall_seconds=8)


def processes_of(exchange: Exchange) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if str(exchange.root) in line:
                found.append(line)
    return found


def test_two_processes_record_the_same_windows_of_every_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    record = run_case(TWO, LITTLE, LIMITS)
    result = CaseResult.of(record)
    assert not list(tmp_path.iterdir())
    (launch,) = record["launches"]
    ranks = launch["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert list(result.seconds_per_step) == ["step", "no_sync", "solo", "plain"]
    for arm in result.seconds_per_step:
        of_ranks = [rank["arms"][arm] for rank in ranks]
        assert len({measured["steps_per_window"] for measured in of_ranks}) == 1
        assert len({len(measured["windows"]) for measured in of_ranks}) == 1
    assert all(seconds == 0 for arm in ("solo", "plain") for seconds in ranks[1]["arms"][arm]["windows"])
    assert all(seconds > 0 for launches in result.seconds_per_step.values() for seconds in launches[0])
    assert {rank["threads"] for rank in ranks} == {max(1, num_available_cores() // 2)}
    assert ranks[0]["strategy"] == {"device": "cpu", "processes": 2, "precision": "fp32", "compile": "eager"}


def test_precision_batch_and_threads_reach_the_process_that_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = Case(recipe="mlp-compact", precision="bf16", batch_size=24)
    record = run_case(case, LITTLE, LIMITS)
    result = CaseResult.of(record)
    assert record["launches"][0]["ranks"][0]["strategy"]["precision"] == "bf16"
    assert result.images_per_step("step") == result.images_per_step("plain") == 24
    assert result.first_rank.threads == 1
    assert 0.0 < (roofline_fraction(result) or 0.0) < 1.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_rank_that_is_killed_or_stopped_ends_the_case_and_leaves_no_process(number: int) -> None:
    seen: list[Exchange] = []

    def strike() -> None:
        # in a warm-up the next arm may be in preparation, which may take its time
        while not ((status := seen and seen[0].status(1)) and status.wait and status.wait.turn):
            time.sleep(0.01)
        os.kill(status.pid, number)

    threading.Thread(target=strike, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(CaseError) as caught:
        run_case(TWO, LONG, LIMITS, on_launch=seen.append)
    assert time.monotonic() - began < 45
    first, *tail = str(caught.value).splitlines()
    if number == signal.SIGKILL:
        assert first == "rank 1 ended with signal SIGKILL"
    else:
        assert first.startswith("no progress for 8 s: rank 1 is stopped, in ")
    assert tail
    assert not processes_of(seen[0])


@pytest.mark.parametrize(
    ("fault", "first", "tail"),
    [
        ("raise FloatingPointError('injected')", "rank 1 ended with exit code 1", "FloatingPointError: injected"),
        ("os._exit(7)", "rank 1 ended with exit code 7", ""),
        ("__import__('time').sleep(1000)", "no progress for 8 s: rank ", "line 18 in broken"),
    ],
    ids=["raises", "exits", "hangs"],
)
def test_the_rank_that_fails_is_named_with_the_end_of_its_log(
    fault: str, first: str, tail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", inject(tmp_path, fault, rank=1))
    seen: list[Exchange] = []
    with pytest.raises(CaseError) as caught:
        run_case(TWO, LONG, LIMITS, on_launch=seen.append)
    message = str(caught.value)
    assert message.startswith(first), message
    assert tail in message
    assert "rank 1" in message
    assert len(message.splitlines()) < 20
    assert not processes_of(seen[0])


def test_a_case_that_takes_too_long_is_ended() -> None:
    seen: list[Exchange] = []
    began = time.monotonic()
    with pytest.raises(CaseError, match=r"not done after 8 s: rank 0 is"):
        run_case(Case(recipe="mlp-compact"), LONG, Limits(8, 30), on_launch=seen.append)
    assert time.monotonic() - began < 20
    assert not processes_of(seen[0])


def test_processes_end_when_the_one_that_measures_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "measure.py"
    script.write_text(
        "from bench.suite.cases import *; from bench.runner.turns import *\n"
        f"run_case({TWO!r}, {LONG!r}, on_launch=lambda exchange: print(exchange.root, flush=True))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    exchange = Exchange(Path(owner.stdout.readline().strip()))
    _until(lambda: (status := exchange.status(1)) is not None and status.number > 20)
    owner.kill()
    owner.wait()
    _until(lambda: not processes_of(exchange))


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
