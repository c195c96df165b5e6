"""One step by itself: anybody's function, in windows with the device idle at their edges."""

import inspect
import math
import numbers
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING

from bench.harness.device import (
    compile_seconds,
    device_waiter,
    num_compilations,
    peak_device_bytes,
    peak_resident_bytes,
    reset_peaks,
)
from bench.harness.windows import LEAST_ROUNDS, SETTLED_WINDOWS, Arm, Effort, Engine, RecompiledError

if TYPE_CHECKING:
    import torch

MOST_SECONDS = 1e9
"""More than a measurement takes: the number of windows is chosen here, and not cut by the engine."""


class StepError(Exception):
    """A step cannot be measured; the message says why in one line."""


@dataclass(frozen=True)
class SingleEffort:
    """How long to measure one step.

    Attributes:
        measure_seconds: Of all windows together, if the least number of them does not take longer.
        least_rounds: The least number of windows.
        rounds: The number of windows, instead of what the two above come to.
        window_seconds: Least length of a window; all windows have the same number of steps.
        warmup_seconds: When to go on without a steady state.
    """

    measure_seconds: float = 1.0
    least_rounds: int = LEAST_ROUNDS
    rounds: int | None = None
    window_seconds: float = 0.02
    warmup_seconds: float = 5.0

    def num_rounds(self, window_seconds: float) -> int:
        """Return the number of windows of a length."""
        return self.rounds or max(self.least_rounds, math.ceil(self.measure_seconds / max(window_seconds, 1e-9)))

    def of_engine(self, rounds: int) -> Effort:
        """Return the engine's effort for a number of windows."""
        return Effort(
            launches=1,
            rounds=rounds,
            window_seconds=self.window_seconds,
            measure_seconds=MOST_SECONDS,
            patience_seconds=0.0,
            warmup_seconds=self.warmup_seconds,
        )


@dataclass(frozen=True)
class StepFigures:
    """What was measured of a step. A time is that of a step in one window.

    Attributes:
        seconds: Of a step, in each window.
        steps_per_window: In each of them.
        images_per_step: As the caller says; 0 if a step handles none.
        period: As the caller says: steps over which times are means.
        first_step_seconds: The very first step, with everything that happens once.
        compile_seconds: What a compiler took of the first step and the warm-up.
        warmup_seconds: Of all windows before the steady state.
        settled: Whether there was a steady state before the time allowed for it ran out.
        peak_host_bytes: The most memory of the process that was resident at once since the warm-up, without
            pages of files.
        peak_device_bytes: The most memory allocated on the GPU at once since the warm-up; None without a GPU.
        device: What was waited for at the edges of the windows: `cpu`, or a GPU and its name.
    """

    seconds: tuple[float, ...] = field(repr=False)
    steps_per_window: int
    images_per_step: int
    first_step_seconds: float
    compile_seconds: float
    warmup_seconds: float
    settled: bool
    peak_host_bytes: int
    peak_device_bytes: int | None
    device: str
    period: int = 1

    @property
    def median_seconds(self) -> float:
        """The median over the windows."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float | None:
        """Images over the median; None if a step handles no images."""
        return self.images_per_step / self.median_seconds if self.images_per_step else None

    def percentile_seconds(self, percent: int) -> float:
        """Return a percentile over the windows, interpolated linearly; `percent` is from 1 to 99."""
        if len(self.seconds) == 1:
            return self.seconds[0]
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


class Repeated:
    """A function as endless steps that keep what the last one returned, and refuse what is no step.

    Attributes:
        last: What the last step returned.
        failed: Where in the function an error was raised.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._num_steps = 0
        self.last: object = None
        self.failed: TracebackType | None = None

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> None:
        """Take a step."""
        self.last = None  # or the graphs of two steps would be in memory at once
        try:
            self.last = self._step()
        except StopIteration as error:
            raise StepError(
                f"the step raised StopIteration after {self._num_steps} steps: its data ended; "
                "let it go on for ever, as with itertools.cycle"
            ) from error
        except BaseException as error:
            self.failed = error.__traceback__ and error.__traceback__.tb_next
            raise
        self._num_steps += 1
        if self._num_steps == 1:
            self.check()

    def check(self) -> None:
        """Raise StepError if the last step has not run, or returned a number that is not finite."""
        if inspect.iscoroutine(self.last) or inspect.isgenerator(self.last):
            self.last.close()
            kind = type(self.last).__name__
            raise StepError(f"the step returned a {kind}, which has not run; pass a function that runs the step")
        if not finite(self.last):
            raise StepError(
                f"the step returned NaN or infinity, at step {self._num_steps}: what would be timed does not train"
            )


