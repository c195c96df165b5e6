"""Records of regression checks that measured what a test wants."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.regress.judge import verdict_of
from bench.regress.options import name_of
from bench.regress.record import CHECK_SCHEMA, CheckRecord, write_record
from bench.regress.windows import Pair
from bench.suite.cases import Case

STEADY = (0.001, -0.002, 0.0015, -0.0005, 0.0025, -0.0012)
"""Log ratios of six pairs without a change; a check of one case passes after them."""
SLOW = tuple(0.05 + value for value in STEADY * 2)
"""Log ratios of twelve pairs that are 5 % slower."""
CASE = Case(recipe="mlp-compact", batch_size=8)
NAME = name_of(CASE)
SIDE = {
    "python": "3.11",
    "platform": "Linux",
    "packages": {"torch": "2.11.0"},
    "instructions": "AVX2",
    "cores": 2,
    "gpus": [],
}
CONFIGURATION = {"device": "cpu", "threads": 2, "batch_size": 8, "images": 9992}


def pair_json(ratio: float, startup: float = 0.0, memory: float = 0.0) -> dict[str, Any]:
    """Return a pair of three quads with these log ratios, as a file has it."""
    base = [0.010, 0.011, 0.012, 0.010, 0.010, 0.013]
    return {
        "time": 0.0,
        "started": ["base", "head"],
        "sides": {"base": {**SIDE}, "head": {**SIDE}},
        "startup_seconds": {"base": 3.0, "head": 3.0 * math.exp(startup)},
        "seconds": 10.0,
        "cases": {
            NAME: {
                "configuration": {"base": {**CONFIGURATION}, "head": {**CONFIGURATION}},
                "steps_per_window": {"base": 2, "head": 2},
                "peak_bytes": {"base": 10**9, "head": round(10**9 * math.exp(memory))},
                "injected": {},
                "orders": ["ABBA", "BAAB", "ABBA"],
                "windows": {"base": base, "head": [seconds * math.exp(ratio) for seconds in base]},
            }
        },
    }


def record_json(ratios: Sequence[float], **others: float) -> dict[str, Any]:
    """Return a record whose step time has these log ratios, as a file has it."""
    check = {"tier": "T1", "name": "losses", "value": 1e-15, "limit": 1e-9, "passed": True, "cause": "a sign"}
    return {
        "schema": CHECK_SCHEMA,
        "options": {"base": "main", "tolerance": 0.05, "budget_seconds": 600.0, "pairs": None, "inject": 0.0},
        "environment": {
            "time": "2026-11-25T06:00:00+00:00",
            "cpu": {"model": "A processor", "cores": 2},
            "gpus": [],
            "python": "3.11",
            "packages": {"torch": "2.11.0"},
        },
        "revisions": {"base": "a" * 40, "head": "b" * 40 + "+"},
        "cases": {NAME: CASE.to_json()},
        "missing": {"base": [], "head": []},
        "gone": [],
        "dropped": [],
        "unjudged": [],
        "semantics": {NAME: [check]},
        "failed_pairs": [],
        "pairs": [pair_json(ratio, **others) for ratio in ratios],
        "seconds": 100.0,
    }


def pair_of(ratio: float) -> Pair:
    """Return a pair whose step time has this log ratio."""
    return Pair.parse(pair_json(ratio))


def record_of(ratios: Sequence[float], **others: float) -> CheckRecord:
    """Return a record whose step time has these log ratios."""
    return CheckRecord.parse(record_json(ratios, **others))


def write(path: Path, data: dict[str, Any]) -> None:
    """Write a record as a check does."""
    record = CheckRecord.parse(data)
    write_record(path, record, verdict_of(record).to_json())
