"""The record of a race: frozen dataclasses in memory, one JSON file on disk, parsed once.

Everything that a race says is a function of its record, so that `--replay` says the same again.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.race.contenders import Contender
from bench.regress.record import read_versioned, write_versioned
from bench.regress.verdict import pair_log_ratio
from bench.regress.windows import JsonObject, is_measured, measured_number
from bench.report.compare import differences
from bench.results.environment import recorded_machine
from bench.results.folder import results_folder
from gan.errors import UsageError

RACE_SCHEMA = "gan-race/1"
SCHEMA_FILE = Path(__file__).with_name("schema.json")
FIRST = "a"
"""The contender that the others are compared with."""
MOST_FAILED = 1
"""A race ends if more launches fail, or if the first one does."""


@dataclass(frozen=True)
class LossReading:
    """Losses of a step in one process.

    Attributes:
        step: How many steps were taken.
        values: By name, None for one that is not finite; None if the contender shows no losses.
    """

    step: int
    values: Mapping[str, float | None] | None

    @classmethod
    def of(cls, step: int, values: Mapping[str, float] | None) -> "LossReading":
        """Return a reading of measured losses."""
        if values is None:
            return cls(step, None)
        return cls(step, {name: value if math.isfinite(value) else None for name, value in values.items()})

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "LossReading":
        """Return the reading of a valid JSON object; a whole number too large for a float is not finite."""
        values = data["values"]
        if values is not None:
            values = {
                name: math.nan if value is None else measured_number(value) for name, value in values.items()
            }
        return cls.of(data["step"], values)

    @property
    def not_finite(self) -> list[str]:
        """Names of the losses that are not finite."""
        return [name for name, value in (self.values or {}).items() if value is None]


@dataclass(frozen=True)
class Entry:
    """What a launch pair measured of a contender, besides its windows.

    Attributes:
        facts: Hardware and versions that its process saw.
        configuration: Device, threads, batch, precision.
        startup_seconds: Until its first step was done; all contenders start at the same time.
        images_per_step: Real images over all processes.
        num_parameters: By network; None if it shows no networks.
        peak_bytes: Largest over the ranks, once warm.
        last_peak_bytes: The same at the end.
        early_losses: After as many steps as the other contenders had taken.
        last_losses: At the end.
        period: Steps over which the time of a step is a mean.
    """

    facts: JsonObject
    configuration: JsonObject
    startup_seconds: float
    images_per_step: int
    num_parameters: Mapping[str, int] | None
    peak_bytes: float
    last_peak_bytes: float
    early_losses: LossReading
    last_losses: LossReading
    period: int = 1

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "Entry":
        """Return the entry of a valid JSON object; what is no number becomes NaN, which `complaint_of` names."""
        return cls(
            facts=data["facts"],
            configuration=data["configuration"],
            startup_seconds=measured_number(data["startup_seconds"]),
            images_per_step=data["images_per_step"],
            num_parameters=data["num_parameters"],
            peak_bytes=measured_number(data["peak_bytes"]),
            last_peak_bytes=measured_number(data["last_peak_bytes"]),
            early_losses=LossReading.parse(data["early_losses"]),
            last_losses=LossReading.parse(data["last_losses"]),
            period=data.get("period", 1),
        )


@dataclass(frozen=True)
class Duel:
    """The quads of the first contender, A, and another one, X, in a launch pair.

    Attributes:
        steps_per_window: Of A and of X.
        orders: ABBA or BAAB, where B is X, one a quad.
        windows: Seconds of A and of X, two a quad, in the order in which they were measured.
    """

    steps_per_window: tuple[int, int]
    orders: tuple[str, ...]
    windows: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "Duel":
        """Return the duel of a valid JSON object."""
        first, other = (tuple(map(measured_number, values)) for values in data["windows"])
        steps = data["steps_per_window"]
        return cls((steps[0], steps[1]), tuple(data["orders"]), (first, other))

    def step_seconds(self, place: int) -> list[float]:
        """Return the seconds per step of each window of A (0) or X (1)."""
        return [seconds / self.steps_per_window[place] for seconds in self.windows[place]]

    def log_ratio(self, images_per_step: tuple[int, int]) -> float:
        """Return ln(X's time per image / A's), the one number that a launch pair gives: see `pair_log_ratio`."""
        first, other = (np.divide(self.step_seconds(place), images_per_step[place]) for place in (0, 1))
        return pair_log_ratio(first.tolist(), other.tolist())


@dataclass(frozen=True)
class Launch:
    """Fresh processes of all contenders: a launch pair of the first one with each of the others.

    Attributes:
        time: Of day, in seconds since 1970.
        started: Letters in the order in which the contenders were started.
        entries: By letter.
        duels: By the letter of X.
        busy_cores: That other processes of the machine kept busy meanwhile.
        stolen_cores: That the host of a virtual machine took away.
        seconds: That it took.
    """

    time: float
    started: tuple[str, ...]
    entries: Mapping[str, Entry]
    duels: Mapping[str, Duel]
    busy_cores: float
    stolen_cores: float
    seconds: float

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "Launch":
        """Return the launch of a valid JSON object."""
        return cls(
            time=data["time"],
            started=tuple(data["started"]),
            entries={letter: Entry.parse(entry) for letter, entry in data["entries"].items()},
            duels={letter: Duel.parse(duel) for letter, duel in data["duels"].items()},
            busy_cores=data["busy_cores"],
            stolen_cores=data["stolen_cores"],
            seconds=data["seconds"],
        )

    def log_ratio(self, letter: str) -> float:
        """Return d of a contender: ln of its time per image over the first one's."""
        images = (self.entries[FIRST].images_per_step, self.entries[letter].images_per_step)
        return self.duels[letter].log_ratio(images)

    def step_seconds(self, letter: str) -> list[float]:
        """Return the seconds per step of all windows of a contender."""
        if letter == FIRST:
            return [seconds for duel in self.duels.values() for seconds in duel.step_seconds(0)]
        return self.duels[letter].step_seconds(1)


