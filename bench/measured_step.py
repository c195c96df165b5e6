"""The fixture `measure_step`: a step's windows, replayed into pytest-benchmark with its options.

Nothing of `gan` is imported: a project under test may have a package of this name.
"""

import inspect
import itertools
import math
import numbers
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import PauseInstrumentation

from bench.harness.replay import ReplayedTimer
from bench.harness.single import SingleEffort, StepError, StepFigures, measure_step, take_once
from bench.report.means import mean_notes

if TYPE_CHECKING:
    import torch

WITHOUT_EFFECT = {
    *("--benchmark-calibration-precision", "--benchmark-confidence", "--benchmark-precision"),
    *("--benchmark-timer", "--benchmark-warmup", "--benchmark-warmup-iterations"),
}
"""Options of pytest-benchmark that say how it measures, and not how long."""
SAID = pytest.StashKey[bool]()
PERCENTILES = (5, 95, 99)
MIB = 2**20


def set_replayed_timer(item: pytest.Item) -> None:
    """Let pytest-benchmark read a clock of the test's own, on which measured windows pass again."""
    marker = item.get_closest_marker("benchmark")
    settings = {**(marker.kwargs if marker else {}), "timer": ReplayedTimer()}
    item.add_marker(pytest.mark.benchmark(**settings), append=False)


class MeasureStep:
    """Measures the step of one test.

    Attributes:
        name: Of the test.
        figures: What was measured, if anything was.
    """

    def __init__(self, benchmark: Any, node: pytest.Item) -> None:
        self.name = node.name
        self.figures: StepFigures | None = None
        self._benchmark = benchmark
        self._node = node
        self._used = False

    def __call__(
        self,
        step: Callable[[], object],
        *,
        images: int = 0,
        device: "str | torch.device | None" = None,
        rounds: int | None = None,
        window_seconds: float | None = None,
        warmup_seconds: float = 5.0,
        period: int = 1,
    ) -> StepFigures | None:
        """Measure a step.

        Args:
            step: Runs or enqueues one whole step, and takes no arguments.
            images: Images that a step handles, for images/s.
            device: What to wait for at the edges of windows; by default the current GPU, if the process uses one.
            rounds: The number of windows; by default, --benchmark-max-time and --benchmark-min-rounds say it.
            window_seconds: Least length of a window; by default 0.02, or --benchmark-min-time if that is longer.
            warmup_seconds: When to go on without a steady state, and warn.
            period: Steps after which their costs repeat, as with a penalty in one of 16: a time is the mean over
                whole periods.

        Returns:
            What was measured; None if benchmarks are disabled.
        """
        __tracebackhide__ = True
        try:
            if self._used:
                raise StepError("measures one step per test: write another test, or parametrize this one")
            self._used = True
            _require_callable(step)
            _require_number("images", images, least=0, whole=True)
            _require_number("period", period, least=1, whole=True)
            effort = self._effort(rounds, window_seconds, warmup_seconds)
            waited_for = None if device is None else _device(device)
            if self._benchmark.enabled:
                self._measure(step, int(images), effort, waited_for, int(period))
            else:
                self._benchmark.pedantic(take_once, (step, waited_for))
        except BaseException as error:
            warnings.filterwarnings("ignore", "Benchmark fixture was not used")  # until this test has ended
            if isinstance(error, StepError):
                raise pytest.fail.Exception(f"measure_step: {error}", pytrace=False) from None
            raise
        return self.figures

    def _effort(self, rounds: int | None, window_seconds: float | None, warmup_seconds: float) -> SingleEffort:
        """Return how long to measure, by the arguments, the test's mark and the options."""
        if rounds is not None:
            _require_number("rounds", rounds, least=1, whole=True)
        if window_seconds is not None:
            _require_number("window_seconds", window_seconds, least=1e-6)
        _require_number("warmup_seconds", warmup_seconds, least=0)
        config = self._node.config
        marker = self._node.get_closest_marker("benchmark")
        marked = marker.kwargs if marker else {}

        def setting(name: str) -> float:
            value = float(marked.get(name, config.getoption(f"benchmark_{name}")))  # pytest-benchmark keeps texts
            if not math.isfinite(value):
                raise StepError(f"--benchmark-{name.replace('_', '-')} {value}: must be a finite number")
            return value

        return SingleEffort(
            measure_seconds=setting("max_time"),
            least_rounds=int(setting("min_rounds")),
            rounds=None if rounds is None else int(rounds),
            window_seconds=float(window_seconds)
            if window_seconds
            else max(SingleEffort.window_seconds, setting("min_time")),
            warmup_seconds=float(warmup_seconds),
        )

    def _measure(
        self,
        step: Callable[[], object],
        images: int,
        effort: SingleEffort,
        device: "torch.device | None",
        period: int,
    ) -> None:
        __tracebackhide__ = True
        marker = self._node.get_closest_marker("benchmark")
        timer = marker.kwargs.get("timer") if marker else None
        if not isinstance(timer, ReplayedTimer):  # `set_replayed_timer` did not see it among the fixtures
            raise StepError("is asked for by request.getfixturevalue; name it among the arguments of the test")
        self._warn_of_options()
        figures = measure_step(step, images, effort, device, PauseInstrumentation, period)
        if not figures.settled:
            self._warn(
                f"no steady state within {effort.warmup_seconds:g} s of warm-up, so times may still change; "
                "give a larger warmup_seconds, or stop what else runs on this machine"
            )
        self._benchmark.extra_info.update(extra_info(figures))
        again = (itertools.repeat(seconds, figures.steps_per_window) for seconds in figures.seconds)
        timer.windows = itertools.chain.from_iterable(again)

        def replay() -> object:
            """Let a measured step pass; after all of them, --benchmark-cprofile profiles the step."""
            try:
                timer.advance()
            except StopIteration:
                return step() if self._benchmark.cprofile else None
            return None

        self._benchmark.pedantic(replay, rounds=len(figures.seconds), iterations=figures.steps_per_window)
        self.figures = figures

    def _warn_of_options(self) -> None:
        config = self._node.config
        words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.getini("addopts")]
        typed = {str(word).partition("=")[0] for word in (*words, *config.invocation_params.args)}
        without_effect = sorted(typed & WITHOUT_EFFECT)
        if without_effect and not config.stash.get(SAID, False):
            config.stash[SAID] = True
            self._warn(
                f"{', '.join(without_effect)}: without effect on it, which has windows and a warm-up of its own"
            )

    def _warn(self, message: str) -> None:
        self._node.warn(pytest.PytestWarning(f"measure_step: {message}"))


