"""`pytest bench`: options from the axes of Case, a parameter per case, and results written whole."""

import contextlib
import os
import shlex
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.storage.file import FileStorage
from pytest_benchmark.utils import safe_dumps

from bench.benchmark_options import load_compared, settle
from bench.report.terminal import show
from bench.results.case_result import CaseResult
from bench.results.damage import KEY
from bench.results.environment import OF_A_RUN, SessionEnvironment, session_environment
from bench.results.file import MissingCase, SessionSummary
from bench.runner.launch import START_SECONDS, CaseError, Limits, Outcome, Turns
from bench.suite.cases import AXES, Case, parse_axis
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES, Suite
from bench.suite.workloads import WORKLOADS
from gan.display.tables import Printer
from gan.errors import UsageError, require_known
from gan.files.atomic import whole_file
from gan.files.text import printable
from gan.process.output import lasting_streams
from gan.process.signals import ending_signals


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("GAN benchmarks", "axes are repeated or take values with commas")
    group.addoption(
        "--suite", default="smoke", help="; ".join(f"{name}: {s.summary}" for name, s in SUITES.items())
    )
    for name, axis in AXES.items():
        group.addoption("--" + name.replace("_", "-"), action="append", dest=f"axis_{name}", help=axis.help)
    group.addoption("--launches", type=int, help="fresh processes per case (default: the suite's)")
    group.addoption("--rounds", type=int, help="timed windows of each arm per launch (default: the suite's)")
    group.addoption(
        "--case-timeout",
        type=float,
        help=f"seconds a launch may take (default: {START_SECONDS:g}; hours where it trains)",
    )
    group.addoption(
        "--stall-timeout", type=float, default=Limits.stall_seconds, help="seconds a process may be silent"
    )


class Clock:
    """A timer for pytest-benchmark that shows measured times again, a window each time it is advanced."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds: Iterator[float] = iter(())

    def __call__(self) -> float:
        """Return the replayed seconds."""
        return self.now

    def __str__(self) -> str:
        return "replayed"

    def advance(self) -> None:
        """Go on by the next window."""
        self.now += next(self.seconds)


SESSION = pytest.StashKey[Session]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read our options; let pytest-benchmark store into results/, and leave the tables to us."""
    lasting_streams()  # before the terminal's reporter takes hold of them
    try:
        session = config.stash[SESSION] = Session(config)
        settle(config, session.suite_name)
        config.option.benchmark_compare = []  # read when the storage is ours
    except UsageError as error:
        raise pytest.UsageError(printable(error)) from None
    warnings.filterwarnings("ignore", message="Not saving anything")  # pytest has said what failed
    with contextlib.suppress(ValueError):  # not the main thread
        for number in ending_signals():
            signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Take over the storage, and read what is to be compared with."""
    ours, benchmarks = session.config.stash[SESSION], session.config._benchmarksession  # type: ignore[attr-defined]
    storage = ResultsStorage(benchmarks.storage.path, benchmarks.logger, benchmarks.machine_id)
    benchmarks.storage = storage
    benchmarks.save_json = partial(storage.save_as, session.config.option.benchmark_json)
    if ours.compare:
        try:
            ours.notes = load_compared(benchmarks, ours.compare)
        except UsageError as error:
            raise pytest.UsageError(printable(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each benchmark its workload's cases; `test_step` measures the workload `step`."""
    if "case" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[SESSION]
    workload = metafunc.function.__name__.removeprefix("test_")
    cases = [case for case in session.cases if case.workload == workload]
    parameters = []
    for case in cases:
        marks = [
            pytest.mark.benchmark(timer=Clock(), group=workload),
            pytest.mark.timeout(0),
            pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"),  # by a case that failed
        ]
        if reason := impossible(case, session.machine):
            marks.append(pytest.mark.skip(reason=reason))
        parameters.append(pytest.param(case, id=case.id, marks=marks))
    metafunc.parametrize("case", parameters)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out benchmarks of which the suite has no case."""
    without = [item for item in items if "case" in getattr(item, "fixturenames", ()) and not _has_case(item)]
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which cases are going to be measured, in order."""
    cases = [
        item.callspec.params["case"]  # type: ignore[attr-defined]
        for item in session.items
        if "case" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("skip")
    ]
    session.config.stash[SESSION].due = cases