def finite(value: object) -> bool:
    """Say whether all numbers of a value are finite, in dicts, lists, tuples, arrays and tensors too.

    >>> finite({"loss_d": 0.7, "loss_g": [1.2, float("nan")]})
    False
    """
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):  # of NumPy, too
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    numpy = sys.modules.get("numpy")
    if numpy and isinstance(value, numpy.ndarray) and value.dtype.kind in "fc":
        return bool(numpy.isfinite(value).all())
    torch = sys.modules.get("torch")
    if torch and isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
        with suppress(NotImplementedError):  # of 8 bits, sparse or nested: PyTorch does not say
            return value.is_meta or bool(torch.isfinite(value.detach()).all())
    return True


@cache
def _accelerator_type() -> str | None:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator.type if accelerator else None


def wait_for_what_was_used() -> None:
    """Return when the current GPU is idle, if this process has used one."""
    torch = sys.modules.get("torch")
    if torch and (kind := _accelerator_type()) and (kind != "cuda" or torch.cuda.is_initialized()):
        torch.accelerator.synchronize()


def used_device() -> "torch.device | None":
    """Return the current GPU if this process has used one; None if torch is not even imported."""
    if "torch" not in sys.modules:
        return None
    import torch

    return (
        torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_initialized() else torch.device("cpu")
    )


def measure_step(
    step: Callable[[], object],
    images_per_step: int,
    effort: SingleEffort,
    device: "torch.device | None" = None,
    quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
    period: int = 1,
) -> StepFigures:
    """Take a step to its steady state, and measure windows of it.

    Args:
        step: Enqueues a whole step. What it returns is looked at after the first step and after the last.
        images_per_step: Images that a step handles; 0 if it handles none.
        effort: How long to measure.
        device: What to wait for at the edges of windows. By default, the current GPU if the process uses one.
        quiet: What steps are taken in, as without a tracer.
        period: Steps after which their costs repeat; windows hold whole periods.

    Raises:
        StepError: It is no step, its data ended, a result is not finite, or a compiler ran inside a timed window.
        BaseException: What the step raises, with the traceback of the step alone.
    """
    __tracebackhide__ = True
    steps = Repeated(step)
    wait = device_waiter(device) if device else wait_for_what_was_used
    engine = Engine(effort.of_engine(rounds=1), wait, num_compilations)
    compiled_before_seconds = compile_seconds()
    began = time.perf_counter()
    try:
        with quiet():
            record = engine.add(Arm("the step", steps, images_per_step, period))
            warmed_up = time.perf_counter()
            compiled_seconds = compile_seconds() - compiled_before_seconds
            window_seconds = record.steps_per_window * statistics.median(record.warmup[-SETTLED_WINDOWS:])
            engine.effort = effort.of_engine(rounds=effort.num_rounds(window_seconds))
            reset_peaks(device)
            engine.measure()
            steps.check()
    except RecompiledError as error:
        raise StepError(f"{error}: its time is no step's; let all steps have the same shapes") from None
    except BaseException as error:
        if steps.failed:
            raise error.with_traceback(steps.failed)  # noqa: B904
        raise
    used = device or used_device()
    return StepFigures(
        seconds=tuple(seconds / record.steps_per_window for seconds in record.windows),
        steps_per_window=record.steps_per_window,
        images_per_step=images_per_step,
        first_step_seconds=record.first_step_seconds,
        compile_seconds=compiled_seconds,
        warmup_seconds=warmed_up - began - record.first_step_seconds,
        settled=record.settled,
        peak_host_bytes=peak_resident_bytes(),
        peak_device_bytes=peak_device_bytes(used) if used else None,
        device=device_name(used),
        period=period,
    )


def take_once(step: Callable[[], object], device: "torch.device | None" = None) -> object:
    """Take one step, wait for it, and return what it returns; raise as `measure_step` does."""
    __tracebackhide__ = True
    steps = Repeated(step)
    try:
        next(steps)
    except BaseException as error:
        if steps.failed:
            raise error.with_traceback(steps.failed)  # noqa: B904
        raise
    (device_waiter(device) if device else wait_for_what_was_used)()
    return steps.last


def device_name(device: "torch.device | None") -> str:
    """Return `cpu`, or a GPU's index and name."""
    if device is None or device.type != "cuda":
        return "cpu" if device is None else device.type
    import torch

    return f"{device} {torch.cuda.get_device_name(device)}"
