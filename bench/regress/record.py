"""The record of a regression check: frozen dataclasses in memory, one JSON file on disk, parsed once.

Everything that a check says is a function of its record, so that `--replay` gives the same verdict again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from bench.regress.sides import SIDES, Both
from bench.regress.subject_case import CheckedCase
from bench.regress.windows import OF_SUBJECTS, CaseWindows, JsonObject, Pair, StepLosses, is_measured
from bench.report.compare import differences
from bench.results.checks import Check
from bench.results.environment import recorded_machine
from bench.results.folder import results_folder
from bench.subjects.load import CORE
from gan.errors import UsageError
from gan.files.atomic import whole_file
from gan.files.json_files import read_json

CHECK_SCHEMA = "gan-regress/1"
SETTINGS_OF_CODE = ("threads", "flush_denormal", "matmul_precision")
"""Settings of PyTorch that a subject may change: they are a part of what is compared, and noted."""
SCHEMA_FILE = Path(__file__).with_name("schema.json")


@dataclass(frozen=True)
class CheckOptions:
    """What a check was asked for.

    Attributes:
        base: The revision, as it was named.
        tolerance: A slowdown that a PASS excludes, as a fraction.
        budget_seconds: For all of the check.
        pairs: How many to measure whatever the verdict, for a pool; None in a check.
        inject: Extra work in each of HEAD's steps, as a fraction; below 0 in BASE's.
        new_losses: Whether the losses of a subject differ as intended.
    """

    base: str
    tolerance: float
    budget_seconds: float
    pairs: int | None = None
    inject: float = 0.0
    new_losses: bool = False


@dataclass(frozen=True)
class RecordedCase:
    """What was measured under a case's name.

    Attributes:
        workload: `step` or `epoch`.
        axes: Recipe or subject, device, precision and whatever else the case's version had.
    """

    workload: str
    axes: JsonObject

    @classmethod
    def of(cls, case: CheckedCase) -> "RecordedCase":
        """Return how a case is recorded."""
        return cls.parse(case.to_json())

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "RecordedCase":
        """Return the case of a valid JSON object."""
        return cls(data["workload"], {name: value for name, value in data.items() if name != "workload"})

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {"workload": self.workload, **self.axes}

    @property
    def is_subject(self) -> bool:
        """Whether a subject was measured instead of a recipe."""
        return bool(self.axes.get("subject", CORE) != CORE)


@dataclass(frozen=True)
class CheckRecord:
    """Everything that a check measured.

    Attributes:
        options: What was asked for.
        environment: The machine and what it ran, as in a results file.
        revisions: Commits; HEAD's ends with `+` if its files differ from it.
        cases: What was compared, by name.
        missing: Cases whose recipe a side does not have.
        gone: Recipes that BASE has, HEAD has not, and `--dropped` does not name.
        dropped: Cases of recipes that `--dropped` names.
        semantics: The checks of tier T1, by case; each is of the worst rank.
        unjudged: Cases whose step takes too many images for T1.
        failed_pairs: Why pairs were measured again.
        pairs: In the order in which they were measured.
        seconds: Of the whole check.
        losses: Of a subject's first steps by case, in the processes before the first launch pair.
    """

    options: CheckOptions
    environment: JsonObject
    revisions: Both[str]
    cases: Mapping[str, RecordedCase]
    missing: Both[tuple[str, ...]]
    gone: tuple[str, ...]
    dropped: tuple[str, ...]
    semantics: Mapping[str, tuple[Check, ...]]
    unjudged: tuple[str, ...]
    failed_pairs: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()
    seconds: float = 0.0
    losses: Mapping[str, Both[tuple[StepLosses, ...]]] = field(default_factory=dict)

    @property
    def time(self) -> str:
        """When the check began."""
        return str(self.environment["time"])

    @property
    def machine(self) -> str:
        """The machine and versions in one line, without a revision."""
        return recorded_machine(self.environment)

    @property
    def median_pair_seconds(self) -> float:
        """How long a pair takes; the upper of two medians."""
        seconds = sorted(pair.seconds for pair in self.pairs)
        return seconds[len(seconds) // 2]

    def to_json(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        cases = {name: case.to_json() for name, case in self.cases.items()}
        semantics = {name: [check.to_json() for check in checks] for name, checks in self.semantics.items()}
        data = asdict(self)
        if not self.losses:
            del data["losses"]
        if not self.options.new_losses:
            del data["options"]["new_losses"]
        for windows in (windows for pair in data["pairs"] for windows in pair["cases"].values()):
            for name in OF_SUBJECTS:
                if not any(windows[name].values()):
                    del windows[name]
            if windows["period"] == 1:
                del windows["period"]
        return {"schema": CHECK_SCHEMA, **data, "cases": cases, "semantics": semantics}

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> "CheckRecord":
        """Return the record of a valid JSON object; members that this version does not know are left out."""
        options = data["options"]
        return cls(
            options=CheckOptions(
                **{name: options[name] for name in CheckOptions.__dataclass_fields__ if name in options}
            ),
            environment=data["environment"],
            revisions=Both.parse(data["revisions"], str),
            cases={name: RecordedCase.parse(case) for name, case in data["cases"].items()},
            missing=Both.parse(data["missing"], tuple),
            gone=tuple(data["gone"]),
            dropped=tuple(data["dropped"]),
            semantics={
                name: tuple(Check.of({"tier": "T1", **check}) for check in checks)
                for name, checks in data["semantics"].items()
            },
            unjudged=tuple(data["unjudged"]),
            failed_pairs=tuple(data["failed_pairs"]),
            pairs=tuple(map(Pair.parse, data["pairs"])),
            seconds=data["seconds"],
            losses={name: Both.parse(runs, tuple) for name, runs in data.get("losses", {}).items()},
        )


def complaint_of(record: CheckRecord) -> str | None:
    """Return why a record cannot be judged, in one line, or None."""
    if not record.pairs:
        return "no launch pair was measured: raise --budget"
    for name in record.cases:
        if not any(name in pair.cases for pair in record.pairs):
            return f"{name}: no launch pair has measured it"
    first = record.pairs[0]
    for number, pair in enumerate(record.pairs, 1):
        for side in SIDES:
            for key, (expected, value) in differences(first.sides.base, pair.sides[side]):
                return (
                    f"pair {number}: {key} is {expected!r} for BASE in pair 1 and {value!r} for {side.upper()}; "
                    "only what ran on one machine with the same versions can be compared"
                )
        for side in SIDES:
            if not is_measured(pair.startup_seconds[side]):
                return f"pair {number}: start-up is no time for {side.upper()}"
        for name, case in pair.cases.items():
            if problem := _complaint_of_case(case, first.cases.get(name, case), record.cases.get(name)):
                return f"pair {number}, {name}: {problem}"
    return None


def _complaint_of_case(case: CaseWindows, first: CaseWindows, recorded: RecordedCase | None) -> str | None:
    """Return what is wrong with a pair's windows of a case, beside those of the first pair."""
    steps = case.steps_per_window
    if steps.base != steps.head:
        return f"unequal windows: {steps.base} steps of BASE, {steps.head} of HEAD"
    if steps != first.steps_per_window:
        return f"unequal windows: {steps.base} steps, but {first.steps_per_window.base} in the first pair"
    for side in SIDES:
        windows = case.windows[side]
        if len(windows) != 2 * len(case.orders):
            return f"unequal windows: {len(windows)} of {side.upper()} in {len(case.orders)} quads"
        if not windows:
            return "empty: it has no windows"
        if not all(map(is_measured, windows)):
            return f"{side.upper()} has a window that is no time (NaN, infinite or not positive)"
        if not is_measured(case.peak_bytes[side]):
            return f"{side.upper()}'s peak memory is not a number of bytes"
        for key, (expected, value) in differences(first.configuration.base, case.configuration[side]):
            if recorded and recorded.is_subject and key in SETTINGS_OF_CODE:
                continue
            return f"{key} is {expected!r} for BASE and {value!r} for {side.upper()}; the same is compared only"
    return None


