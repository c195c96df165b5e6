"""`pytest bench`: options from the axes of Case, a parameter per case, and results written whole."""

import contextlib
import os
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from bench.benchmark_options import chosen_axes, chosen_hosts, chosen_limits, chosen_suite, load_compared, settle
from bench.harness.replay import ReplayedTimer
from bench.harness.windows import LEAST_ROUNDS
from bench.report.cells import milliseconds
from bench.report.notes import skipped_notes
from bench.report.terminal import show_session
from bench.results.case_result import CaseResult
from bench.results.damage import KEY
from bench.results.environment import OF_A_RUN, SessionEnvironment
from bench.results.file import MissingCase
from bench.runner.diagnosis import CaseError, CaseRefusedError
from bench.runner.hosts import DEFAULT_TEMPLATE
from bench.runner.leftovers import temporary_directory
from bench.runner.limits import MOST_SECONDS, START_SECONDS, Limits
from bench.runner.session import MeasurementSession
from bench.suite.cases import AXES, Case
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES
from bench.suite.workloads import WORKLOADS
from gan.display.tables import Printer
from gan.errors import UsageError
from gan.files.text import printable
from gan.process.output import lasting_streams
from gan.process.program import command_of
from gan.process.signals import ending_signals


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("gan", "GAN benchmarks; VALUES may be several, with commas, or the option is repeated")
    summaries = "; ".join(f"{name}: {suite.summary}" for name, suite in SUITES.items())
    group.addoption("--suite", default="smoke", metavar="NAME", help=f"{summaries} (default: smoke)")
    for name, axis in AXES.items():
        flag = "--" + name.replace("_", "-")
        group.addoption(flag, action="append", dest=f"axis_{name}", metavar="VALUES", help=axis.help)
    group.addoption(
        "--hosts",
        help="hosts over which the processes of a case are spread, this machine first: names or addresses, as in "
        "node0,node1",
    )
    group.addoption(
        "--launch-template",
        help="the command that starts a node on another host: {host} is its name, {node} its number (1 for "
        "the second), and {command} starts Python there; {arguments} instead of {command} follows another Python "
        f"(default: {DEFAULT_TEMPLATE})",
    )
    group.addoption(
        "--launches",
        type=int,
        help="fresh processes per case, but one of those that train on digits (default: the suite's)",
    )
    group.addoption(
        "--rounds",
        type=int,
        help="timed windows of each arm per launch, twice as many for sampling and for several processes; fewer, "
        f"but at least {LEAST_ROUNDS}, if they would take longer than a suite allows (default: the suite's)",
    )
    group.addoption(
        "--case-timeout",
        type=float,
        metavar="SECONDS",
        help=f"most seconds of a launch (default: {START_SECONDS:g}; {MOST_SECONDS / 3600:g} hours if it trains)",
    )
    with contextlib.suppress(ValueError):  # another plugin has an option of this name
        group.addoption(
            "--profile",
            action="store_true",
            dest="profile_steps",
            help="after its windows, take further steps of each case under PyTorch's profiler: a table of "
            "operators, and a trace for Perfetto or Chrome beside the results",
        )
    group.addoption(
        "--stall-timeout",
        type=float,
        default=Limits.stall_seconds,
        metavar="SECONDS",
        help=f"most seconds without a sign of progress (default: {Limits.stall_seconds:g})",
    )


@dataclass
class Presentation:
    """What is shown at the end of a session.

    Attributes:
        quiet: Whether to show no tables of ours.
        compare: The value of --benchmark-compare.
        notes: What to know about the stored results that are compared with.
        slower: Whether --benchmark-compare-fail fails the session.
    """

    quiet: bool
    compare: str | bool
    notes: list[str] = field(default_factory=list)
    slower: bool = False


