"""Cases whose processes are spread over hosts: with stubs, and other hosts that are processes of this one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.harness.exchange import Exchange
from bench.harness.windows import Effort
from bench.runner.case_runner import CaseRunner, Outcome
from bench.runner.diagnosis import CaseError
from bench.runner.hosts import NODE, Hosts
from bench.runner.limits import Limits
from bench.suite.cases import Case
from tests.bench import stub
from tests.bench.check_processes import until

TWO = Case(workload="scaling", recipe="mlp-compact", num_processes=2, num_hosts=2, batch_size=8)
FOUR = Case(workload="scaling", recipe="mlp-compact", num_processes=4, num_hosts=2, batch_size=8)
LITTLE = Effort(launches=1, rounds=16, window_seconds=0.005, patience_seconds=0.0)
LONG = Effort(launches=1, rounds=100_000, measure_seconds=1000)
LIMITS = Limits(case_seconds=60, stall_seconds=2)
HERE = Hosts(("first", "second"), ("env", "STUB_HOST={host}", "{command}"))


def measure(
    case: Case,
    effort: Effort,
    hosts: Hosts = HERE,
    limits: Limits = LIMITS,
    seen: Callable[[Exchange], None] = lambda _: None,
) -> dict[str, Any]:
    outcomes: dict[Case, Outcome] = {}
    CaseRunner(limits, on_launch=seen, command=stub.command, hosts=hosts).run({case: effort}, outcomes)
    outcome = outcomes[case]
    if isinstance(outcome, CaseError):
        raise outcome
    return outcome


def running(*parts: str) -> list[psutil.Process]:
    """Return the processes whose command lines have one of the parts."""
    lines = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    return [process for process, line in lines.items() if any(part in line for part in parts)]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No process, and no file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    yield
    until(lambda: not running(str(tmp_path), NODE[1]), 10)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.multiprocess
def test_every_rank_is_measured_on_its_host_and_recorded_here() -> None:
    record = measure(FOUR, LITTLE)
    assert record["case"]["num_hosts"] == 2
    assert record["accelerate"]["num_machines"] == 2
    (launch,) = record["launches"]
    assert [(rank["rank"], rank["host"]["name"]) for rank in launch["ranks"]] == [
        (0, "first"),
        (1, "first"),
        (2, "second"),
        (3, "second"),
    ]
    assert {len(rank["arms"]["step"]["windows"]) for rank in launch["ranks"]} == {16}