def short_revision(revision: str, num_digits: int = 10) -> str:
    """Return the first digits of a commit, and the `+` of a tree that differs from it."""
    return revision[:num_digits] + ("+" if revision.endswith("+") else "")


def checks_folder() -> Path:
    """Return where checks are stored, relative to the working directory."""
    return results_folder() / "regress"


def write_record(path: Path, record: CheckRecord, verdict: Mapping[str, Any]) -> None:
    """Write a record and its verdict, which is there for readers of the file, whole or not at all."""
    write_versioned(path, {**record.to_json(), "verdict": verdict})


def read_record(path: Path) -> CheckRecord:
    """Read a record that can be judged.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    data = read_versioned(path, CHECK_SCHEMA, writer="this check", use="judged")
    record = CheckRecord.parse(data)
    if complaint := complaint_of(record):
        raise UsageError(f"{path}: {complaint}")
    return record


def write_versioned(path: Path, data: Mapping[str, Any]) -> None:
    """Write the JSON of a record, in one line, whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(data).encode() + b"\n")


def read_versioned(path: Path, version: str, *, writer: str, use: str, schema: Path = SCHEMA_FILE) -> Any:
    """Read the JSON of a record of one version.

    Args:
        path: The file.
        version: What its member `schema` has to be.
        writer: What writes such records, for the complaint.
        use: What can be done with them, as a participle.
        schema: The file with their schema.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    data = read_json(path, nonfinite=True)  # a record's `complaint_of` names the window that is not finite
    told = data.get("schema") if isinstance(data, dict) else None
    if told != version:
        written = f"written as {told!r}"[:100] if told else f"not written by {writer}"
        raise UsageError(f"{path}: {written}; only {version!r} can be {use}: measure again")
    require_schema(path, data, schema=schema)
    return data


def require_schema(path: Path, data: Any, kind: str = "", schema: Path = SCHEMA_FILE) -> None:
    """Check JSON data against a schema.

    Args:
        path: The file that the data is from, for the complaint.
        data: The parsed JSON.
        kind: Name of a definition in the schema; empty for the schema itself, a record's.
        schema: The file that has it.

    Raises:
        UsageError: The data does not follow it; the first fault, in one line.
    """
    for error in _validator(schema, kind).iter_errors(data):  # only the first: a damaged file may have a million
        message = error.message if len(error.message) <= 120 else f"{error.message[:60]} … {error.message[-60:]}"
        raise UsageError(f"{path}: damaged ({error.json_path[:200]}: {message})")


@cache
def _validator(file: Path, kind: str) -> Any:
    schema = json.loads(file.read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite_number)
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)
    return validator({**schema, **schema["$defs"][kind]} if kind else schema)


def _is_finite_number(_: Any, value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
