"""The record of a tuning: every heat, every check, and the final race, in one JSON file that is parsed once."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.race.record import SCHEMA_FILE as RACE_SCHEMA_FILE
from bench.race.record import RaceRecord, complaint_of
from bench.regress.record import read_versioned, require_schema, write_versioned
from bench.regress.windows import JsonObject, measured_number
from bench.results.checks import Check
from bench.results.environment import recorded_machine
from bench.results.folder import results_folder
from bench.tune.search import Heat, Trial
from gan.errors import UsageError

TUNE_SCHEMA = "gan-tune/1"
FINAL_RACE = "the final race"
"""How the reason begins why a finalist was dropped that failed there."""
SCHEMA_FILE = Path(__file__).with_name("schema.json")


@dataclass(frozen=True)
class RecordedTrial:
    """What was measured of a setting.

    Attributes:
        name: What it is called.
        axes: All axes of its case; only shown.
        command: That trains in it.
        heats: Its measurements beside the default.
        checks: Of tiers T1 and T2; None if it was not judged.
        dropped: Why it cannot be recommended; empty if it can.
    """

    name: str
    axes: JsonObject
    command: str
    heats: tuple[Heat, ...] = ()
    checks: tuple[Check, ...] | None = None
    dropped: str = ""

    @classmethod
    def of(cls, trial: Trial, command: str) -> "RecordedTrial":
        """Return how a trial is recorded."""
        return cls(trial.name, trial.case.to_json(), command, trial.heats, trial.checks, trial.dropped)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "RecordedTrial":
        """Return the trial of a valid JSON object."""
        checks = data["checks"]
        return cls(
            name=data["name"],
            axes=data["axes"],
            command=data["command"],
            heats=tuple(Heat(heat["num_quads"], measured_number(heat["log_ratio"])) for heat in data["heats"]),
            checks=None if checks is None else tuple(map(Check.of, checks)),
            dropped=data["dropped"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        checks = None if self.checks is None else [check.to_json() for check in self.checks]
        return {**asdict(self), "checks": checks}

    @property
    def ratio(self) -> float | None:
        """Its time per image over the default's in its last heat; None without one."""
        return math.exp(self.heats[-1].log_ratio) if self.heats else None


@dataclass(frozen=True)
class TuneRecord:
    """Everything that a tuning measured.

    Attributes:
        what: What is trained, in a few words.
        default: The setting that all are compared with.
        trials: The others, in the order in which they were tried.
        finalist: The name of the setting that raced the default; empty if none could.
        race: Of the default, its contender a, and the finalist; None if there was none.
        ended: Why the search ended.
        budget_seconds: For all of it.
        environment: The machine and what it ran, as in a results file.
        seconds: Of the whole tuning.
    """

    what: str
    default: RecordedTrial
    trials: tuple[RecordedTrial, ...]
    finalist: str
    race: RaceRecord | None
    ended: str
    budget_seconds: float
    environment: JsonObject
    seconds: float = 0.0

    @property
    def machine(self) -> str:
        """The machine and versions in one line."""
        return recorded_machine(self.environment)

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "schema": TUNE_SCHEMA,
            "what": self.what,
            "default": self.default.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "finalist": self.finalist,
            "race": self.race and self.race.to_json(),
            "ended": self.ended,
            "budget_seconds": self.budget_seconds,
            "environment": self.environment,
            "seconds": self.seconds,
        }

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "TuneRecord":
        """Return the record of a valid JSON object, its race included."""
        return cls(
            what=data["what"],
            default=RecordedTrial.parse(data["default"]),
            trials=tuple(map(RecordedTrial.parse, data["trials"])),
            finalist=data["finalist"],
            race=RaceRecord.parse(data["race"]) if data["race"] else None,
            ended=data["ended"],
            budget_seconds=data["budget_seconds"],
            environment=data["environment"],
            seconds=data["seconds"],
        )


def tunings_folder() -> Path:
    """Return where records are stored, relative to the working directory."""
    return results_folder() / "tune"


def write_tuning(path: Path, record: TuneRecord, outcome: Mapping[str, Any]) -> None:
    """Write a record and its outcome, which is there for readers of the file, whole or not at all."""
    write_versioned(path, {**record.to_json(), "outcome": outcome})


def read_tuning(path: Path) -> TuneRecord:
    """Read a record of which something can be said.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    data = read_versioned(path, TUNE_SCHEMA, writer="a tuning", use="shown", schema=SCHEMA_FILE)
    if data["race"]:
        require_schema(path, data["race"], schema=RACE_SCHEMA_FILE)
    record = TuneRecord.parse(data)
    if complaint := _complaint_of(record):
        raise UsageError(f"{path}: {complaint}")
    return record


def _complaint_of(record: TuneRecord) -> str | None:
    for trial in record.trials:
        if not all(math.isfinite(heat.log_ratio) and abs(heat.log_ratio) < 50 for heat in trial.heats):
            return f"{trial.name}: a log ratio is no ratio of two times"
    names = [trial.name for trial in record.trials]
    if record.race is None:
        return "it has a finalist and no race" if record.finalist else None
    if record.finalist not in names:
        return f"its finalist {record.finalist!r} is none of its settings"
    if len(record.race.contenders) != 2:
        return "its race is not one of two contenders"
    return complaint_of(record.race)