WITHOUT_BENCHMARK = """pytest bench: needs pytest-benchmark, which is not loaded: leave -p no:benchmark out, or \
install it with: pip install -e ".[test]\""""
SESSION = pytest.StashKey[MeasurementSession]()
PRESENTATION = pytest.StashKey[Presentation]()
CLEANUP = pytest.StashKey[contextlib.ExitStack]()
TRACES_PREFIX = "gan-traces-"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read our options; let pytest-benchmark store into results/, and leave the tables to us."""
    if config.getoption("benchmark_disable", None) is None:
        raise pytest.UsageError(WITHOUT_BENCHMARK)
    config.addinivalue_line("markers", "timeout: of pytest-timeout, which may not be loaded")
    lasting_streams()  # before the terminal's reporter takes hold of them
    option = config.getoption
    try:
        suite = chosen_suite(option)
        axes = chosen_axes(option)
        hosts = chosen_hosts(option, axes)
        machine = replace(Machine.here(), num_hosts=len(hosts.names) if hosts else 1)
        cases = suite.cases(machine, axes, option("keyword"))
        config.stash[SESSION] = MeasurementSession(option("suite"), suite, cases, machine, chosen_limits(option))
        config.stash[SESSION].runner.hosts = hosts
        quiet = option("benchmark_quiet") and not option("benchmark_verbose")
        config.stash[PRESENTATION] = Presentation(quiet, option("benchmark_compare"))
        settle(config, option("suite"))
        config.option.benchmark_compare = []  # read when the storage is ours
        config.stash[CLEANUP] = contextlib.ExitStack()
    except UsageError as error:
        raise pytest.UsageError(printable(error)) from None
    warnings.filterwarnings("ignore", message="Not saving anything")  # pytest has said what failed
    with contextlib.suppress(ValueError):  # not the main thread
        for number in ending_signals():
            signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Take over the storage, and read what is to be compared with."""
    from bench.results.storage import ResultsStorage  # only here: it needs pytest-benchmark

    presentation = session.config.stash[PRESENTATION]
    benchmarks = session.config._benchmarksession  # type: ignore[attr-defined]
    storage = ResultsStorage(benchmarks.storage.path, benchmarks.logger, benchmarks.machine_id)
    if session.config.getoption("profile_steps", False):
        storage.traces = session.config.stash[CLEANUP].enter_context(temporary_directory(TRACES_PREFIX))
        session.config.stash[SESSION].runner.traces = storage.traces
    benchmarks.storage = storage
    benchmarks.save_json = partial(storage.save_as, session.config.option.benchmark_json)
    if presentation.compare:
        try:
            presentation.notes = load_compared(benchmarks, presentation.compare)
        except UsageError as error:
            raise pytest.UsageError(printable(error)) from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove temporary files."""
    if stack := config.stash.get(CLEANUP, None):
        stack.close()


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
            pytest.mark.benchmark(timer=ReplayedTimer(), group=workload),
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
    """Note which cases are going to be measured, in order; refuse more windows than a file takes."""
    cases = [
        item.callspec.params["case"]  # type: ignore[attr-defined]
        for item in session.items
        if "case" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("skip")
    ]
    session.config.stash[SESSION].due = cases
    if complaint := session.config.stash[SESSION].suite.complaint_of(cases):
        raise pytest.UsageError(printable(complaint))


def _has_case(item: pytest.Item) -> bool:
    return isinstance(item.callspec.params["case"], Case)  # type: ignore[attr-defined]


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[Case], CaseResult]:
    """Measure a case in processes of its own and let pytest-benchmark replay what was measured."""
    session = request.config.stash[SESSION]
    session.runner.say = partial(_say, request.config)

    def run(case: Case) -> CaseResult:
        outcome = session.outcome_of(case)
        if outcome is None:
            if session.anything_left():
                pytest.skip("interrupted before anything was measured")
            raise KeyboardInterrupt
        if isinstance(outcome, CaseRefusedError):
            pytest.skip(str(outcome))
        if isinstance(outcome, CaseError):
            raise pytest.fail.Exception(str(outcome), pytrace=False)
        result = CaseResult.of(outcome)
        windows = np.concatenate(result.seconds_per_step[result.own_arm]).tolist()
        timer = request.node.get_closest_marker("benchmark").kwargs["timer"]
        timer.windows = iter(windows)
        benchmark.extra_info[KEY] = outcome
        benchmark.pedantic(timer.advance, rounds=len(windows))
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
    return f"{milliseconds(result.median())} ms" + (f", {ratio.estimate:.2f} × plain" if ratio else "")


def _say(config: pytest.Config, line: str) -> None:
    manager = config.pluginmanager
    capture = manager.getplugin("capturemanager")  # None with -p no:capture
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
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
    """Mark an interrupted session before it is written; fail a session that could not be written."""
    config = session.config
    config.stash[SESSION].interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or bool(session.shouldstop)
    yield
    storage = config._benchmarksession.storage  # type: ignore[attr-defined]
    if storage.errors or config.stash[PRESENTATION].slower:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)  # or pytest says that it is unknown, and not what lacks
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Add our environment record, and leave out what changes from run to run."""
    environment = config.stash[SESSION].environment
    machine_info[KEY] = {name: value for name, value in environment.items() if name not in OF_A_RUN}
    for name in ("hz_actual", "hz_actual_friendly"):
        machine_info["cpu"].pop(name, None)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what became of the session; leave to `benchmarks` what other tools can read as steps per second."""
    session = config.stash[SESSION]
    output_json[KEY] = session.summary().to_json(session.environment)
    written = output_json["benchmarks"]
    output_json["benchmarks"] = [benchmark for benchmark in written if _in_windows(benchmark)]
    output_json[KEY]["without_windows"] = [benchmark for benchmark in written if not _in_windows(benchmark)]


def _in_windows(benchmark: dict[str, Any]) -> bool:
    return WORKLOADS[benchmark["extra_info"][KEY]["case"]["workload"]].in_windows


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables, and where the file is."""
    session = config.stash[SESSION]
    presentation = config.stash[PRESENTATION]
    if not session.results:
        terminalreporter.ensure_newline()
        for note in skipped_notes(session.skipped):
            terminalreporter.write_line(note)
        return
    terminalreporter.ensure_newline()
    terminalreporter.section("GAN benchmarks")
    if not presentation.quiet:
        printer = Printer(terminalreporter._tw._file, advice=f"{command_of('bench')} report --wide shows them")
        show_session(printer, session.results, session.summary(), SessionEnvironment.of(session.environment))
    for note in presentation.notes:
        terminalreporter.write_line(f"note: {note}")
    benchmarks = config._benchmarksession  # type: ignore[attr-defined]
    for name, reason in benchmarks.performance_regressions:
        presentation.slower = True
        terminalreporter.write_line(f"slower: {name}: {reason}", red=True)
    benchmarks.performance_regressions.clear()  # or pytest ends with a traceback
    storage = benchmarks.storage
    for error in storage.errors:
        terminalreporter.write_line(f"error: {error}", red=True)
    if not storage.errors and storage.saved:
        saved = os.path.relpath(storage.saved)
        again = f"{command_of('bench')} report {shlex.quote(saved)}"
        terminalreporter.write_line(f"results: {saved}; look again with: {again}")
        if any(result.facts.profile for result in session.results):
            traces = os.path.relpath(storage.saved.with_suffix(".traces"))
            terminalreporter.write_line(
                f"traces: {traces}; open one in https://ui.perfetto.dev or chrome://tracing"
            )
        elif config.getoption("profile_steps", False):
            profiled = ", ".join(f"test_{row.name}" for row in WORKLOADS.values() if row.profiled)
            terminalreporter.write_line(f"note: --profile: no case was profiled; it profiles {profiled}")
