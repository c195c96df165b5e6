"""The engine: arms take turns, window by window.

A *window* is a fixed number of steps with one wait for the device at each edge and none inside. If some steps cost
more than others, it holds whole *periods*: so many steps hold each kind as often as it occurs. An *arm* is one of
the things compared. In a *round* each arm has a window, in random order. Windows are short because a shared
machine is noisy: whatever slows it for a second slows all arms.

A process that trains finds its weights in the caches, and here other arms have used them since. So a step that is
not timed goes before each window that is short.

Each round begins with a *probe*, a fixed piece of work. A round whose probe took long was disturbed, and more
rounds can be measured to replace it. ROUNDS_PER_TURN rounds are a *turn*. Between its turns a case waits while
other cases take theirs, so that all cases see the machine at its best and at its worst.
"""

import gc
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.harness.exchange import Grant, Phase, Report, no_report, reported
from bench.harness.world import World

SETTLED_WINDOWS = 4
SETTLED_WITHIN = 0.05
LONG_WINDOW_SECONDS = 0.5
"""Warm-up ends when two medians agree: that of its last third, and that of as many windows before. Each is over at
least SETTLED_WINDOWS windows, or over one where windows are this long. The periods that were timed before the
warm-up, to choose the number of steps, are such windows, too: one more may take all the time that there is."""
ROUNDS_PER_TURN = 8
SHORT_WINDOW_SECONDS = 0.1
"""In a longer window, cold caches at its beginning cost little."""
LEAST_ROUNDS = 10
PROBE = "probe"
PROBE_WINDOWS = 3
"""A probe is repeated, and the quickest counts: the first meets cold caches and sleeping threads."""
DISTURBED = 1.1
"""A round is disturbed if its probe took more than this multiple of the quickest probe."""
LEAST_PART_SECONDS = 1e-9
"""What is recorded of a part that a clock shows no time of."""


TakeTurn = Callable[[float, bool], Grant]
"""Waits while other cases measure. Its arguments are as in `Wait`: the quickest probe so far, and whether this
case only replaces disturbed rounds."""


class RecompiledError(Exception):
    """A compiler ran inside a timed window, so that its time is not a step's."""


def undisturbed(probes: Sequence[float], quickest: float = math.inf) -> list[bool]:
    """Say for each round whether its probe took about as long as the quickest.

    >>> undisturbed([0.0100, 0.0103, 0.0150])
    [True, True, False]
    """
    limit = DISTURBED * min([*probes, quickest])
    return [seconds <= limit for seconds in probes]


def whole_periods(num_steps: float, period: int) -> int:
    """Return the least number of steps that are whole periods, and at least so many.

    >>> whole_periods(17, 16), whole_periods(0, 4), whole_periods(5, 1)
    (32, 4, 5)
    """
    return period * max(1, math.ceil(num_steps / period))


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
        window_seconds: Least length of a window; all windows of an arm have the same number of steps.
        measure_seconds: There are fewer rounds, but at least LEAST_ROUNDS, where they would take longer than this.
        patience_seconds: How much longer to measure, to replace disturbed rounds.
        warmup_seconds: When to go on without a steady state, and say so.
        seeds: The number of runs whose outcomes are compared, for `convergence`.
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
    """One of the things compared.

    Attributes:
        name: Its name in tables and results.
        steps: Endless; each `next` starts a step, without waiting for the device.
        images_per_step: Over all processes; 0 where a step handles none.
        period: Steps after which costs repeat: a time is the mean over so many.
        steps_per_window: Fixed instead of chosen by the length of a window.
        every: It has a window once in this many rounds.
        alone: Only rank 0 takes it, while the other ranks wait.
        on_every_host: If it is taken alone: the first rank of every host takes it, all of them at once.
        parts: Returns the seconds of each part of its steps since the last call; called after each window. The
            parts of a window are recorded as arms are. The names are always the same, and none by default.
        forget: Called instead of `parts` after steps that are not timed; by default `parts` is.
    """

    name: str
    steps: Iterator[object]
    images_per_step: int = 0
    period: int = 1
    steps_per_window: int | None = None
    every: int = 1
    alone: bool = False
    on_every_host: bool = False
    parts: Callable[[], Mapping[str, float]] = dict
    forget: Callable[[], object] | None = None


