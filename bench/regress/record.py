"""The record of a regression check: read, refused judged, and shown. All of it comes from the JSON alone."""

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from bench.regress.trees import SIDES
from bench.report.compare import differences
from gan.errors import UsageError
from gan.files.records import read_json, whole_file

SCHEMA = "gan-regress/1"

LEAST, MOST = 1e-9, 1e18
"""What is measured, in seconds or bytes, is within."""


def complaint_of(record: Mapping[str, Any]) -> str | None:
    """Return why a record cannot be judged, in one line, or None."""
    pairs = record["pairs"]
    if not pairs:
        return "no launch pair was measured: raise --budget"
    for name in record["cases"]:
        if not any(name in pair["cases"] for pair in pairs):
            return f"{name}: no launch pair has measured it"
    first = pairs[0]["sides"]["base"]
    for number, pair in enumerate(pairs, 1):
        for side in SIDES:
            for key, (here, there) in differences(first, pair["sides"][side]):
                return (
                    f"pair {number}: {key} is {here!r} for BASE in pair 1 and {there!r} for {side.upper()}; "
                    "only what ran on one machine with the same versions can be compared"
                )
        startup = pair["startup_seconds"]
        for side in SIDES:
            if not _positive(startup[side]):
                return f"pair {number}: start-up is no time for {side.upper()}"
        for name, case in pair["cases"].items():
            if problem := _problem(case, pairs[0]["cases"].get(name, case)):
                return f"pair {number}, {name}: {problem}"
    return None


def _problem(case: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    steps, windows = case["steps_per_window"], case["windows"]
    if steps["base"] != steps["head"]:
        return f"unequal windows: {steps['base']} steps of BASE, {steps['head']} of HEAD"
    if steps != first["steps_per_window"]:
        return f"unequal windows: {steps['base']} steps, but {first['steps_per_window']['base']} in the first pair"
    for side in SIDES:
        if len(windows[side]) != 2 * len(case["orders"]):
            return f"unequal windows: {len(windows[side])} of {side.upper()} in {len(case['orders'])} quads"
        if not windows[side]:
            return "empty: it has no windows"
        if not all(map(_positive, windows[side])):
            return f"{side.upper()} has a window that is no time (NaN, infinite or not positive)"
        if not _positive(case["peak_bytes"][side]):
            return f"{side.upper()}'s peak memory is not a number of bytes"
        for key, (here, there) in differences(first["configuration"]["base"], case["configuration"][side]):
            return f"{key} is {here!r} for BASE and {there!r} for {side.upper()}; the same is compared only"
    return None


def _positive(value: Any) -> bool:
    """Say whether a value is a number of seconds or bytes; nan is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and LEAST <= value <= MOST


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(record).encode() + b"\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        UsageError: It is missing, damaged, or of another tool or version; in one line.
    """
    record = read_json(path, nonfinite=True)  # which are refused below, with the window they are in
    version = record.get("schema") if isinstance(record, dict) else None
    if version != SCHEMA:
        written = f"written as {version!r}"[:100] if version else "not written by this check"
        raise UsageError(f"{path}: {written}; only {SCHEMA!r} can be judged: measure again")
    require_schema(path, record)
    if complaint := complaint_of(record):
        raise UsageError(f"{path}: {complaint}")
    return record  # type: ignore[no-any-return]


@cache
def _validator(kind: str) -> Any:
    schema = json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8"))
    kinds = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite)
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=kinds)
    return validator({**schema, **schema["$defs"][kind]} if kind else schema)


def _is_finite(_: Any, value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def require_schema(path: Path, data: Any, kind: str = "") -> None:
    """Raise UsageError where a record, or one of another kind in schema.json, is not as it should be."""
    for error in _validator(kind).iter_errors(data):  # the first; a damaged file may have a million
        message = error.message if len(error.message) <= 120 else f"{error.message[:60]} … {error.message[-60:]}"
        raise UsageError(f"{path}: damaged ({error.json_path[:200]}: {message})")
