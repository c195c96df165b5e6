"""How settings are measured and judged: in fresh processes, which take turns with those of the default."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench.race.contenders import Contender, in_order
from bench.race.launch import Launches
from bench.race.measure import MOST_LETTERS, ContenderError, measure_race
from bench.race.options import DEFAULT_PAIRS, RaceSettings
from bench.race.places import CODE, RACES_PREFIX, Place
from bench.race.record import FIRST, Launch, RaceRecord
from bench.race.standing import LEAST_PAIRS, standings_of
from bench.regress.progress import Say, below
from bench.regress.settings import MOST_QUADS
from bench.results.checks import Check, worst_checks
from bench.results.environment import session_environment
from bench.runner.leftovers import temporary_directory
from bench.suite.case_axes import DEFAULT_SHAPE
from bench.suite.cases import Case
from bench.suite.workloads import NUM_DIGITS, WORKLOADS
from bench.tune.advice import launch_command
from bench.tune.options import TuneSettings
from bench.tune.record import FINAL_RACE, RecordedTrial, TuneRecord
from bench.tune.search import LEAST_GAIN, Failed, Heat, Search, Trial
from bench.tune.settings import FIXED_AXES, identity, neighbours
from bench.turns import messages as m
from bench.turns.quads import LEAST_QUADS
from bench.turns.ranks import NoAnswerError, PairError, SideRanks, processes
from bench.turns.specs import spec_of
from gan.errors import UsageError
from gan.models.mlp import MLP

MOST_SIDE_BY_SIDE = 5
"""Settings beside the default in one launch: more of them start slowly, and fill the memory."""
FINAL_SHARE = 0.45
"""Of the budget; the rest is for the search."""
LEAST_STALL_SECONDS = 60.0
"""A setting may start for so long even where less time is left for the search."""
WORTH_A_RACE = math.log(1.02)
"""A setting whose log ratio to the default was larger does not race it again."""
MOST_JUDGED = 64
"""Images of a step that is judged: the answer does not depend on them, and the time does."""


class _SettingPlace(Place):
    """Where the processes of a setting are, which may have another letter in each heat."""

    def cache(self, _: str) -> Path:
        """Return the directory of its compiler's cache."""
        return self.root / "cache"