@dataclass
class ArmRecord:
    """What was measured of an arm on one rank.

    Attributes:
        images_per_step: Over all processes.
        steps_per_window: In each of `windows`.
        first_step_seconds: The very first step, with everything that happens once.
        warmup: Seconds per step of each window before the steady state, on the slowest rank.
        settled: Whether there was a steady state before the time allowed for it ran out.
        windows: Seconds of each window, in order of the rounds.
        every: It has a window once in this many rounds.
        period: Steps over which a time is a mean.
        part_of: The arm of whose windows this is a part; "" for an arm.
    """

    images_per_step: int
    steps_per_window: int = 1
    first_step_seconds: float = 0.0
    warmup: list[float] = field(default_factory=list)
    settled: bool = False
    windows: list[float] = field(default_factory=list)
    every: int = 1
    period: int = 1
    part_of: str = ""

    @property
    def usual_step_seconds(self) -> float:
        """Seconds per step at the end of the warm-up."""
        return statistics.median(self.warmup[-SETTLED_WINDOWS:])

    @property
    def usual_seconds(self) -> float:
        """Seconds of a window at the end of the warm-up."""
        return self.steps_per_window * self.usual_step_seconds

    @property
    def is_short(self) -> bool:
        """Whether a window is so short that a step that is not timed goes before it."""
        return self.usual_seconds < SHORT_WINDOW_SECONDS


