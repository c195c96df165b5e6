"""Cases in processes of their own, and what becomes of them when those fail.

What the runner does when a process dies, hangs or is interrupted is tested with `tests.bench.stub`, which does
without torch. What torchrun says of it, and real measurements, are in the slow tests.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.harness.exchange import Exchange
from bench.harness.windows import ROUNDS_PER_TURN, Effort
from bench.results.case_result import CaseResult
from bench.results.exposure import exposure
from bench.results.figures import roofline_fraction
from bench.results.messages import parts_of
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseError, CaseRefusedError
from bench.runner.launches import Command, accelerate_launch
from bench.runner.limits import Limits
from bench.suite.cases import Case
from gan.files.environment import num_available_cores
from tests.bench import stub
from tests.bench.check_processes import Deaths, until
from tests.bench.fault import inject

pytestmark = pytest.mark.multiprocess
ONE = Case(recipe="mlp-compact")
TWO = Case(workload="scaling", recipe="mlp-compact", num_processes=2, batch_size=8)
LITTLE = Effort(launches=1, rounds=4, window_seconds=0.005)
LONG = Effort(launches=1, rounds=100_000, measure_seconds=1000)
LIMITS = Limits(case_seconds=120, stall_seconds=8)
STUB_LIMITS = Limits(case_seconds=200)
SOON = Limits(case_seconds=200, stall_seconds=1)
"""Where a process hangs; elsewhere a busy machine is not to look like one that does."""


def run_case(
    case: Case,
    effort: Effort,
    limits: Limits,
    command: Command = accelerate_launch,
    on_launch: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a case by itself; raise its CaseError."""
    outcomes: dict[Case, Outcome] = {}
    CaseRunner(limits, on_launch=on_launch, command=command).run({case: effort}, outcomes)
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise outcome
    return outcome


def processes_of(exchange: Exchange) -> list[str]:
    lines = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if str(exchange.root) in line:
                lines.append(line)
    return lines


def in_turn(exchange: Exchange, rank: int, least: int = 1) -> bool:
    """Say whether a rank waits for a turn. Before the first it warms up, or prepares, which may take its time."""
    status = exchange.status(rank)
    return status is not None and status.wait is not None and status.wait.turn >= least