def extra_info(figures: StepFigures) -> dict[str, Any]:
    """Return what a results file says of a step besides pytest-benchmark's statistics."""
    torch = sys.modules.get("torch")
    percentiles = {f"p{percent}_seconds": figures.percentile_seconds(percent) for percent in PERCENTILES}
    rest = {name: value for name, value in asdict(figures).items() if name != "seconds"}
    version = torch.__version__ if torch else None
    return {"images_per_second": figures.images_per_second, **percentiles, **rest, "torch": version}


def _require_callable(step: object) -> None:
    if not callable(step):
        raise StepError(f"step {step!r:.60}: must be a function without arguments that runs one step")
    try:
        inspect.signature(step).bind()
    except TypeError as error:
        raise StepError(f"step: must take no arguments ({error}); wrap it in a lambda") from None
    except ValueError:  # a builtin without a signature
        return


def _require_number(name: str, value: object, least: float, whole: bool = False) -> None:
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if not right or not least <= value < math.inf:  # type: ignore[operator]
        raise StepError(f"{name}={value!r:.60}: must be {kind} of at least {least:g}")


def _device(device: "str | torch.device") -> "torch.device":
    import torch

    num_gpus = torch.cuda.device_count()
    known = ["cpu", *(["cuda"] if num_gpus else []), *(f"cuda:{index}" for index in range(num_gpus))]
    if str(device) not in known:
        raise StepError(f"device={str(device)!r:.60}: must be one of {', '.join(known)}")
    return torch.device(device)


HEADINGS = ("test", "ms/step", "p5", "p95", "p99", "images/s", "peak MiB", "GPU MiB", "first step s", "compile s")


def show(tests: Sequence[MeasureStep], terminal: Any) -> None:
    """Write the table of the measured steps."""
    rows = [_row(test.name, test.figures) for test in tests if test.figures]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    terminal.section("measure_step: training steps")
    for cells in (HEADINGS, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        terminal.write_line("  ".join([first.strip().ljust(widths[0]), *others]))
    for line in mean_notes({test.name: test.figures.period for test in tests if test.figures}):
        terminal.write_line(line)


def _row(name: str, figures: StepFigures) -> tuple[str, ...]:
    milliseconds = [figures.median_seconds, *(figures.percentile_seconds(percent) for percent in PERCENTILES)]
    images = figures.images_per_second
    device_bytes = figures.peak_device_bytes
    return (
        name,
        *(_significant(1000 * seconds, padded=True) for seconds in milliseconds),
        "–" if images is None else f"{images:,.0f}",
        f"{figures.peak_host_bytes / MIB:,.0f}",
        "–" if device_bytes is None else f"{device_bytes / MIB:,.0f}",
        _significant(figures.first_step_seconds),
        _significant(figures.compile_seconds),
    )


def _significant(value: float, *, padded: bool = False) -> str:
    """Return a number with three digits or more, as `gan.files.text` does; that `gan` may be the project's."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if padded else f"{value:.3g}"
