"""What is wrong with the content of a results file, in one line.

Content that passes can be shown: each figure is defined, and is what its name says. The schema checks types and
fields; the functions here check what a schema cannot express.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from bench.harness.windows import PROBE
from bench.results.finite import MOST_NUMBER
from bench.results.messages import EXPLAINED, parts_of
from bench.suite.workloads import MOST_WINDOWS, WORKLOADS, Workload

SCHEMA_FILE = Path(__file__).with_name("schema.json")
KEY = "gan_bench"
MOST_LEVELS = 50
LEAST_SECONDS = 1e-9
"""The shortest time: no clock shows less."""
OF_RANK_0 = ("plain", "solo", PROBE)
"""Arms that only rank 0 takes; the other ranks wait."""
ROOFLINE = {"peak_product": "flops_per_step", "peak_copy": "least_bytes_per_step"}
"""The fact that is compared with each peak."""
STARTUP_PARTS = ("launcher", "imports", "prepare", "first step")
SHOWN_OUTCOMES = ("loss_d", "loss_g", "fid", "coverage", "images_to_quality")
"""The outcomes of a seed that a table shows."""
MAY_BE_NONFINITE = ("seeds", "quality")
"""Facts with outcomes of training, which can diverge."""

Json = Mapping[str, Any]


class _DamagedError(Exception):
    """The message says where and how."""


def damage(data: Any) -> str | None:
    """Return where and how the content of a results file is damaged, in one line, or None."""
    try:
        _require_values(data)
        if complaint := schema_error(data):
            return complaint
        cases = []
        for where, benchmark in benchmarks_of(data):
            record = benchmark["extra_info"][KEY]
            _require_record(record, where)
            _require(record["case"] not in cases, where, "its case is measured twice")
            cases.append(record["case"])
    except _DamagedError as error:
        return str(error)
    return None


def benchmarks_of(data: Json) -> list[tuple[str, Json]]:
    """Return the benchmarks of a results file and the place of each: those with windows, then the others."""
    others = data[KEY].get("without_windows", [])
    return [
        *((f"$.benchmarks[{index}]", benchmark) for index, benchmark in enumerate(data["benchmarks"])),
        *((f"$.{KEY}.without_windows[{index}]", benchmark) for index, benchmark in enumerate(others)),
    ]


@cache
def _validator() -> Any:
    draft = jsonschema.Draft202012Validator
    types = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)  # not True, not 2.0
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return jsonschema.validators.extend(draft, type_checker=types)(schema)


def schema_error(data: Any) -> str | None:
    """Return where and how `data` violates the schema, in one line, or None."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(data))
    if error is None:
        return None
    message = error.message if len(error.message) <= 120 else f"{error.message[:120]}…"
    return f"{error.json_path}: {message}"


def _require(holds: bool, where: str, complaint: str) -> None:
    if not holds:
        raise _DamagedError(f"{where}: {complaint}")


def _require_values(data: Any) -> None:
    """Refuse numbers that no measurement gives, and content that is too deep or too long to be checked."""
    waiting: list[tuple[Any, str, int, bool]] = [(data, "$", 0, False)]
    while waiting:
        value, where, level, free = waiting.pop()
        if isinstance(value, float | int):
            nonfinite = isinstance(value, float) and not math.isfinite(value)
            allowed = abs(value) <= MOST_NUMBER or (free and nonfinite)
            _require(allowed, where, f"a number must be finite, and at most {MOST_NUMBER:g}")
        elif isinstance(value, dict):
            _require(level < MOST_LEVELS, where, "nested too deeply")
            for key, item in value.items():
                waiting.append((item, f"{where}.{key}", level + 1, free or key in MAY_BE_NONFINITE))
        elif isinstance(value, list):
            _require(level < MOST_LEVELS, where, "nested too deeply")
            many = f"has {len(value):,} items; at most {MOST_WINDOWS:,} are read"
            _require(len(value) <= MOST_WINDOWS, where, many)
            waiting += [(item, f"{where}[{index}]", level + 1, free) for index, item in enumerate(value)]


