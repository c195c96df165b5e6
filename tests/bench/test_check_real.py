"""Regression checks of real training steps, in processes of their own."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.regress.judge import figures_of, verdict_of
from bench.regress.record import read_record
from gan.process import spinning
from tests.bench.check_processes import commit, git, left_behind, side_processes, until
from tests.conftest import ROOT, run_script

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
CASE = ("--case", "mlp-compact,batch_size=4")
TWO_RANKS = ("--case", "mlp-compact,batch_size=4,num_processes=2")
STEP = "state.record(run_step(state, inputs), num_images)"
LATER = """
import sys
if sys.argv[0].endswith("side.py"):
    clock = time.monotonic
    time.monotonic = lambda: clock() + 1000
"""
"""Lets the import of a module take 1,000 s, by the clock of the side that imports it."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit that holds this tree's code."""
    path = tmp_path / "repository"
    for name in ("gan", "bench"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    commit(path)
    return path


@pytest.fixture
def temporary(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where checks lay out their trees. Their processes import this project."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return temporary


def check(repository: Path, *arguments: object, command: str = "regress") -> "subprocess.CompletedProcess[str]":
    return run_script("-m", "bench", command, *arguments, cwd=repository)


def replace_step(repository: Path, code: str) -> Path:
    """Put other code in the place of a step and its record, which nothing commits; return the file."""
    loop = repository / "gan" / "loop.py"
    text = loop.read_text()
    assert text.count(f"    {STEP}") == 1
    loop.write_text(text.replace(f"    {STEP}", code))
    return loop


def test_a_pair_is_measured_judged_and_replayed(
    repository: Path, temporary: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Each side runs its own core: HEAD's takes eight steps for one and longer to import, and is not committed."""
    loop = replace_step(repository, f"    for _ in range(7):\n        run_step(state, inputs)\n    {STEP}")
    loop.write_text(loop.read_text() + LATER)
    path, summary = tmp_path / "pairs.json", tmp_path / "check.md"
    settings = ("--pairs", "1", "--quads", "12", "--inject", "5%", "--output", path)
    done = check(repository, *CASE, *settings, command="pairs")
    assert done.returncode == 0, done.stderr
    assert not left_behind(repository, temporary)
    record = read_record(path)
    assert record.revisions.head == record.revisions.base + "+"
    (pair,) = record.pairs
    (case,) = pair.cases.values()
    assert len(case.orders) == 12
    assert len(case.windows.base) == len(case.windows.head) == 24
    assert case.configuration.base == case.configuration.head
    assert case.injected["head"]["products"] > 1
    assert all(len(figure.log_ratios) == 1 for figure in figures_of(record))
    assert 1 < case.log_ratio < 3.5  # ln 8.4 is 2.13; other programs hold up one side or the other
    assert 900 < pair.startup_seconds.head - pair.startup_seconds.base < 1100
    code, again, _ = command("regress", "--replay", path, "--markdown", summary)
    assert code == verdict_of(record).exit_code == 3
    assert again.split("\n")[:8] == done.stdout.split("\n")[:8]
    assert summary.read_text().startswith("### INCONCLUSIVE: ")


@pytest.mark.nightly
def test_equal_sides_are_equally_quick(
    repository: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of one side spin on while the other begins: neither may take that for a load."""
    for variable in spinning.SETTINGS:
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "pairs.json"
    settings = ("--pairs", "2", "--quads", "30", "--inject", "0%", "--output", path)
    done = check(repository, "--case", "quickstart", *settings, command="pairs")
    assert done.returncode == 0, done.stderr
    cases = [case for pair in read_record(path).pairs for case in pair.cases.values()]
    assert len(cases) == 2
    assert min(abs(case.log_ratio) for case in cases) < 0.1, "a load beside one of them is possible"


@pytest.mark.nightly
def test_a_pair_of_several_processes_counts_the_slowest_rank(
    repository: Path, temporary: Path, tmp_path: Path
) -> None:
    """HEAD's rank 1 alone computes long in each step, between the collectives that both take part in."""
    slow = """    import os, time
    if os.environ["RANK"] == "1":
        ends = time.perf_counter() + 0.05
        while time.perf_counter() < ends:
            pass
"""
    replace_step(repository, f"{slow}    {STEP}")
    path = tmp_path / "check.json"
    done = check(repository, *TWO_RANKS, "--budget", "1s", "--output", path)
    assert done.returncode == 3, done.stderr
    assert not left_behind(repository, temporary)
    record = read_record(path)
    (pair,) = record.pairs
    (case,) = pair.cases.values()
    assert case.configuration.head["processes"] == 2
    assert case.configuration.head["batch_size"] == 8
    assert min(case.windows.head) > 0.05 * case.steps_per_window.head
    assert statistics.median(case.windows.base) < 0.05 * case.steps_per_window.base
    (checks,) = record.semantics.values()
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    ("surface", "line"),
    [
        (
            None,
            "its tree has no gan/surface.py, and revisions from before that file cannot be measured",
        ),
        pytest.param(
            *("VERSION = 0\n", "its gan/surface.py is version 0, and this check measures version 1"),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["none", "another version"],
)
def test_a_base_without_the_surface_of_this_check_is_refused(
    surface: str | None, line: str, repository: Path, temporary: Path
) -> None:
    path = repository / "gan" / "surface.py"
    whole = path.read_text()
    if surface is None:
        path.unlink()
    else:
        path.write_text(surface)
    git(repository, "commit", "--quiet", "--all", "--message", "old")
    path.write_text(whole)
    done = check(repository, *CASE, "--no-semantics")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: BASE: {line}; choose another --base"
    assert not left_behind(repository, temporary)


def test_a_check_that_is_terminated_leaves_nothing(repository: Path, temporary: Path) -> None:
    command = [sys.executable, "-m", "bench", "regress", *CASE, "--no-semantics", "--inject", "0%"]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(side_processes(temporary)) == 2)
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143
    assert printed.splitlines()[-1] == "terminated; nothing was written"
    assert not left_behind(repository, temporary)