@dataclass(frozen=True)
class RecordedContender:
    """Who took part.

    Attributes:
        name: What it is called.
        subject: As on the command line.
        axes: Recipe, device, precision and whatever else the version had; only shown.
    """

    name: str
    subject: str
    axes: JsonObject

    @classmethod
    def of(cls, contender: Contender) -> "RecordedContender":
        """Return how a contender is recorded."""
        return cls(contender.name, contender.subject, contender.axes)


@dataclass(frozen=True)
class RaceRecord:
    """Everything that a race measured.

    Attributes:
        contenders: By letter.
        settings: What they share, in a few words.
        num_pairs: Launch pairs that were asked for.
        budget_seconds: For all of it.
        environment: The machine and what it ran, as in a results file.
        failed_launches: Why launches were measured again.
        launches: In the order in which they were measured.
        seconds: Of the whole race.
    """

    contenders: Mapping[str, RecordedContender]
    settings: str
    num_pairs: int
    budget_seconds: float
    environment: JsonObject
    failed_launches: tuple[str, ...] = ()
    launches: tuple[Launch, ...] = ()
    seconds: float = 0.0

    @cached_property
    def others(self) -> list[str]:
        """The letters of all contenders but the first."""
        return [letter for letter in self.contenders if letter != FIRST]

    @property
    def machine(self) -> str:
        """The machine and versions in one line, without a revision."""
        return recorded_machine(self.environment)

    @property
    def has_failed(self) -> bool:
        """Whether so many launches failed that the race ended."""
        return len(self.failed_launches) > MOST_FAILED

    def name(self, letter: str) -> str:
        """Return what a contender is called."""
        return self.contenders[letter].name

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"schema": RACE_SCHEMA, **asdict(self)}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "RaceRecord":
        """Return the record of a valid JSON object; members that this version does not know are left out."""
        return cls(
            contenders={
                letter: RecordedContender(one["name"], one["subject"], one["axes"])
                for letter, one in data["contenders"].items()
            },
            settings=data["settings"],
            num_pairs=data["num_pairs"],
            budget_seconds=data["budget_seconds"],
            environment=data["environment"],
            failed_launches=tuple(data["failed_launches"]),
            launches=tuple(map(Launch.parse, data["launches"])),
            seconds=data["seconds"],
        )