@pytest.mark.nightly
@pytest.mark.slow
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
    parts = parts_of(["discriminator 1", "generator 1"])
    assert list(result.seconds_per_step) == ["step", "no_sync", "explained", "solo", "plain", *parts]
    assert exposure(result) is not None
    for arm in result.seconds_per_step:
        of_ranks = [rank["arms"][arm] for rank in ranks]
        assert len({measured["steps_per_window"] for measured in of_ranks}) == 1
        assert len({len(measured["windows"]) for measured in of_ranks}) == 1
    assert all(seconds == 0 for arm in ("solo", "plain") for seconds in ranks[1]["arms"][arm]["windows"])
    assert all(seconds > 0 for launches in result.seconds_per_step.values() for seconds in launches[0])
    assert {rank["threads"] for rank in ranks} == {max(1, num_available_cores() // 2)}
    strategy = {"device": "cpu", "processes": 2, "precision": "fp32", "compile": "eager", "shared_memory": True}
    assert ranks[0]["strategy"] == strategy


@pytest.mark.nightly
@pytest.mark.slow
def test_precision_batch_and_threads_reach_the_process_that_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    case = Case(recipe="mlp-compact", precision="bf16", batch_size=24)
    record = run_case(case, LITTLE, LIMITS)
    result = CaseResult.of(record)
    assert record["launches"][0]["ranks"][0]["strategy"]["precision"] == "bf16"
    assert result.images_per_step("step") == result.images_per_step("plain") == 24
    assert result.first_rank.threads == 1
    assert 0.0 < (roofline_fraction(result) or 0.0) < 1.0


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("fault", "first", "tail"),
    [
        ("raise FloatingPointError('injected')", "rank 1 ended with exit code 1", "FloatingPointError: injected"),
        ("os.kill(os.getpid(), 9)", "rank 1 ended with signal SIGKILL", ""),
        ("__import__('time').sleep(1000)", "no progress for 8 s (--stall-timeout): rank ", "line 18 in broken"),
    ],
    ids=["raises", "killed", "hangs"],
)
def test_torchrun_names_the_rank_that_failed(
    fault: str, first: str, tail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", inject(tmp_path, fault, rank=1))
    require_failure(first, tail, lambda seen: run_case(TWO, LONG, LIMITS, on_launch=seen.append))


def require_failure(first: str, tail: str, run: Callable[[list[Exchange]], object]) -> None:
    launches: list[Exchange] = []
    with pytest.raises(CaseError) as caught:
        run(launches)
    message = str(caught.value)
    assert message.startswith(first), message
    assert tail in message
    assert "rank 1" in message
    assert 1 < len(message.splitlines()) < 20
    assert not processes_of(launches[0])


@pytest.mark.parametrize(
    ("fault", "first", "tail"),
    [
        (
            "if rank == 1: raise FloatingPointError('injected')",
            "rank 1 ended with exit code 1",
            "FloatingPointError: injected",
        ),
        ("if rank == 1: os._exit(7)", "rank 1 ended with exit code 7", ""),
        (
            "if rank == 1: os.kill(os.getpid(), 9)",
            "rank 1 ended with signal SIGKILL, as if memory has run out",
            "",
        ),
        (
            "if rank == 1: time.sleep(1000)",
            "no progress for 1 s (--stall-timeout): rank 1 is sleeping, in 'step'",
            "stub.py",
        ),
        (
            "time.sleep(1000) if rank == 0 else os.kill(os.getpid(), 19)",
            "no progress for 1 s (--stall-timeout): rank 1 is stopped, in 'step'",
            "",
        ),
    ],
    ids=["raises", "exits", "killed", "hangs", "stopped"],
)
def test_the_rank_that_fails_is_named_with_the_end_of_its_log(
    fault: str, first: str, tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_FAULT", fault)
    limits = SOON if "no progress" in first else STUB_LIMITS
    require_failure(first, tail, lambda seen: run_case(TWO, LONG, limits, stub.command, seen.append))


@pytest.mark.parametrize(("is_possible", "kind"), [(True, CaseError), (False, CaseRefusedError)])
def test_what_a_rank_says_that_refuses_is_all_that_is_said(
    is_possible: bool, kind: type[CaseError], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = f"Refusal('only in fp32', {is_possible})"
    fault = (
        "from bench.harness.exchange import Refusal; from bench.harness.rank import RankRefusedError\n"
        f"if rank == 1: raise RankRefusedError({refusal})"
    )
    monkeypatch.setenv("STUB_FAULT", fault)
    with pytest.raises(CaseError) as caught:
        run_case(TWO, LONG, STUB_LIMITS, stub.command)
    assert (type(caught.value), str(caught.value)) == (kind, "only in fp32")


def test_a_fork_that_fails_ends_its_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_FAULT", "case['recipe'] == 'mlp-dropout' and os._exit(7)")
    good = Case(recipe="mlp-compact")
    bad = Case(recipe="mlp-dropout")
    launches: list[Exchange] = []
    outcomes: dict[Case, Outcome] = {}
    effort = Effort(launches=1, rounds=40, window_seconds=0.005, patience_seconds=0.0)
    CaseRunner(STUB_LIMITS, on_launch=launches.append, command=stub.command).run(
        {good: effort, bad: effort}, outcomes
    )
    assert {exchange.root.parent for exchange in launches} == {launches[0].root.parent}
    assert str(outcomes[bad]) == "rank 0 ended with exit code 7\n  (empty)"
    assert not isinstance(outcomes[good], CaseError)
    assert len(outcomes[good]["launches"][0]["ranks"][0]["arms"]["step"]["windows"]) == 40
    assert not any(map(processes_of, launches))


def test_a_case_that_takes_too_long_is_ended() -> None:
    launches: list[Exchange] = []
    began = time.monotonic()
    with pytest.raises(CaseError, match=r"not done after 1 s \(--case-timeout\): rank 0 is"):
        run_case(ONE, LONG, Limits(1, 30), stub.command, launches.append)
    assert time.monotonic() - began < 14
    assert not processes_of(launches[0])


def test_processes_end_when_the_one_that_measures_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    folders: Any = context.SimpleQueue()

    def measure() -> None:
        run_case(TWO, LONG, LIMITS, stub.command, lambda exchange: folders.put(exchange.root))

    owner = context.Process(target=measure)
    owner.start()
    exchange = Exchange(folders.get())
    until(lambda: in_turn(exchange, 1))
    assert processes_of(exchange)
    owner.kill()
    owner.join()
    until(lambda: not processes_of(exchange))


def interrupt_when(condition: Callable[[], bool]) -> None:
    def strike() -> None:
        until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=strike, daemon=True).start()


def test_an_interruption_keeps_whole_rounds() -> None:
    launches: list[Exchange] = []
    interrupt_when(lambda: len(launches) == 2 and all(in_turn(exchange, 0, least=3) for exchange in launches))
    outcomes: dict[Case, Outcome] = {}
    with pytest.raises(KeyboardInterrupt):
        CaseRunner(STUB_LIMITS, on_launch=launches.append, command=stub.command).run(
            {ONE: LONG, TWO: LONG}, outcomes
        )
    assert list(outcomes) == [ONE, TWO]
    for outcome in outcomes.values():
        assert not isinstance(outcome, CaseError)
        for rank in outcome["launches"][0]["ranks"]:
            assert len(rank["arms"]["step"]["windows"]) >= 2 * ROUNDS_PER_TURN
    assert not any(map(processes_of, launches))


def test_an_interruption_ends_all_processes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = Deaths(monkeypatch)
    launches: list[Exchange] = []
    interrupt_when(lambda: len(launches) == 2)
    with pytest.raises(KeyboardInterrupt):
        CaseRunner(STUB_LIMITS, on_launch=launches.append, command=stub.command).run({ONE: LONG, TWO: LONG}, {})
    assert deaths.at_once() == 2
    assert not any(map(processes_of, launches))


def test_an_interruption_while_processes_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.runner.case_runner.num_available_cores", lambda: 1)
    launches: list[Exchange] = []

    def interrupted(exchange: Exchange) -> None:
        launches.append(exchange)
        raise KeyboardInterrupt

    outcomes: dict[Case, Outcome] = {}
    with pytest.raises(KeyboardInterrupt):
        CaseRunner(STUB_LIMITS, on_launch=interrupted, command=stub.command).run({TWO: LONG, ONE: LONG}, outcomes)
    assert not outcomes
    assert len(launches) == 1
    assert not processes_of(launches[0])
    assert not launches[0].root.exists()