def _has_case(item: pytest.Item) -> bool:
    return isinstance(item.callspec.params["case"], Case)  # type: ignore[attr-defined]


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case], CaseResult]:
    """Measure a case in processes of its own and let pytest-benchmark replay what was measured."""
    session = request.config.stash[SESSION]
    session.turns.say = partial(_say, request.config)

    def run(case: Case) -> CaseResult:
        outcome = session.outcome_of(case)
        if outcome is None:
            if session.anything_left():
                pytest.skip("interrupted before anything was measured")
            raise KeyboardInterrupt
        if isinstance(outcome, CaseError):
            raise pytest.fail.Exception(str(outcome), pytrace=False)
        result = CaseResult.of(outcome)
        seconds = np.concatenate(result.seconds_per_step[result.own_arm]).tolist()
        clock = request.node.get_closest_marker("benchmark").kwargs["timer"]
        clock.seconds = iter(seconds)
        benchmark.extra_info[KEY] = outcome
        benchmark.pedantic(clock.advance, rounds=len(seconds))
        session.results.append(result)
        _say(request.config, f"{result.name}: {_headline(result)}")
        if session.stopped and not session.anything_left():
            request.session.shouldstop = "interrupted"
        return result

    return run


def _headline(result: CaseResult) -> str:
    if checks := result.checks:
        return f"{sum(check.passed for check in checks)} of {len(checks)} checks passed"
    ratio = result.times_plain
    return f"{1000 * result.median():,.3g} ms" + (f", {ratio.estimate:.2f} × plain" if ratio else "")


def _say(config: pytest.Config, line: str) -> None:
    manager = config.pluginmanager
    with manager.getplugin("capturemanager").global_and_fixture_disabled():
        manager.getplugin("terminalreporter").write(f"\n  {printable(line)}", flush=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note which cases were skipped, and which failed."""
    outcome: Any = yield
    report = outcome.get_result()
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")  # type: ignore[attr-defined]
    if report.skipped and isinstance(case, Case):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        item.config.stash[SESSION].skipped.append(MissingCase(f"{case.workload} {case.id}", reason))
    if report.failed and isinstance(case, Case):
        reason = str(call.excinfo.value) if call.excinfo else "failed"
        item.config.stash[SESSION].failed.append(MissingCase(f"{case.workload} {case.id}", reason or "failed"))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Iterator[None]:
    """Mark an interrupted session before it is written, and fail one that could not be."""
    ours = session.config.stash[SESSION]
    ours.interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or bool(session.shouldstop)
    yield
    storage = session.config._benchmarksession.storage  # type: ignore[attr-defined]
    if storage.errors or ours.regressed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add our environment record, and leave out what changes from run to run."""
    environment = config.stash[SESSION].environment
    machine_info[KEY] = {name: value for name, value in environment.items() if name not in OF_A_RUN}
    for name in ("hz_actual", "hz_actual_friendly"):
        machine_info["cpu"].pop(name, None)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what became of the session."""
    session = config.stash[SESSION]
    output_json[KEY] = session.summary().to_json(session.environment)


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables, and where the file is."""
    session = config.stash[SESSION]
    if not session.results:
        return
    terminalreporter.ensure_newline()
    terminalreporter.section("GAN benchmarks")
    if not session.quiet:
        printer = Printer(terminalreporter._tw._file, advice="python -m bench report --wide shows them")
        show(printer, session.results, session.summary(), SessionEnvironment.of(session.environment))
    for note in session.notes:
        terminalreporter.write_line(f"note: {note}")
    benchmarks = config._benchmarksession  # type: ignore[attr-defined]
    for name, reason in benchmarks.performance_regressions:
        session.regressed = True
        terminalreporter.write_line(f"slower: {name}: {reason}", red=True)
    benchmarks.performance_regressions.clear()  # or pytest ends with a traceback
    storage = benchmarks.storage
    for error in storage.errors:
        terminalreporter.write_line(f"error: {error}", red=True)
    if not storage.errors and storage.saved:
        saved = os.path.relpath(storage.saved)
        again = f"python -m bench report {shlex.quote(saved)}"
        terminalreporter.write_line(f"results: {saved}; look again with: {again}")