@dataclass
class TurnMeasures:
    """Measures settings in processes that take turns.

    Attributes:
        settings: What is tuned.
        root: A temporary directory.
        deadline: By `time.monotonic`, when the search has to end.
        say: Told what is going on.
        launches: What was measured, in order.
    """

    settings: TuneSettings
    root: Path
    deadline: float
    say: Say
    launches: list[Launch] = field(default_factory=list)
    _draw: random.Random = field(init=False)
    _places: dict[object, Place] = field(default_factory=dict)
    _longest_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.settings.seed)

    def place(self, case: Case) -> Place:
        """Return where a setting's processes are. Its compiler's cache stays from heat to heat."""
        key = identity(case)
        if key not in self._places:
            root = self.root / str(len(self._places))
            root.mkdir()
            self._places[key] = _SettingPlace(root, CODE, has_gan=True)
        return self._places[key]

    def has_time(self) -> bool:
        """Say whether the search has time for something that takes as long as the longest so far."""
        return time.monotonic() + self._longest_seconds < self.deadline

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._longest_seconds = max(self._longest_seconds, time.monotonic() - began)

    def heat(self, cases: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
        """Return a heat of each setting beside the default and as many others as fit, until the time is over."""
        outcomes: dict[Case, Heat | Failed] = {}
        for index in range(0, len(cases), self._room()):
            if outcomes and not self.has_time():
                break
            self.say(f"{index} of {len(cases)} settings measured, {num_quads} quads each")
            group = cases[index : index + self._room()]
            with self._timed():
                measured = self._group(group, num_quads)
            for case, outcome in measured.items():
                if isinstance(outcome, Failed) and outcome.may_pass_alone and len(group) > 1 and self.has_time():
                    measured[case] = self._group([case], num_quads)[case]
            outcomes |= measured
        return outcomes

    def _group(self, group: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
        """Measure settings side by side; one that fails is left out, and the others are measured again."""
        failed: dict[Case, Heat | Failed] = {}
        running = list(group)
        while running:
            try:
                return {**failed, **self._launch(running, num_quads)}
            except PairError as error:
                if error.side == FIRST:
                    self.require_default(self.settings.stall_seconds)
                    # beside fewer others the default may have memory and time enough
                    failure = Failed(f"the default failed beside it: {_shortened(error)}", may_pass_alone=True)
                    return {**failed, **dict.fromkeys(running, failure)}
                # beside others it may have lacked memory
                failure = Failed(_shortened(error), may_pass_alone=not isinstance(error, NoAnswerError))
                failed[running.pop(ord(error.side) - ord(FIRST) - 1)] = failure
        return failed

    def require_default(self, answer_seconds: float) -> None:
        """Raise ContenderError if the default setting fails by itself, too, or does not answer for so long."""
        case = self.settings.default
        try:
            with self._side(case, FIRST, answer_seconds) as side:
                side.ask(m.Prepare(spec_of(case)))
                side.run(1)
        except PairError as error:
            raise ContenderError(f"the default setting: {_shortened(error)}") from error

    @contextmanager
    def _side(self, case: Case, letter: str, answer_seconds: float) -> Iterator[SideRanks]:
        """Start the processes of one setting by itself."""
        with processes(self.place(case), (letter,), case.device, case.num_processes) as sides:
            side = replace(sides[letter], answer_seconds=answer_seconds)
            side.ask(m.Hello())
            yield side

    def _stall_seconds(self) -> float:
        """Return the most that an answer may take: no longer than the search, but long enough to start."""
        seconds_left = self.deadline - time.monotonic()
        return min(self.settings.stall_seconds, max(LEAST_STALL_SECONDS, seconds_left))

    def _room(self) -> int:
        fit = self.settings.machine.processes_at_once // self.settings.default.num_processes - 1
        return max(1, min(MOST_SIDE_BY_SIDE, fit))

    def _launch(self, group: Sequence[Case], num_quads: int) -> dict[Case, Heat | Failed]:
        contenders = in_order([Contender(case) for case in (self.settings.default, *group)])
        race = RaceSettings(contenders, most_quads=num_quads, stall_seconds=self._stall_seconds())
        where = {letter: self.place(contender.case) for letter, contender in contenders.items()}
        launch = Launches(race, where, self._draw).measure()
        self.launches.append(launch)
        _require_finite_default(launch)
        outcomes: dict[Case, Heat | Failed] = {}
        for letter, case in zip(list(contenders)[1:], group, strict=True):
            lost = _not_finite(launch, letter)
            heat = Heat(len(launch.duels[letter].orders), launch.log_ratio(letter))
            outcomes[case] = Failed(f"not finite: {lost}") if lost else heat
        return outcomes

    def judge(self, case: Case) -> tuple[Check, ...] | Failed:
        """Return the checks of T1 and T2, of several processes both of what they exchange and of one process."""
        judged = [case] if case.num_processes == 1 else [case, _of_one_process(case)]
        checks: list[Check] = []
        try:
            with self._timed():
                for one in map(_judged, judged):
                    with self._side(one, "b", self._stall_seconds()) as side:
                        answers = side.ask(m.JudgeSemantics(spec_of(one), one.precision))
                    checks += worst_checks([list(map(Check.of, answer.checks)) for answer in answers])
        except PairError as error:
            return Failed(_shortened(error))
        return tuple(checks)


def _not_finite(launch: Launch, letter: str) -> str:
    """Return the names of a contender's losses that are not finite, with commas."""
    entry = launch.entries[letter]
    return ", ".join([*entry.early_losses.not_finite, *entry.last_losses.not_finite])


def _require_finite_default(launch: Launch) -> None:
    if lost := _not_finite(launch, FIRST):
        raise ContenderError(f"the default setting: not finite: {lost}")


def _of_one_process(case: Case) -> Case:
    """Return a case in one process, which exchanges nothing."""
    exchange = {name: getattr(Case, name) for name in ("comm_hook", "bucket_size", "shared_memory")}
    return replace(case, num_processes=1, **exchange)


def _judged(case: Case) -> Case:
    """Return the case that is judged instead of one: on digits, and on few of them."""
    most = MOST_JUDGED
    if not isinstance(case.row.discriminator, MLP):
        most = WORKLOADS["stability"].most_convolution_batch or most
    split, whole = (case.num_processes, 1) if case.scaling == "strong" else (1, case.num_processes)
    most = min(most, NUM_DIGITS // (whole * case.row.discriminator_steps))
    batch_size = max(split, min(case.batch_size, most) // split * split)
    return replace(case, batch_size=batch_size, accumulate=1, image_shape=DEFAULT_SHAPE)


def _shortened(error: PairError) -> str:
    return error.reason[:MOST_LETTERS]


def tune_recipe(settings: TuneSettings, root: Path, say: Say) -> TuneRecord:
    """Search, and let the best setting race the default.

    Raises:
        ContenderError: The default setting failed.
        UsageError: What cannot be compared.
    """
    began = time.monotonic()
    budget = settings.budget_seconds
    measures = TurnMeasures(settings, root, began + (1 - FINAL_SHARE) * budget, below("search", say))
    search = Search(
        settings.default,
        lambda case: list(neighbours(case, settings.values, settings.machine)),
        measures,
        measures.say,
    )
    best = search.run()
    if best and best.log_ratio > WORTH_A_RACE:
        best = None
    race = None
    if best:
        try:
            race = _final_race(settings, measures, best, budget - (time.monotonic() - began), say)
        except ContenderError as error:
            measures.require_default(settings.stall_seconds)
            search.drop(best.case, f"{FINAL_RACE}: {error}")
            best = None
    for launch in race.launches if race else ():
        _require_finite_default(launch)
    if race and race.has_failed:
        measures.require_default(settings.stall_seconds)
    commands = partial(launch_command, batch_was_chosen=settings.batch_was_chosen)
    return TuneRecord(
        what=", ".join(settings.default.labels(FIXED_AXES)),
        default=RecordedTrial.of(Trial(settings.default), commands(settings.default)),
        trials=tuple(RecordedTrial.of(one, commands(one.case)) for one in search.trials.values()),
        finalist=best.name if best else "",
        race=race,
        ended=search.ended,
        budget_seconds=budget,
        environment=session_environment(),
        seconds=round(time.monotonic() - began, 1),
    )


def _final_race(
    settings: TuneSettings, measures: TurnMeasures, best: Trial, seconds: float, say: Say
) -> RaceRecord:
    """Race the best setting against the default, until there are enough pairs or it can no longer win."""
    contenders = in_order([Contender(settings.default), Contender(best.case)])
    race = RaceSettings(
        contenders,
        num_pairs=DEFAULT_PAIRS,
        budget_seconds=max(1.0, seconds),
        stall_seconds=settings.stall_seconds,
        most_quads=_quads_that_fit(measures.launches, seconds / DEFAULT_PAIRS),
        seed=settings.seed,
    )
    where = {letter: measures.place(contender.case) for letter, contender in contenders.items()}
    return measure_race(race, where, below("final race", say), is_over=cannot_win)


def cannot_win(record: RaceRecord) -> bool:
    """Say whether the interval excludes that the other contender is better than the first by more than 1 %."""
    if len(record.launches) < LEAST_PAIRS:
        return False
    ratio = standings_of(record)[1].ratio
    return ratio is not None and ratio.has_interval and ratio.low > 1 / (1 + LEAST_GAIN)


def _quads_that_fit(launches: Sequence[Launch], pair_seconds: float) -> int:
    """Return how many quads a pair of the final race has time for, from what launches of the search took."""
    startup_seconds = min(launch.entries[FIRST].startup_seconds for launch in launches)
    longest = max(sum(windows) / len(windows) for duel in launches[-1].duels.values() for windows in duel.windows)
    fitting = int((pair_seconds - 2 * startup_seconds) / (4 * longest))
    return min(MOST_QUADS, max(LEAST_QUADS, fitting))


@contextmanager
def tuning_directory() -> Iterator[Path]:
    """Yield a temporary directory that is gone afterwards, with its processes; raise UsageError without room."""
    try:
        with temporary_directory(RACES_PREFIX) as root:
            yield root
    except OSError as error:
        if error.filename is None:
            raise
        raise UsageError(f"{error.filename}: {error.strerror}; TMPDIR names another place") from error
