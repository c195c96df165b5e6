"""A pytest plugin: the fixture `measure_step`, which gives pytest-benchmark windows of a training step.

Installing the project registers it in every pytest of the environment, so it imports nothing before a test asks
for the fixture. In the wheel this file is `gan_bench_plugin`: a project may have a package `bench`, which must
neither hide the plugin nor be hidden by it. In a checkout, `pytest -p bench.plugin` loads it.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bench.measured_step import MeasureStep

NAME = "measure_step"


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixture, or one that says what it lacks."""
    if not config.pluginmanager.hasplugin(NAME):  # under its other name
        there = config.getoption("benchmark_disable", None) is not None
        config.pluginmanager.register(_WithBenchmark() if there else _WithoutBenchmark(), NAME)


class _WithoutBenchmark:
    @pytest.fixture
    def measure_step(self) -> None:
        """Measure a training step; needs pytest-benchmark."""
        missing = "install it with: pip install pytest-benchmark"
        off = "it is installed, but not loaded: leave -p no:benchmark out, or give -p pytest_benchmark.plugin"
        pytest.fail(f"{NAME}: needs pytest-benchmark; {off if find_spec('pytest_benchmark') else missing}", False)


class _WithBenchmark:
    def __init__(self) -> None:
        self._tests: list[MeasureStep] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Let pytest-benchmark read a clock that replays what was measured."""
        if NAME in getattr(item, "fixturenames", ()):
            self._imported().set_replayed_timer(item)

    @pytest.fixture
    def measure_step(self, benchmark: Any, request: pytest.FixtureRequest) -> "MeasureStep":
        """Measure a training step: `measure_step(step, images=64)` returns its figures.

        `step` takes no arguments, and runs or enqueues one whole step. Its windows begin and end with the device
        idle, after a warm-up to the steady state; pytest-benchmark shows, stores and compares them.
        """
        test: MeasureStep = self._imported().MeasureStep(benchmark, request.node)
        self._tests.append(test)
        return test

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Show what pytest-benchmark's table has no columns for."""
        quiet = config.getoption("benchmark_quiet") and not config.getoption("benchmark_verbose")
        if self._tests and not quiet:
            self._imported().show(self._tests, terminalreporter)

    @staticmethod
    def _imported() -> Any:
        try:
            from bench import measured_step
        except ImportError as error:
            import bench

            where = getattr(bench, "__file__", None) or bench.__path__
            hides = f"the package `bench` of {where} hides that of the harness ({error})"
            raise pytest.fail.Exception(f"{NAME}: {hides}; rename it", pytrace=False) from None
        return measured_step
