"""A results file: read, and checked against the schema.

A file is pytest-benchmark's; our part stands under `gan_bench` in it, in its `machine_info`, and in each
benchmark's `extra_info`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.results.damage import KEY, damage
from bench.results.environment import machine_line
from bench.results.figures import CaseResult
from gan.errors import UsageError
from gan.files.json_files import read_json

SCHEMA = "gan-bench/2"
OF_A_RUN = ("time", "command", "load_average", "git")
"""What changes from run to run."""


@dataclass(frozen=True)
class Results:
    """A results file."""

    path: Path
    data: Mapping[str, Any]

    @property
    def environment(self) -> dict[str, Any]:
        """Machine, versions and revision."""
        return {**self.data["machine_info"][KEY], **self.session["run"]}

    @property
    def session(self) -> dict[str, Any]:
        """Suite, completeness, and the cases that failed or were skipped."""
        session: dict[str, Any] = self.data[KEY]
        return session

    @property
    def cases(self) -> list[CaseResult]:
        """The cases measured."""
        return [CaseResult(bench["extra_info"][KEY]) for bench in self.data["benchmarks"]]

    @property
    def machine(self) -> str:
        """Machine and versions in one line."""
        return machine_line(self.environment)


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        UsageError: It is missing, damaged, of another version or of another tool; in one line.
    """
    data = read_json(path, nonfinite=True)  # seeds may come to anything
    session = data.get(KEY) if isinstance(data, dict) else None
    version = session.get("schema") if isinstance(session, dict) else None
    if version != SCHEMA:
        written = f"written as {str(version)[:40]!r}" if version else "not written by this suite"
        raise UsageError(f"{path}: {written}; this version reads {SCHEMA}: measure again")
    if complaint := damage(data):
        raise UsageError(f"{path}: damaged ({complaint})")
    return Results(path, data)
