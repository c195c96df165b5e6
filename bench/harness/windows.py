"""One engine measures everything: arms take turns, window by window.

A *window* is a fixed number of steps with one wait for the device at each edge and none inside. An *arm* is one of
the things compared. Short windows that take turns are what beats the noise of a shared machine: whatever slows it
for a second slows all arms. Each round begins with a *probe*, a fixed piece of work: rounds in which it took long
are disturbed, and more can be measured in their stead. Some rounds are a *turn*: between its turns a case waits
while others take theirs, so that all see the machine at its best and at its worst.
"""

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from bench.harness.exchange import Phase, Report, no_report
from bench.harness.world import World

SETTLED_WINDOWS = 4
SETTLED_WITHIN = 0.05
LONG_WINDOW_SECONDS = 0.5
"""Warm-up ends when the medians of its last third and of as many windows before agree; at least 4 windows each, or
one where a window is long."""
ROUNDS_PER_TURN = 8
LEAST_ROUNDS = 10
PROBE = "probe"
PROBE_WINDOWS = 3
"""The quickest of so many counts: the first finds cold caches and sleeping threads."""
DISTURBED = 1.1
"""A round whose probe takes so many times the quickest is disturbed."""


Turn = Callable[[float, bool], float | None]
"""Lets others measure. Given the quickest probe so far, and whether it is only for disturbed rounds that measuring
goes on; returns the quickest probe that any knows of, or None to end the measurement."""


class RecompiledError(Exception):
    """A compiler ran inside a timed window, so that its time is not a step's."""


def undisturbed(probes: Sequence[float], quickest: float = math.inf) -> list[bool]:
    """Say for each round whether its probe took about as long as the quickest."""
    limit = DISTURBED * min([*probes, quickest])
    return [seconds <= limit for seconds in probes]