def complaint_of(record: RaceRecord) -> str | None:
    """Return why nothing can be said of a record, in one line, or None."""
    if FIRST not in record.contenders or not record.others:
        return "it has not two contenders or more"
    if not record.launches:
        return "no launch pair was measured: raise --budget"
    first = record.launches[0]
    for number, launch in enumerate(record.launches, 1):
        if launch.entries.keys() != record.contenders.keys() or set(launch.duels) != set(record.others):
            return f"pair {number}: its contenders are not those of the race"
        for letter, entry in launch.entries.items():
            if problem := _complaint_of_entry(entry, first.entries[letter]):
                return f"pair {number}, {record.name(letter)}: {problem}"
            for key, (expected, value) in differences(_shared(first.entries[FIRST]), _shared(entry)):
                return (
                    f"pair {number}: {key} is {expected!r} for {record.name(FIRST)} in pair 1 and {value!r} for "
                    f"{record.name(letter)}; only what ran on one machine with the same versions can race"
                )
        for letter, duel in launch.duels.items():
            if problem := _complaint_of_duel(duel, first.duels[letter]):
                return f"pair {number}, {record.name(letter)}: {problem}"
    return None


def _shared(entry: Entry) -> JsonObject:
    """Return the hardware and versions that all contenders share: one that runs on the CPU sees no GPU."""
    return {name: value for name, value in entry.facts.items() if name != "gpus"}


def _complaint_of_entry(entry: Entry, first: Entry) -> str | None:
    """Return what is wrong with an entry, beside that of the same contender in the first launch."""
    if entry.images_per_step < 1:
        return f"images_per_step is {entry.images_per_step}; a step takes at least one image"
    if entry.images_per_step != first.images_per_step:
        return f"images_per_step is {entry.images_per_step}, and was {first.images_per_step} in the first pair"
    if not is_measured(entry.startup_seconds):
        return "start-up is no time"
    if not is_measured(entry.peak_bytes):
        return "peak memory is no number of bytes"
    for key, (expected, value) in differences(
        {**first.configuration, "facts": first.facts}, {**entry.configuration, "facts": entry.facts}
    ):
        return f"{key} is {value!r}, and was {expected!r} in the first pair"
    return None


def _complaint_of_duel(duel: Duel, first: Duel) -> str | None:
    """Return what is wrong with a duel, beside that of the same contenders in the first launch."""
    if duel.steps_per_window != first.steps_per_window:
        return f"unequal windows: {duel.steps_per_window} steps, and {first.steps_per_window} in the first pair"
    for windows in duel.windows:
        if len(windows) != 2 * len(duel.orders):
            return f"unequal windows: {len(windows)} in {len(duel.orders)} quads"
        if not windows:
            return "empty: it has no windows"
        if not all(map(is_measured, windows)):
            return "it has a window that is no time (NaN, infinite or not positive)"
    return None


def races_folder() -> Path:
    """Return where races are stored, relative to the working directory."""
    return results_folder() / "races"


def write_race(path: Path, record: RaceRecord, outcome: Mapping[str, Any]) -> None:
    """Write a record and its outcome, which is there for readers of the file, whole or not at all."""
    write_versioned(path, {**record.to_json(), "outcome": outcome})


def read_race(path: Path) -> RaceRecord:
    """Read a record of which something can be said.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    data = read_versioned(path, RACE_SCHEMA, writer="a race", use="shown", schema=SCHEMA_FILE)
    record = RaceRecord.parse(data)
    if complaint := complaint_of(record):
        raise UsageError(f"{path}: {complaint}")
    return record
