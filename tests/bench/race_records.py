"""Records of races that measured what a test wants."""

import math
from collections.abc import Sequence
from typing import Any

from bench.race.record import RACE_SCHEMA, RaceRecord
from tests.bench.regress_records import SIDE

NOISE = (0.004, -0.006, 0.002, -0.001, 0.005, -0.003, 0.001, -0.002)
"""What eight launch pairs add to a log ratio."""
SLOWER = tuple(math.log(2) + value for value in NOISE)
"""Log ratios of eight pairs in which X takes twice the time."""
CONFIGURATION = {"device": "cpu", "threads": 2, "batch_size": 64}
LOSSES = {"loss_d": 0.5, "loss_g": 1.5}
FIRST_WINDOWS = [0.012, 0.013, 0.012, 0.014, 0.012, 0.012]
"""Of two steps each."""


def entry_json(**changes: Any) -> dict[str, Any]:
    """Return an entry as a file has it."""
    return {
        "facts": {**SIDE},
        "configuration": {**CONFIGURATION},
        "startup_seconds": 3.0,
        "images_per_step": 64,
        "num_parameters": {"G": 3_000, "D": 2_000},
        "peak_bytes": 300 * 2**20,
        "last_peak_bytes": 301 * 2**20,
        "early_losses": {"step": 31, "values": {**LOSSES}},
        "last_losses": {"step": 700, "values": {**LOSSES}},
        "period": 1,
        **changes,
    }


def launch_json(ratios: Sequence[float], *entries: dict[str, Any]) -> dict[str, Any]:
    """Return a launch in which the contenders b, c, … have these log ratios per image, as a file has it."""
    letters = "abc"[: 1 + len(ratios)]
    shown = {letter: entry_json(**change) for letter, change in zip(letters, [*entries, {}, {}, {}], strict=False)}
    duels = {}
    for letter, ratio in zip(letters[1:], ratios, strict=True):
        images = shown[letter]["images_per_step"] / shown["a"]["images_per_step"]
        steps = 1  # half as many as the first one's
        other = [seconds / 2 * images * math.exp(ratio) for seconds in FIRST_WINDOWS]
        duels[letter] = {
            "steps_per_window": [2, steps],
            "orders": ["ABBA", "BAAB", "ABBA"],
            "windows": [[*FIRST_WINDOWS], other],
        }
    return {
        "time": 0.0,
        "started": list(reversed(letters)),
        "entries": shown,
        "duels": duels,
        "busy_cores": 0.0,
        "stolen_cores": 0.0,
        "seconds": 15.0,
    }


def race_json(*ratios: Sequence[float], names: Sequence[str] = "", **changes: Any) -> dict[str, Any]:
    """Return a record whose contenders b, c, … have these log ratios, as a file has it.

    Args:
        ratios: One sequence for each of b, c, …: a value for each launch.
        names: Of all contenders.
        changes: Of the entries, by letter.
    """
    letters = "abc"[: 1 + len(ratios)]
    names = names or ["core", "plain", "mine"][: len(letters)]
    entries = [changes.get(letter, {}) for letter in letters]
    return {
        "schema": RACE_SCHEMA,
        "contenders": {
            letter: {"name": name, "subject": name, "axes": {"recipe": "mlp"}}
            for letter, name in zip(letters, names, strict=True)
        },
        "settings": "mlp, cpu",
        "num_pairs": len(ratios[0]),
        "budget_seconds": 600.0,
        "environment": {
            "time": "2026-11-25T06:00:00+00:00",
            "command": ["race", "core", "plain"],
            "cpu": {"model": "A processor", "cores": 2},
            "gpus": [],
            "python": "3.11",
            "packages": {"torch": "2.11.0"},
        },
        "failed_launches": [],
        "launches": [launch_json(values, *entries) for values in zip(*ratios, strict=True)],
        "seconds": 140.0,
    }


def race_of(*ratios: Sequence[float], **changes: Any) -> RaceRecord:
    """Return a record whose contenders b, c, … have these log ratios."""
    return RaceRecord.parse(race_json(*ratios, **changes))