@dataclass(frozen=True)
class Collectives:
    """How the processes that measure together agree, as one of them sees it. The default is one process.

    Attributes:
        world: This process's place.
        barrier: Returns when all processes have called it.
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
        num_compilations: Returns how often a compiler has run in this process.
        collectives: How the processes agree.
        report: Told what is done, before the first step of an arm and after each window.
        timer: Returns seconds.
    """

    effort: Effort
    wait: Callable[[], None]
    num_compilations: Callable[[], int] = lambda: 0
    collectives: Collectives = field(default_factory=Collectives)
    report: Report = no_report
    timer: Callable[[], float] = time.perf_counter
    records: dict[str, ArmRecord] = field(default_factory=dict)
    _arms: list[Arm] = field(default_factory=list)
    _parts: dict[str, ArmRecord] = field(default_factory=dict)
    _seconds_of_parts: Mapping[str, float] = field(default_factory=dict)

    def add(self, arm: Arm) -> ArmRecord:
        """Take an arm to its steady state and choose its number of steps per window."""
        record = self.records[arm.name] = ArmRecord(arm.images_per_step, every=arm.every, period=arm.period)
        self._arms.append(arm)
        self.report(f"first step of {arm.name}", Phase.FIRST_STEP)
        record.first_step_seconds = self._slowest(arm, 1)
        periods = [self._slowest(arm, arm.period) / arm.period for _ in range(2)]
        record.steps_per_window = self._steps_per_window(arm, min(periods))
        is_long = min(periods) * arm.period > LONG_WINDOW_SECONDS and record.steps_per_window == arm.period
        self._warm_up(arm, record, periods if is_long else [])
        record.steps_per_window = self._steps_per_window(arm, record.usual_step_seconds)
        return record

    def _warm_up(self, arm: Arm, record: ArmRecord, taken: Sequence[float]) -> None:
        """Measure windows until they are steady, or until the time for it is over. A compilation starts anew.

        Args:
            arm: What is measured.
            record: Of it.
            taken: Seconds per step of windows that were measured before.
        """
        settling = [*taken]
        while not record.settled:
            compilations = self.num_compilations()
            window_seconds = self._slowest(arm, record.steps_per_window)
            record.warmup.append(window_seconds / record.steps_per_window)
            if self.collectives.maximum(self.num_compilations() - compilations):
                settling.clear()
            settling.append(record.warmup[-1])
            least = 1 if window_seconds > LONG_WINDOW_SECONDS else SETTLED_WINDOWS
            third = max(least, len(settling) // 3)
            last = settling[-third:]
            before = settling[-2 * third : -third]
            if len(before) == third:
                drift = statistics.median(last) / statistics.median(before) - 1
                record.settled = abs(drift) <= SETTLED_WITHIN
            if sum(record.warmup) * record.steps_per_window > self.effort.warmup_seconds:
                return

    def measure(self, probe: Arm | None = None, take_turn: TakeTurn = lambda quickest, _: Grant(quickest)) -> None:
        """Measure all arms, in an order drawn anew each round.

        Args:
            probe: Taken at the beginning of each round; without it no round is disturbed.
            take_turn: Called before every ROUNDS_PER_TURN rounds.

        Raises:
            RecompiledError: A compiler ran inside a timed window.
        """
        order = random.Random(0)  # the same on every rank
        quickest = math.inf
        num_rounds, most_rounds = self._num_rounds()
        probes: list[float] = []
        gc.collect()
        gc.disable()
        try:
            for index in range(most_rounds):
                if sum(undisturbed(probes, quickest)) >= num_rounds:
                    break
                if index % ROUNDS_PER_TURN == 0:
                    grant = take_turn(min([*probes, quickest]), index >= num_rounds)
                    if grant.finish:
                        break
                    quickest = grant.quickest_probe
                    self._fill_caches()
                probes.append(self._probe_seconds(probe) if probe else 1.0)
                self._round(index, order)
        finally:
            gc.enable()
        self.records |= self._parts
        if probe:
            self.records[probe.name] = ArmRecord(0, probe.steps_per_window or 1, windows=probes)

    def keep_busy(self, name: str, seconds: float, half_way: Callable[[], None]) -> int:
        """Take an arm's steps for about so long, without a pause and without timing them; return how many.

        Args:
            name: Of an arm that was measured.
            seconds: How long.
            half_way: Called when half of the steps have been started, and nobody has waited for them.
        """
        arm = next(arm for arm in self._arms if arm.name == name)
        half = whole_periods(seconds / self.records[name].usual_step_seconds / 2, arm.period)
        self.report(f"energy of {name}")
        self.collectives.barrier()
        for action in (half_way, self.wait):
            for _ in itertools.islice(arm.steps, half):
                pass
            action()
        return 2 * half

    def _fill_caches(self) -> None:
        """Take a step, which is not timed, of each arm whose windows are neither short nor long.

        Other cases have used the caches. A short window always has such a step before it; a long one needs none.
        """
        for arm in self._arms:
            record = self.records[arm.name]
            if not record.is_short and record.usual_seconds < LONG_WINDOW_SECONDS:
                self._window(arm, 1, is_timed=False)

    def _probe_seconds(self, probe: Arm) -> float:
        return min(self._slowest(probe, probe.steps_per_window or 1) for _ in range(PROBE_WINDOWS))

    def _round(self, index: int, order: random.Random) -> None:
        """Measure a window of each arm that is due."""
        due = [arm for arm in self._arms if index % arm.every == 0]
        for arm in order.sample(due, len(due)):
            record = self.records[arm.name]
            if record.is_short:
                self._window(arm, 1, is_timed=False)
            compilations = self.num_compilations()
            seconds = self._window(arm, record.steps_per_window)
            if self.num_compilations() != compilations:
                raise RecompiledError(f"{arm.name} compiled again inside window {index + 1}")
            record.windows.append(seconds)
            self._record_parts(arm.name, record)
        gc.collect(0)

    def _record_parts(self, arm: str, record: ArmRecord) -> None:
        """Keep the seconds of each part of the last window."""
        shared = {name: getattr(record, name) for name in ("steps_per_window", "every", "period")}
        for name, seconds in self._seconds_of_parts.items():
            part = self._parts.setdefault(name, ArmRecord(0, settled=True, part_of=arm, **shared))
            part.windows.append(max(seconds, LEAST_PART_SECONDS))

    def _num_rounds(self) -> tuple[int, int]:
        """Return how many undisturbed rounds to measure, and how many rounds at most."""
        seconds = 0.0
        for arm, record in zip(self._arms, self.records.values(), strict=True):
            num_steps = record.steps_per_window + record.is_short
            seconds += record.usual_step_seconds * num_steps / arm.every
        seconds = max(seconds, 1e-9)
        num_rounds = min(self.effort.rounds, max(LEAST_ROUNDS, int(self.effort.measure_seconds / seconds)))
        return num_rounds, num_rounds + int(self.effort.patience_seconds / seconds)

    def _steps_per_window(self, arm: Arm, seconds_per_step: float) -> int:
        least = self.effort.window_seconds / max(seconds_per_step, 1e-9)
        return arm.steps_per_window or whole_periods(least, arm.period)

    def _slowest(self, arm: Arm, num_steps: int) -> float:
        """Return the seconds of a window on the slowest rank."""
        return self.collectives.maximum(self._window(arm, num_steps))

    def _window(self, arm: Arm, num_steps: int, *, is_timed: bool = True) -> float:
        """Return the seconds of a window on this rank; 0 where it has no part in it."""
        self._seconds_of_parts = {}
        self.collectives.barrier()
        world = self.collectives.world
        if arm.alone and not (world.is_first_here if arm.on_every_host else world.rank == 0):
            return 0.0
        steps = arm.steps if arm.period == 1 else reported(arm.steps, self.report, arm.name)
        seconds = time_window(steps, num_steps, self.wait, self.timer)
        if is_timed or arm.forget is None:
            self._seconds_of_parts = arm.parts()
        else:
            arm.forget()
        self.report(arm.name)
        return seconds