def _require_record(record: Json, where: str) -> None:
    workload = record["case"]["workload"]
    _require(workload in WORKLOADS, where, f"the workload {workload!r} is none of {', '.join(WORKLOADS)}")
    probe = record["quickest_probe"]
    _require(probe is None or probe >= LEAST_SECONDS, where, f"quickest_probe is {probe}, which is no time")
    processes = record["case"]["num_processes"]
    hosts = record["case"].get("num_hosts", 1)
    _require(processes % hosts == 0, where, f"it has {processes} processes on {hosts} hosts")
    launches = [launch["ranks"] for launch in record["launches"]]
    for number, ranks in enumerate(launches):
        launch_where = f"{where}.launches[{number}]"
        _require_launch(ranks, record["case"], launch_where)
        same = _images(ranks[0]) == _images(launches[0][0])
        _require(same, launch_where, "its arms or images per step are not those of the first launch")
    for name in launches[0][0]["arms"]:
        count = sum(len(ranks[0]["arms"][name]["windows"]) for ranks in launches)
        _require(count <= MOST_WINDOWS, where, f"{name} has {count:,} windows; at most {MOST_WINDOWS:,} are read")


def _require_launch(ranks: Sequence[Json], case: Json, where: str) -> None:
    numbers = [rank["rank"] for rank in ranks]
    processes = case["num_processes"]
    complete = len(numbers) == processes and numbers == list(range(processes))  # `processes` may be any number
    _require(complete, where, f"it has the ranks {numbers}, of {processes} processes")
    for rank in ranks:
        rank_where = f"{where}.ranks[{rank['rank']}]"
        _require_rank(rank, case["workload"], rank_where)
        alike = _arms(rank) == _arms(ranks[0]) and _checks(rank) == _checks(ranks[0])
        _require(alike, rank_where, "its arms, windows or checks are not those of rank 0")


def _arms(rank: Json) -> dict[str, tuple[int, ...]]:
    return {
        name: (len(arm["windows"]), arm["every"], arm["steps_per_window"], arm["images_per_step"])
        for name, arm in rank["arms"].items()
    }


def _images(rank: Json) -> dict[str, tuple[int, bool]]:
    return {name: (arm["images_per_step"], bool(arm["windows"])) for name, arm in rank["arms"].items()}


def _checks(rank: Json) -> list[tuple[str, str]]:
    return [(check["tier"], check["name"]) for check in rank["facts"].get("checks", [])]


def _require_rank(rank: Json, workload: str, where: str) -> None:
    startup = rank["startup_seconds"]
    load = rank["load"]
    row = WORKLOADS[workload]
    parts = STARTUP_PARTS[:-1] if row.kind == "facts" else STARTUP_PARTS
    measured = all(startup.get(name, -1) >= 0 for name in parts)
    _require(measured, where, f"startup_seconds lack one of {', '.join(parts)}")
    for name in ("busy_cores", "own_cores", "stolen_cores"):
        _require(load[name] is not None, where, f"load.{name} is null")
    first = next(iter(rank["arms"]), "nothing")
    is_own = row.kind == "facts" or first == row.own_arm
    _require(is_own, where, f"{first} stands first of its arms, and not {row.own_arm}")
    if row.kind == "windows":
        _require_windows(rank["arms"], row, where, idle=OF_RANK_0 if rank["rank"] else ())
        _require_parts(rank["arms"], where)
        _require_messages(rank, where)
        _require_counts(rank, row, where)
    elif row.kind == "start":
        _require(sum(startup.values()) >= LEAST_SECONDS, where, "it took no time")
    else:
        _require(_is_time(rank["facts"].get("seconds")), where, "facts lack the seconds it took")
    for name in row.facts:
        REQUIRED_FACTS[name](rank["facts"], where)
    if energy := rank.get("gpu", {}).get("energy"):
        measured = _is_count(energy["images"]) and _is_time(energy["joules"]) and _is_time(energy["seconds"])
        _require(measured, where, "gpu.energy has no images, or is no energy")


def _require_checkpoint_bytes(facts: Json, where: str) -> None:
    _require(_is_count(facts.get("checkpoint_bytes")), where, "facts lack checkpoint_bytes")


def _require_quality(facts: Json, where: str) -> None:
    quality = facts.get("quality", {})
    _require(_is_count(quality.get("images")), where, "facts.quality lacks its images")
    _require(_is_time(quality.get("seconds")), where, "facts.quality lacks its seconds")
    for name in ("fid", "target_fid"):
        _require(_is_number(quality.get(name)), where, f"facts.quality lacks its {name}")


