"""What a measurement tells while it runs: that it goes on, by a clock that nobody sets, and when it does not."""

import ast
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.harness.exchange import Exchange, Grant, Phase, StatusFile, Wait, reported
from bench.harness.windows import Arm, Effort, Engine
from bench.runner import launches
from bench.runner.case_runner import CaseRunner
from bench.runner.diagnosis import CaseError
from bench.runner.launches import CaseLaunch
from bench.runner.limits import MOST_SECONDS, SLOW_PHASES, START_SECONDS, Limits
from bench.stability import convergence, determinism, health, steps, tiers
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from bench.workloads import facts
from bench.workloads.setup import CoreSetup
from bench.workloads.table import ARMS, FACTS
from gan import loop
from gan.options import TrainOptions
from gan.session.run import prepare
from gan.surface import NOWHERE, whole_batches
from tests.conftest import ROOT

EFFORT = Effort(launches=1, rounds=1, seeds=1)
MOST_STEPS = 50
"""Without a report: as many as log points are apart, where an epoch tells how far it is."""


class Silence:
    """Counts the steps since the last report, and notes whatever is no step and was not reported as such."""

    def __init__(self) -> None:
        self.steps = self.longest = 0
        self.said: list[str] = []
        self.phase = Phase.PREPARING
        self.unannounced: list[str] = []
        self.announced: list[str] = []

    def report(self, doing: str, phase: Phase = Phase.STEPS) -> None:
        self.steps = 0
        self.phase = phase
        self.said.append(doing)

    def counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.steps += 1
            self.longest = max(self.longest, self.steps)
            return step(*arguments)

        return counted

    def announced_before(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            (self.announced if self.phase in SLOW_PHASES else self.unannounced).append(name)
            return function(*arguments, **options)

        return noted


NO_STEPS = {
    convergence: ("judge_of", "features_of_state"),
    facts: ("judge_of", "convergence_checks"),
    determinism: ("save_checkpoint", "load_checkpoint"),
    health: ("diversity_ratio",),
    steps: ("build_state",),
    tiers: ("semantics", "precision_errors"),
}
"""What workloads do besides steps, however long it takes."""


@pytest.mark.parametrize("workload", ["epoch", *(row.name for row in WORKLOADS.values() if row.on_digits)])
@pytest.mark.slow
def test_long_workloads_report_their_progress(
    workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Silence()
    step = silence.counted(loop.take_step)
    monkeypatch.setattr(loop, "take_step", step)
    monkeypatch.setattr(steps, "take_step", step)
    for module, names in NO_STEPS.items():
        for name in names:
            monkeypatch.setattr(module, name, silence.announced_before(name, getattr(module, name)))
    monkeypatch.setattr(health, "HEALTH_STEPS", 100)
    monkeypatch.setattr(convergence, "CONVERGENCE_IMAGES", 3_000)
    monkeypatch.setattr(convergence, "QUALITY_MOST_IMAGES", 3_000)
    options = TrainOptions(recipe="mlp-compact", dataset="digits", batch_size=16, output=NOWHERE, num_threads=1)
    run, state = prepare(options)
    case = Case(workload=workload, recipe="mlp-compact", batch_size=16)
    setup = CoreSetup(case, whole_batches(run), state, tmp_path, {}, EFFORT, silence.report)
    if workload in FACTS:
        FACTS[workload](setup)
    for arm in ARMS[workload](setup) if workload in ARMS else ():
        silence.report("preparing")
        next(arm.steps)
    assert silence.steps < silence.longest <= MOST_STEPS
    assert len(silence.said) > 3
    assert not silence.unannounced
    assert bool(silence.announced) is (workload in FACTS)


def ticking(seconds: float) -> SimpleNamespace:
    """A `time` whose clock goes on by so much whenever it is read."""
    now = itertools.count(100.0, seconds)
    return SimpleNamespace(monotonic=lambda: next(now))


def test_a_plain_epoch_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = Silence()
    monkeypatch.setattr("bench.harness.exchange.time", ticking(0.3))
    steps = reported(iter(range(100)), silence.report, "plain")
    assert len(list(steps)) == 100
    assert 15 <= len(silence.said) <= 50


@pytest.mark.parametrize(("period", "least", "most"), [(16, 5, 50), (1, 0, 0)])
def test_a_window_of_a_long_period_reports_its_progress(
    period: int, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of steps that are alike does not: it is short, or as long as a step."""
    said: list[str] = []
    engine = Engine(EFFORT, wait=lambda: None, report=lambda doing, phase=Phase.STEPS: said.append(doing))
    monkeypatch.setattr("bench.harness.exchange.time", ticking(0.3))
    engine._window(Arm("lazy", itertools.repeat(None), period=period), 100)
    assert said.pop() == "lazy", "at its end"
    assert least <= len(said) <= most
    assert all(line.startswith("lazy, step ") for line in said)


class EndlessLauncher:
    """A launcher that goes on."""

    def exit_code(self) -> None:
        return None


class Clock:
    """A `time` that goes on while somebody sleeps. Meanwhile a rank reports, each time after so many seconds.

    Whenever the time of day is read, somebody has set it by so many hours.
    """

    def __init__(self, report: StatusFile, reports: Sequence[tuple[Any, ...]], hours: float) -> None:
        self.now = self._reported_at = 100.0
        self._report = report
        self._reports = list(reports)
        self._hours = hours
        self._num_reads = 0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        self._num_reads += 1
        return self.now + 3600 * self._hours * self._num_reads

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self._reports and self._reported_at + self._reports[0][0] <= until:
            after, *what = self._reports.pop(0)
            self._reported_at += after
            self.now = self._reported_at
            self._report(*what)
        self.now = until


Launched = Callable[..., tuple[CaseLaunch, list[str]]]


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launched]:
    """Make a launch whose only rank reports as told, by a clock of theirs; and what is said of its progress."""
    files: list[StatusFile] = []

    def make(limits: Limits, *reports: tuple[Any, ...], hours: float = 0.0) -> tuple[CaseLaunch, list[str]]:
        exchange = Exchange(tmp_path / f"launch{len(files)}" / "0")
        exchange.root.mkdir(parents=True)
        files.append(exchange.status_file(0))
        clock = Clock(files[-1], reports, hours)
        for module in ("bench.harness.exchange", "bench.runner.launches", "bench.runner.diagnosis"):
            monkeypatch.setattr(f"{module}.time", clock)
        monkeypatch.setattr("bench.runner.diagnosis.ask_where_it_stands", lambda _: None)  # of this process
        progress: list[str] = []
        launch = CaseLaunch(Case(), EFFORT, limits, on_progress=progress.append)
        launch.assign(EndlessLauncher(), exchange)  # type: ignore[arg-type]
        return launch, progress

    yield make
    for file in files:
        file.close()


EMPTY = (0, "empty", Phase.STEPS)
DONE = (0, "done", Phase.DONE)
LATE = (30, "done", Phase.DONE)
TRAINING = [(0.15, f"image {number}", Phase.STEPS) for number in range(8)]
SHORT = Limits(stall_seconds=0.6)


def test_a_rank_that_makes_progress_does_not_hang_however_long_it_takes(launched: Launched) -> None:
    launch, progress = launched(SHORT, EMPTY, *TRAINING, DONE)
    launch.complete_turn()
    assert launch.done
    assert any("step mlp-cpu-fp32-eager-b64-p1: image 5 (" in line for line in progress)


def test_a_silent_rank_hangs(launched: Launched) -> None:
    launch, _ = launched(SHORT, EMPTY, (0.1, "image 1", Phase.STEPS), LATE)
    with pytest.raises(
        CaseError, match=r"no progress for 1 s \(--stall-timeout\): rank 0 is running, in 'image 1'"
    ):
        launch.complete_turn()


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.FIRST_STEP, Phase.BETWEEN_STEPS])
def test_what_may_take_long_on_any_machine_has_its_time(phase: Phase, launched: Launched) -> None:
    launch, _ = launched(SHORT, (0, "T2", phase), (1, "done", Phase.DONE))
    launch.complete_turn()
    assert launch.done


def test_what_comes_after_a_measurement_of_nothing_has_its_time(launched: Launched) -> None:
    """The arm that is empty takes no time, and whatever a workload prepares next takes its own."""
    launch, _ = launched(
        SHORT,
        EMPTY,
        (0.1, "empty", Phase.STEPS),
        (0.1, "preparing", Phase.PREPARING),
        (1, "step", Phase.STEPS),
        DONE,
    )
    launch.complete_turn()
    assert launch.done


def test_a_rank_may_be_silent_for_longer_than_it_has_been(launched: Launched) -> None:
    """A large step on a slow machine: the first takes long, and so does the second."""
    steps = [(0, "first step", Phase.FIRST_STEP), (0.5, "step", Phase.STEPS), (1, "step", Phase.STEPS)]
    launch, _ = launched(SHORT, *steps, DONE)
    launch.complete_turn()
    assert launch.done


def test_a_rank_that_has_waited_for_long_has_its_time_to_finish(launched: Launched) -> None:
    """As after Ctrl-C while many cases take turns."""
    launch, _ = launched(SHORT, (0, "waiting", Phase.WAITING, Wait(2)), (100.1, "done", Phase.DONE))
    launch.complete_turn()
    assert not launch.done
    launches.time.sleep(100)
    assert launch.ask_to_finish()
    launch.complete_turn()
    assert launch.done


def test_a_measurement_that_was_suspended_goes_on(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-Z, or with its container."""
    launch, _ = launched(SHORT, EMPTY, (1000.3, "image 1", Phase.STEPS), DONE)
    pauses = iter([0.0, 1000.0])
    sleep = launches.time.sleep
    monkeypatch.setattr(launches.time, "sleep", lambda seconds: sleep(seconds + next(pauses, 0.0)))
    launch.complete_turn()
    assert launch.done


@pytest.mark.parametrize("hours", [-1.0, 1.0])
def test_the_wall_clock_decides_nothing(hours: float, launched: Launched) -> None:
    launch, _ = launched(SHORT, EMPTY, *TRAINING[:2], DONE, hours=hours)
    launch.grant(Grant(finish=True))
    launch.complete_turn()
    assert launch.done
    launch, _ = launched(SHORT, EMPTY, LATE, hours=hours)
    with pytest.raises(CaseError, match="no progress"):
        launch.complete_turn()


def test_times_of_day_are_stamps_only() -> None:
    """Whatever decides or is subtracted is monotonic: somebody may set the clock."""
    stamps = {
        "gan/files/environment.py",
        "gan/files/locks.py",
        "bench/results/folder.py",
    }
    found = set()
    for path in [*ROOT.glob("gan/**/*.py"), *ROOT.glob("bench/**/*.py")]:
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            read = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if read.startswith("time.time") or (
                read in ("datetime.now", "datetime.utcnow") and name not in stamps
            ):
                found.add(f"{name}: {read}")
    when_measured = {"bench/regress/pair.py: time.time", "bench/race/launch.py: time.time"}
    assert found == when_measured


def test_limits_are_those_of_the_workload_unless_told() -> None:
    step, training = Case(), Case(workload="convergence")
    assert (Limits().seconds_of(step), Limits().seconds_of(training)) == (START_SECONDS, MOST_SECONDS)
    assert Limits(case_seconds=5).seconds_of(training) == 5
    assert Limits(case_seconds=5).silence_of(training, Phase.PREPARING, 100.0) == 5


def test_progress_is_said_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    runner = CaseRunner(Limits(), say=said.append)
    monkeypatch.setattr("bench.runner.case_runner.time", ticking(1.0))
    runner._say("starting 1 case")
    for number in range(25):
        runner._say_sometimes(f"image {number}")
    assert 2 <= len(said) - 1 <= 3


def test_no_case_is_said_to_start_where_all_have_failed() -> None:
    said: list[str] = []
    CaseRunner(Limits(), say=said.append).run({Case(): Effort(launches=2, rounds=1)}, {Case(): CaseError("gone")})
    assert not said


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
@pytest.mark.parametrize("workload", ["convergence", "time_to_quality"])
def test_the_documented_command_comes_to_an_end(workload: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "bench", "-k", workload, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--benchmark-storage=file://{tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert "no progress for" not in done.stdout
    assert "1 passed" in done.stdout, done.stdout
