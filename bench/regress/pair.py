"""A launch pair: fresh processes of BASE and HEAD that take turns; only the side that holds the token runs."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import TypeVar

from bench.regress.losses import NUM_STEPS, mean_losses
from bench.regress.settings import CheckSettings
from bench.regress.sides import SIDES, Both
from bench.regress.subject_case import CheckedCase, SubjectCase, spec_for
from bench.regress.trees import Trees
from bench.regress.windows import NO_LOSSES, CaseWindows, JsonObject, Pair, StepLosses
from bench.turns import messages as m
from bench.turns.quads import WARMUP_SECONDS, QuadPlan, Turns, plan_for, settled_seconds
from bench.turns.ranks import SideRanks, ask_all, processes
from gan.process.spinning import Contention

A = TypeVar("A")

CALIBRATION_QUADS = 60


def ask_both(sides: Mapping[str, SideRanks], command: m.SideCommand[A]) -> Both[list[A]]:
    """Let both sides do at once what is not timed; return each rank's answer."""
    answers = ask_all(sides, command)
    return Both.of(lambda side: answers[side])


def first_losses(sides: Mapping[str, SideRanks]) -> Both[tuple[StepLosses, ...]]:
    """Take both sides' first steps after the one that built them; return the losses of all of them."""
    losses: dict[str, list[StepLosses | None]] = {side: [] for side in SIDES}
    for number in range(NUM_STEPS):
        if number:
            ask_both(sides, m.TakeWindow(1))
        answers = ask_both(sides, m.ReadLosses())
        for side in SIDES:
            losses[side].append(mean_losses([rank.values for rank in answers[side]]))
    return Both.of(lambda side: tuple(step for step in losses[side] if step))


def launched_together(cases: Mapping[str, CheckedCase]) -> list[list[str]]:
    """Group cases by the processes that measure them: all cases of one process share it."""
    single = [name for name, case in cases.items() if case.num_processes == 1]
    several = [[name] for name in cases if name not in single]
    return [single, *several] if single else several


@dataclass
class LaunchPairs:
    """Measures the launch pairs of a check.

    Attributes:
        trees: What is compared.
        random: Draws the orders.
        most_quads: Of a case and pair.
        injected: Extra work by side, as a fraction of a step's.
        products: How many products of small matrices that is; None to measure it in the first pair.
        say: Told what is going on.
    """

    trees: Trees
    random: random.Random
    most_quads: int
    injected: Mapping[str, float]
    products: int | None = None
    say: Callable[[str], None] = lambda _: None
    _contention: Contention = field(default_factory=Contention)
    _plans: dict[str, QuadPlan] = field(default_factory=dict)
    _products: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: CheckSettings, trees: Trees) -> "LaunchPairs":
        """Return what measures the pairs of a check."""
        dose = settings.options.inject
        injected: dict[str, float] = {}
        if dose > 0:
            injected = {"head": dose}
        elif dose < 0:
            injected = {"base": 1 / (1 + dose) - 1}  # so that HEAD's step takes 1 + dose of BASE's
        return cls(trees, random.Random(settings.seed), settings.most_quads, injected, settings.products)

    def measure(self, cases: Mapping[str, CheckedCase], open_cases: Sequence[str]) -> Pair:
        """Measure one pair.

        Args:
            cases: All, by name. The first is always started, so that start-up means the same in every pair.
            open_cases: Names of those that are measured.

        Raises:
            PairError: A side failed, or compiled inside a window.
        """
        started = tuple(self.random.sample(SIDES, 2))
        time_of_day = time.time()
        began = time.monotonic()
        first = next(iter(cases))
        environments: list[Both[JsonObject]] = []
        startups: list[Both[float]] = []
        measured: dict[str, CaseWindows] = {}
        for group in launched_together(cases):
            names = [name for name in group if name == first or name in open_cases]
            if not names:
                continue
            case = cases[names[0]]
            with processes(self.trees, started, case.device, case.num_processes) as sides:
                environments.append(ask_both(sides, m.Hello()).map(lambda ranks: ranks[0].environment))
                for name in names:
                    self.say(f"{name}: starting")
                    ask_both(sides, m.Spin(less=True))  # the sides take each other's cores
                    prepared = ask_both(sides, m.Prepare(spec_for(cases[name])))
                    if name == first:
                        startups.append(prepared.map(lambda ranks: max(rank.startup_seconds for rank in ranks)))
                    if name in open_cases:
                        self.say(name)
                        is_subject = isinstance(cases[name], SubjectCase)
                        losses = first_losses(sides) if is_subject else NO_LOSSES
                        ask_both(sides, m.Spin(less=self._contention.contended))
                        windows = self._measure_case(sides, name, prepared.map(itemgetter(0)), len(cases))
                        measured[name] = replace(windows, losses=losses)
                    ask_both(sides, m.Drop())
        seconds = round(time.monotonic() - began, 3)
        return Pair(round(time_of_day, 3), started, environments[0], startups[0], measured, seconds)

    def _measure_case(
        self, sides: Mapping[str, SideRanks], name: str, prepared: Both[m.Prepared], num_cases: int
    ) -> CaseWindows:
        """Warm both sides up and measure their quads."""
        turns = Turns(sides, self._contention)
        period = math.lcm(prepared.base.period, prepared.head.period)
        timed_seconds = 0.0
        if name not in self._plans:
            self._plans[name], timed_seconds = self._find_plan(turns, num_cases, period)
        plan = self._plans[name]
        if timed_seconds < WARMUP_SECONDS:
            turns.warm_up(SIDES, plan)
        peak_bytes: Both[float] = Both.of(
            lambda side: max(rank.peak_bytes for rank in sides[side].ask(m.ReadMemory()))
        )
        injected = {side: self._inject(sides[side], fraction, name) for side, fraction in self.injected.items()}
        quads = turns.take_quads(SIDES, plan, self.random, name)
        return CaseWindows(
            configuration=prepared.map(lambda side: side.configuration),
            steps_per_window=Both(*plan.steps_per_window),
            peak_bytes=peak_bytes,
            injected=injected,
            orders=quads.orders,
            windows=Both(*quads.windows),
            num_parameters=prepared.map(lambda side: side.num_parameters or {}),
            period=period,
        )

    def _find_plan(self, turns: Turns, num_cases: int, period: int) -> tuple[QuadPlan, float]:
        """Time periods of both sides; return the plan for steps of BASE, and the seconds of the slower side."""
        seconds = turns.time_periods(SIDES, period)
        step_seconds = settled_seconds(seconds["base"]) / period
        plan = plan_for((step_seconds, step_seconds), self.most_quads, num_cases, (period, period))
        return plan, max(map(sum, seconds.values()))

    def _inject(self, ranks: SideRanks, fraction: float, name: str) -> dict[str, float]:
        """Let a side do more work in each step, the same in every pair of the check; return what is recorded."""
        recorded: dict[str, float] = {}
        products = self.products or self._products.get(name)
        if products is None:
            num_quads = min(CALIBRATION_QUADS, self._plans[name].num_quads)
            calibration = ranks.ask(m.Calibrate(fraction, num_quads))[0]
            products = self._products[name] = calibration.products
            recorded = asdict(calibration)
        ranks.ask(m.Inject(products))
        return {**recorded, "products": products}