def _require_seeds(facts: Json, where: str) -> None:
    seeds = facts.get("seeds", [])
    _require(len(seeds) > 1, where, f"facts have {len(seeds)} seeds; a spread needs at least 2")
    alike = all(seed.keys() == seeds[0].keys() >= set(SHOWN_OUTCOMES) for seed in seeds)
    _require(alike, where, f"facts lack the outcome of a seed: {', '.join(SHOWN_OUTCOMES)}")


def _require_checks(facts: Json, where: str) -> None:
    _require("checks" in facts, where, "facts lack the checks")
    for check in facts["checks"]:
        passed = check["value"] is not None and check["value"] <= check["limit"]
        _require(passed == check["passed"], where, f"{check['name']!r}: 'passed' is not what value and limit say")


REQUIRED_FACTS: dict[str, Callable[[Json, str], None]] = {
    "checkpoint_bytes": _require_checkpoint_bytes,
    "quality": _require_quality,
    "seeds": _require_seeds,
    "checks": _require_checks,
}
"""What refuses each fact that the row of a workload names."""


def _require_windows(arms: Mapping[str, Json], row: Workload, where: str, idle: Sequence[str]) -> None:
    """Refuse arms that did not take turns, and windows that are not times."""
    for name in ("empty", PROBE, row.own_arm, *row.other_arms):
        _require(name in arms and bool(arms[name]["windows"]), where, f"its arm {name} is missing")
    num_rounds = len(arms[PROBE]["windows"])
    for name, arm in arms.items():
        due = -(-num_rounds // arm["every"])
        count = len(arm["windows"])
        _require(count in (0, due), where, f"{name} has {count} windows, where {num_rounds} rounds have {due}")
        real = name in ("empty", *idle) or all(map(_is_time, arm["windows"]))
        _require(real, where, f"{name} has a window that is no time")


def _require_parts(arms: Mapping[str, Json], where: str) -> None:
    """Refuse parts of windows that are not those of one arm."""
    wholes = {name: arm["part_of"] for name, arm in arms.items() if arm.get("part_of")}
    for name, whole in wholes.items():
        known = whole in arms and whole not in wholes and len(set(wholes.values())) == 1
        _require(known, where, f"{name} is a part of {whole}, which is not the one arm that has parts")
        alike = all(arms[name][key] == arms[whole][key] for key in ("every", "steps_per_window"))
        same = alike and len(arms[name]["windows"]) == len(arms[whole]["windows"])
        _require(same, where, f"{name} has other windows than {whole}, whose part it is")


def _require_messages(rank: Json, where: str) -> None:
    """Refuse messages whose parts of the step are not those that were measured."""
    names = [message["name"] for message in rank["facts"].get("messages", [])]
    measured = bool(rank["arms"].get(EXPLAINED, {}).get("windows"))
    parts = [name for name, arm in rank["arms"].items() if arm.get("part_of") == EXPLAINED]
    same = sorted(parts) == (sorted(parts_of(names)) if measured else [])
    _require(same, where, f"the parts of {EXPLAINED} are not those of facts.messages")


def _require_counts(rank: Json, row: Workload, where: str) -> None:
    """Refuse images/s without images, and peaks without work."""
    arms = rank["arms"]
    facts = rank["facts"]
    if row.counts_images:
        for name in {row.own_arm, "plain", "solo", "no_sync", EXPLAINED} & arms.keys():
            _require(arms[name]["images_per_step"] > 0, where, f"{name} has no images per step")
    measured = [name for name in ROOFLINE if name in arms and arms[name]["windows"]]
    further = [name for name in ("products", "peak_update") if measured and name in arms]
    for name in (*measured, *further):
        work = facts.get("work", {}).get(name, {}) if isinstance(facts.get("work"), dict) else {}
        _require(_is_work(work), where, f"facts lack the work of {name}")
    for name in measured:
        _require(_is_count(facts.get(ROOFLINE[name])), where, f"facts lack {ROOFLINE[name]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    return _is_number(value) and value >= LEAST_SECONDS


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 1


def _is_work(work: Any) -> bool:
    values: Sequence[Any] = list(work.values()) if isinstance(work, dict) else []
    return len(values) == 1 and _is_count(values[0])