def time_window(
    steps: Iterator[object],
    num_steps: int,
    wait: Callable[[], None],
    timer: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds of a window: `num_steps` steps, and one wait for the device at the end.

    The device has to be idle when the window begins.
    """
    window = itertools.islice(steps, num_steps)
    began = timer()
    for _ in window:
        pass
    wait()
    return timer() - began


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        launches: Fresh processes per case.
        rounds: Undisturbed windows of each arm per launch.
        window_seconds: Shortest window; every window has the same number of steps.
        measure_seconds: Fewer rounds (at least 10) where they would take longer than this.
        patience_seconds: How much longer to measure in the stead of disturbed rounds.
        warmup_seconds: When to go on without a steady state, and say so.
        seeds: Runs whose outcomes are compared, of `convergence`.
    """

    launches: int
    rounds: int
    window_seconds: float = 0.03
    measure_seconds: float = 20.0
    patience_seconds: float = 30.0
    warmup_seconds: float = 5.0
    seeds: int = 20


@dataclass(frozen=True)
class Arm:
    """Something to measure.

    Attributes:
        name: In tables and results.
        steps: Endless; each `next` starts a step, without waiting for the device.
        images_per_step: Over all processes; 0 where a step handles none.
        steps_per_window: Fixed instead of chosen by the length of a window.
        every: Measured in every so manieth round.
        alone: Only rank 0 takes it, while the others wait.
    """

    name: str
    steps: Iterator[object]
    images_per_step: int = 0
    steps_per_window: int | None = None
    every: int = 1
    alone: bool = False


@dataclass
class ArmRecord:
    """What was measured of an arm on one rank.

    Attributes:
        images_per_step: Over all processes.
        steps_per_window: In each of `windows`.
        first_step_seconds: The very first, with all that happens once.
        warmup: Seconds per step of each window before the steady state, the slowest rank's.
        settled: Whether there was a steady state before the time allowed for it ran out.
        windows: Seconds of each window, in order of the rounds.
        every: A window was measured in every so manieth round.
    """

    images_per_step: int
    steps_per_window: int = 1
    first_step_seconds: float = 0.0
    warmup: list[float] = field(default_factory=list)
    settled: bool = False
    windows: list[float] = field(default_factory=list)
    every: int = 1


@dataclass(frozen=True)
class Ranks:
    """The processes that measure together, as one of them sees them. The default is one process.

    Attributes:
        world: This process's place.
        barrier: Returns when all have called it.
        maximum: Returns the largest of all processes' values.
    """

    world: World = field(default_factory=World)
    barrier: Callable[[], None] = lambda: None
    maximum: Callable[[float], float] = lambda value: value


@dataclass
class Engine:
    """Warms arms up one by one as they are added, then measures them taking turns.

    All ranks take the same decisions, because they take them on the slowest rank's times.

    Attributes:
        effort: How long to measure.
        wait: Returns when the device is idle.
        num_compilations: How often a compiler has run in this process.
        ranks: The processes that measure together.
        report: Told what is done, before the first step of an arm and after each window.
        timer: Returns seconds.
    """

    effort: Effort
    wait: Callable[[], None]
    num_compilations: Callable[[], int] = lambda: 0
    ranks: Ranks = field(default_factory=Ranks)
    report: Report = no_report
    timer: Callable[[], float] = time.perf_counter
    records: dict[str, ArmRecord] = field(default_factory=dict)
    _arms: list[Arm] = field(default_factory=list)

    def add(self, arm: Arm) -> ArmRecord:
        """Take an arm to its steady state and choose its number of steps per window."""
        record = self.records[arm.name] = ArmRecord(arm.images_per_step, every=arm.every)
        self._arms.append(arm)
        self.report(f"first step of {arm.name}", Phase.FIRST_STEP)
        record.first_step_seconds = self._agreed(arm, 1)
        fastest = min(self._agreed(arm, 1) for _ in range(2))
        record.steps_per_window = self._steps_per_window(arm, fastest)
        settling: list[float] = []
        while not record.settled:
            compilations = self.num_compilations()
            window = self._agreed(arm, record.steps_per_window) / record.steps_per_window
            record.warmup.append(window)
            if self.ranks.maximum(self.num_compilations() - compilations):
                settling.clear()
            settling.append(window)
            if sum(record.warmup) * record.steps_per_window > self.effort.warmup_seconds:
                break
            is_long = window * record.steps_per_window > LONG_WINDOW_SECONDS
            third = max(1 if is_long else SETTLED_WINDOWS, len(settling) // 3)
            last, before = settling[-third:], settling[-2 * third : -third]
            if len(before) == third:
                drift = statistics.median(last) / statistics.median(before) - 1
                record.settled = abs(drift) <= SETTLED_WITHIN
        record.steps_per_window = self._steps_per_window(arm, statistics.median(record.warmup[-SETTLED_WINDOWS:]))
        return record

    def measure(self, probe: Arm | None = None, turn: Turn = lambda own, _: own) -> None:
        """Measure all arms, in an order drawn anew each round.

        Args:
            probe: Taken at the beginning of each round; without it no round is disturbed.
            turn: Called before every ROUNDS_PER_TURN rounds.

        Raises:
            RecompiledError: A compiler ran inside a timed window.
        """
        order = random.Random(0)
        quickest = math.inf
        num_rounds, most_rounds = self._num_rounds()
        if probe:
            self.records[probe.name] = ArmRecord(0, probe.steps_per_window or 1)
        probes: list[float] = []
        gc.collect()
        gc.disable()
        try:
            for index in range(most_rounds):
                if sum(undisturbed(probes, quickest)) >= num_rounds:
                    break
                if index % ROUNDS_PER_TURN == 0:
                    granted = turn(min([*probes, quickest]), index >= num_rounds)
                    if granted is None:
                        break
                    quickest = granted
                    for arm in self._arms:
                        record = self.records[arm.name]
                        if record.steps_per_window * record.warmup[-1] < LONG_WINDOW_SECONDS:
                            self._window(arm, 1)  # others have used the caches
                probed = (
                    min(self._agreed(probe, probe.steps_per_window or 1) for _ in range(PROBE_WINDOWS))
                    if probe
                    else 1.0
                )
                probes.append(probed)
                due = [arm for arm in self._arms if index % arm.every == 0]
                for arm in order.sample(due, len(due)):
                    record = self.records[arm.name]
                    compilations = self.num_compilations()
                    seconds = self._window(arm, record.steps_per_window)
                    if self.num_compilations() != compilations:
                        raise RecompiledError(f"{arm.name} compiled again inside window {index + 1}")
                    record.windows.append(seconds)
                gc.collect(0)
        finally:
            gc.enable()
        if probe:
            self.records[probe.name].windows = probes

    def _num_rounds(self) -> tuple[int, int]:
        """Return how many undisturbed rounds to measure, and how many rounds at most."""
        seconds = sum(
            record.steps_per_window * statistics.median(record.warmup[-SETTLED_WINDOWS:]) / arm.every
            for arm, record in zip(self._arms, self.records.values(), strict=True)
        )
        seconds = max(seconds, 1e-9)
        num_rounds = min(self.effort.rounds, max(LEAST_ROUNDS, int(self.effort.measure_seconds / seconds)))
        return num_rounds, num_rounds + int(self.effort.patience_seconds / seconds)

    def _steps_per_window(self, arm: Arm, seconds_per_step: float) -> int:
        return arm.steps_per_window or max(1, math.ceil(self.effort.window_seconds / max(seconds_per_step, 1e-9)))

    def _agreed(self, arm: Arm, num_steps: int) -> float:
        return self.ranks.maximum(self._window(arm, num_steps))

    def _window(self, arm: Arm, num_steps: int) -> float:
        """Return the seconds that `num_steps` took this process; 0 where it has no part in them."""
        self.ranks.barrier()
        if arm.alone and self.ranks.world.rank:
            return 0.0
        seconds = time_window(arm.steps, num_steps, self.wait, self.timer)
        self.report(arm.name)
        return seconds
