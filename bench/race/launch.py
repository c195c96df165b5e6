"""A launch of a race: fresh processes of all contenders, of which only one takes steps at a time."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench.race.load import CpuTimes
from bench.race.options import RaceSettings
from bench.race.places import Place
from bench.race.record import FIRST, Duel, Entry, Launch, LossReading
from bench.turns import messages as m
from bench.turns.quads import QuadPlan, Turns, plan_for, settled_seconds
from bench.turns.ranks import PairError, SideRanks, answers_of_all, ask_all, processes
from bench.turns.specs import spec_of
from gan.process.memory import free_on_host
from gan.process.spinning import Contention

LEAST_FREE_BYTES = 2**28
"""A contender that leaves less memory to the machine is ended, before the system kills something."""
SILENCE_SECONDS = 60.0
SILENCE_WINDOWS = 20
"""A contender that is warm may be silent for SILENCE_SECONDS, and for so many of its windows."""

Sides = dict[str, SideRanks]


@dataclass
class Launches:
    """Measures the launches of a race.

    Attributes:
        settings: Who takes part, and how long it may take.
        places: Where the contenders are, by letter.
        draw: Draws the orders.
        say: Told what is going on.
    """

    settings: RaceSettings
    places: Mapping[str, Place]
    draw: random.Random
    say: Callable[[str], None] = lambda _: None
    _contention: Contention = field(default_factory=Contention)
    _num_windows: int = 0
    _plans: dict[str, QuadPlan] = field(default_factory=dict)

    def measure(self) -> Launch:
        """Measure one launch.

        Raises:
            PairError: A contender failed, or compiled inside a window.
        """
        contenders = self.settings.contenders
        started = self.draw.sample(list(contenders), len(contenders))
        time_of_day = time.time()
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            sides: Sides = {}
            for letter in started:
                case = contenders[letter].case
                context = processes(self.places[letter], (letter,), case.device, case.num_processes)
                side = stack.enter_context(context)[letter]
                sides[letter] = replace(side, answer_seconds=self.settings.stall_seconds)
            sides = {letter: sides[letter] for letter in contenders}
            entries, duels, cores = self._race(sides)
        return Launch(
            time=round(time_of_day, 3),
            started=tuple(started),
            entries=entries,
            duels=duels,
            busy_cores=cores[0],
            stolen_cores=cores[1],
            seconds=round(time.monotonic() - began, 3),
        )

    def _race(self, sides: Sides) -> tuple[dict[str, Entry], dict[str, Duel], tuple[float, float]]:
        """Return what is known of each contender, the duels, and the cores that others took meanwhile."""
        self.say("starting")
        facts = {letter: ranks[0].environment for letter, ranks in ask_all(sides, m.Hello()).items()}
        prepared = self._prepare(sides)
        periods = {letter: prepared[letter].period for letter in sides}
        all_periods = math.lcm(*periods.values())
        turns = Turns(sides, self._contention)
        step_seconds = self._time_steps(turns, tuple(sides), all_periods)
        num_steps = 1 + self._num_windows * all_periods + turns.untimed_steps[FIRST]
        early_losses = {letter: _losses(side, num_steps) for letter, side in sides.items()}
        for letter in sides:
            if letter != FIRST and letter not in self._plans:
                pair_seconds = (step_seconds[FIRST], step_seconds[letter])
                self._plans[letter] = plan_for(
                    pair_seconds, self.settings.most_quads, len(sides) - 1, (periods[FIRST], periods[letter])
                )
        sides = {letter: self._less_patient(side, step_seconds[letter]) for letter, side in sides.items()}
        guard = MemoryGuard(sides)
        peaks: dict[str, float] = {}
        duels: dict[str, Duel] = {}
        before = CpuTimes.now()
        turns = Turns(sides, self._contention)
        for letter, plan in self._plans.items():
            self.say(self.settings.contenders[letter].name)
            names = (FIRST, letter)
            turns.warm_up(names, plan)
            peaks = {name: _peak_bytes(sides[name]) for name in names} | peaks
            quads = turns.take_quads(names, plan, self.draw, "it", guard.check)
            duels[letter] = Duel(plan.steps_per_window, quads.orders, quads.windows)
        cores = CpuTimes.now().cores_since(before)
        entries = {
            letter: Entry(
                facts=facts[letter],
                configuration=prepared[letter].configuration,
                startup_seconds=prepared[letter].startup_seconds,
                images_per_step=prepared[letter].images_per_step,
                num_parameters=prepared[letter].num_parameters,
                peak_bytes=peaks[letter],
                last_peak_bytes=_peak_bytes(side),
                early_losses=early_losses[letter],
                last_losses=_losses(side, num_steps + self._steps_of_duels(letter) + turns.untimed_steps[letter]),
                period=periods[letter],
            )
            for letter, side in sides.items()
        }
        return entries, duels, cores

    def _prepare(self, sides: Sides) -> dict[str, m.Prepared]:
        """Let all contenders take their first step at once; a rank's start-up is that of the slowest."""
        ask_all(sides, m.Spin(less=True))  # they take each other's cores
        for letter, side in sides.items():
            side.send(m.Prepare(spec_of(self.settings.contenders[letter].case)))
        prepared: dict[str, m.Prepared] = {}
        for letter, ranks in answers_of_all(sides).items():
            images = ranks[0].images_per_step
            if not isinstance(images, int) or images < 1:
                raise PairError(letter, f"images_per_step is {images!r}; it must be a whole number of at least 1")
            startup_seconds = max(rank.startup_seconds for rank in ranks)
            prepared[letter] = replace(ranks[0], startup_seconds=startup_seconds)
        ask_all(sides, m.Spin(less=self._contention.contended))
        return prepared

    def _time_steps(self, turns: Turns, letters: Sequence[str], period: int) -> dict[str, float]:
        """Let all take the same number of windows of one period, in turns; return the seconds of a step of each.

        The first launch decides how many: until the slowest has taken WARMUP_SECONDS.
        """
        seconds = turns.time_periods(letters, period, self._num_windows)
        self._num_windows = len(seconds[FIRST])
        return {letter: settled_seconds(values) / period for letter, values in seconds.items()}

    def _less_patient(self, side: SideRanks, step_seconds: float) -> SideRanks:
        """Return a side that is warm, so that a window takes no longer than before."""
        window_seconds = max(
            [step_seconds * steps for plan in self._plans.values() for steps in plan.steps_per_window]
        )
        silence_seconds = max(SILENCE_SECONDS, SILENCE_WINDOWS * window_seconds)
        return replace(side, answer_seconds=min(self.settings.stall_seconds, silence_seconds))

    def _steps_of_duels(self, letter: str) -> int:
        """Return how many steps the windows of a contender's duels have."""
        steps = 0
        for other, plan in self._plans.items():
            if letter in (FIRST, other):
                place = 0 if letter == FIRST else 1
                steps += plan.steps_per_window[place] * (plan.warmup_windows + 2 * plan.num_quads)
        return steps


class MemoryGuard:
    """Ends a race before a contender takes all memory of the machine."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        self._bytes_before = {letter: side.resident_bytes() for letter, side in sides.items()}

    def check(self) -> None:
        """Raise PairError, which names the contender that has grown most, if hardly any memory is left."""
        if free_on_host() >= LEAST_FREE_BYTES:
            return
        now = {letter: side.resident_bytes() for letter, side in self._sides.items()}
        grown = max(now, key=lambda letter: now[letter] - self._bytes_before[letter])
        mebibytes = [f"{num_bytes / 2**20:,.0f} MiB" for num_bytes in (now[grown], self._bytes_before[grown])]
        raise PairError(
            grown, f"the machine runs out of memory; it holds {mebibytes[0]}, and {mebibytes[1]} when it was warm"
        )


def _losses(side: SideRanks, step: int) -> LossReading:
    return LossReading.of(step, side.ask(m.ReadLosses())[0].values)


def _peak_bytes(side: SideRanks) -> float:
    return max(rank.peak_bytes for rank in side.ask(m.ReadMemory()))
