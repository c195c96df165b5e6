"""A results file: read and checked at this boundary, records from here on.

A file is pytest-benchmark's. Our part stands under `gan_bench` in it, in its `machine_info`, and in each
benchmark's `extra_info`. Benchmarks without windows stand under `gan_bench`, too: tools that read `benchmarks`
would show how often a second they run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.results.case_result import CaseResult
from bench.results.damage import KEY, benchmarks_of, damage
from bench.results.environment import OF_A_RUN, SessionEnvironment
from gan.errors import UsageError
from gan.files.json_files import read_json

RESULTS_SCHEMA = "gan-bench/2"


@dataclass(frozen=True)
class MissingCase:
    """A case that was not measured, and the reason."""

    case: str
    reason: str


@dataclass(frozen=True)
class SessionSummary:
    """What became of a session.

    Attributes:
        suite: Which cases were to be measured.
        complete: False if the session was interrupted, or a case failed.
        failed: Cases that failed.
        skipped: Cases that are impossible on the machine, or were not reached.
    """

    suite: str
    complete: bool
    failed: Sequence[MissingCase] = field(default=())
    skipped: Sequence[MissingCase] = field(default=())

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "SessionSummary":
        """Return the summary that `to_json` wrote."""
        failed = [MissingCase(item["case"], item["reason"]) for item in data["failed"]]
        skipped = [MissingCase(item["case"], item["reason"]) for item in data["skipped"]]
        return cls(data["suite"], data["complete"], failed, skipped)

    def to_json(self, environment: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a file says of the session; what changes from run to run is taken from its environment."""
        return {"schema": RESULTS_SCHEMA, **asdict(self), "run": {name: environment[name] for name in OF_A_RUN}}


@dataclass(frozen=True)
class Results:
    """A results file.

    Attributes:
        path: Where it is.
        session: What became of the session.
        environment: What it ran on.
        cases: What was measured.
    """

    path: Path
    session: SessionSummary
    environment: SessionEnvironment
    cases: Sequence[CaseResult]

    @classmethod
    def of(cls, path: Path, data: Mapping[str, Any]) -> "Results":
        """Return the records of a file whose content `damage` has passed."""
        return cls(
            path,
            SessionSummary.of(data[KEY]),
            SessionEnvironment.of({**data["machine_info"][KEY], **data[KEY]["run"]}),
            [CaseResult.of(benchmark["extra_info"][KEY]) for _, benchmark in benchmarks_of(data)],
        )


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        UsageError: It is missing, damaged, of another version or of another tool; in one line.
    """
    return Results.of(path, read_content(path))


def read_content(path: Path) -> dict[str, Any]:
    """Return the checked content of a results file, for pytest-benchmark; raise as `read` does."""
    data = read_json(path, nonfinite=True)  # the outcome of a seed may be not finite
    session = data.get(KEY) if isinstance(data, dict) else None
    version = session.get("schema") if isinstance(session, dict) else None
    if version != RESULTS_SCHEMA:
        written = f"written as {str(version)[:40]!r}" if version else "not written by this suite"
        raise UsageError(f"{path}: {written}; this version reads {RESULTS_SCHEMA}: measure again")
    if complaint := damage(data):
        raise UsageError(f"{path}: damaged ({complaint})")
    content: dict[str, Any] = data
    return content
