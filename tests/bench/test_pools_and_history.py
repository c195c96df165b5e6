"""Stored checks: pools of launch pairs, and the history against one revision."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.regress.history import HistoryOptions, history, series_of
from bench.regress.judge import STARTUP, STEP
from bench.regress.record import CheckRecord
from bench.regress.study.pool import PoolOptions, pool
from gan.errors import UsageError
from tests.bench.regress_records import NAME, SLOW, STEADY, record_json, write


def test_pools_from_elsewhere_are_refused_in_one_line(tmp_path: Path, command: Callable[..., Any]) -> None:
    whole = {STEP: [0.01, 0.02], STARTUP: [0.01, 0.02]}
    for pools, line in (
        ({"a": {STEP: [math.nan, 0.1]}}, f"damaged ($.pools.a['{STEP}'][0]: nan is not of type 'number')"),
        ({"a": {STEP: [0.1]}}, "damaged ($.pools.a"),
        ({"a": {"speed": [0.1, 0.2]}}, "damaged ($.pools.a: 'speed' is not one of"),
        ({"a": {**whole, STARTUP: [0.1, 0.2, 0.3]}}, "a: a file has not as many launch pairs of each figure"),
        ([], "damaged ($.pools: [] is not of type 'object')"),
    ):
        path = tmp_path / "pool.json"
        path.write_text(json.dumps({"schema": "gan-regress-pool/1", "machine": "m", "pools": pools}))
        code, _, errors = command("pool", path, "--checks", "10")
        assert code == 2
        assert line in errors
        assert len(errors.splitlines()) == 1
    for flag, value in (("--block", 0), ("--tolerance", 0), ("--seed", -1)):
        code, _, errors = command("pool", flag, value, "--checks", "10")
        assert (code, errors.split(":")[1]) == (2, f" {flag} {value}")
    for tolerance in ("5%", "0.05"):
        assert command("pool", "--tolerance", tolerance, "--checks", "10")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--pairs 0", "--pairs 0: must be from 1 to 2,000"),
        ("--pairs 2001", "--pairs 2001: must be from 1 to 2,000"),
        ("--quads 0", "--quads 0: must be from 1 to 10,000"),
        ("--quads 10001", "--quads 10001: must be from 1 to 10,000"),
        ("--products 0", "--products 0: must be from 1 to 1,000,000,000"),
        ("--products 48", "--products 48: says how many --inject is; give --inject, too, as in 3%"),
        ("--seed -1", "--seed -1: must be at least 0"),
        ("--budget 0s", "--budget 0s: must be a time, as in 90s, 10m or 2h"),
        ("--inject 51%", "--inject 51%: must be from -50% to 50%"),
        ("--case mlp,subject=plain", "--case mlp,subject=plain: axis subject: unknown; choose one of "),
        ("--case mlp,quads=1", "--case mlp,quads=1: axis quads: unknown; choose one of "),
        ("--output folder", "--output folder: is a directory; name a file"),
        ("--output nowhere/a.json", "--output nowhere/a.json: nowhere is no directory that can be written to"),
    ],
)
def test_pairs_are_not_measured_with_bad_options(
    arguments: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.regress.study.pairs.measure_check", lambda *_: pytest.fail("measures"))
    Path("folder").mkdir()
    output = () if "--output" in arguments else ("--output", "a.json")
    code, printed, errors = command("pairs", *output, *arguments.split())
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {complaint}")
    assert len(errors.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_pools_of_one_dose_are_one_and_come_back_from_their_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = record_json(SLOW)
    slow["options"]["inject"] = 0.05
    for name, record in (("a", record_json(STEADY)), ("b", record_json(STEADY)), ("c", slow)):
        write(tmp_path / name, record)
    summary = tmp_path / "pool.json"
    files = tuple(tmp_path / name for name in "abc")
    pool(PoolOptions(files, summary=summary, checks=50))
    pools = json.loads(summary.read_text())["pools"]
    assert pools[f"{NAME}, +0%"][STEP] == pytest.approx(STEADY * 2, abs=1e-6)
    assert pools[f"{NAME}, +5%"][STEP] == pytest.approx(SLOW, abs=1e-6)
    slow["environment"]["cpu"]["model"] = "Another"
    write(tmp_path / "d", slow)
    with pytest.raises(UsageError, match="the files are of 2 machines"):
        pool(PoolOptions((summary, tmp_path / "d"), checks=50))
    capsys.readouterr()
    pool(PoolOptions((summary,), checks=50))
    (row,) = (
        line for line in capsys.readouterr().out.splitlines() if f"{NAME}, +5%" in line and "100.000%" in line
    )
    assert row.split()[2] == "100.000%"


def test_pools_of_doses_that_are_near_are_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dose, ratios in (("a", 0.0, STEADY), ("b", 0.004, SLOW), ("c", 0.014, SLOW), ("d", -0.03, SLOW)):
        record = record_json(ratios)
        record["options"]["inject"] = dose
        write(tmp_path / name, record)
    summary = tmp_path / "pool.json"
    pool(PoolOptions(tuple(tmp_path / name for name in "abcd"), summary=summary, checks=50))
    pools = json.loads(summary.read_text())["pools"]
    assert [name.rpartition(", ")[2] for name in pools] == ["+0%", "+0.4%", "+1.4%", "-3%"]
    assert pools[f"{NAME}, +0%"][STEP] == pytest.approx(STEADY, abs=1e-6)
    capsys.readouterr()


def test_history_draws_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for index, ratios in enumerate((STEADY, STEADY, STEADY, SLOW, SLOW, SLOW)):
        record = record_json(ratios)
        record["environment"]["time"] = f"2026-11-2{index}T06:00:00+00:00"
        record["revisions"]["head"] = "c" * 40 + "+" * (index == 3)
        paths.append(tmp_path / f"{index}.json")
        write(paths[-1], record)
    history(HistoryOptions(files=tuple(paths), plot=tmp_path / "history.png"))
    lines = capsys.readouterr().out.splitlines()
    (changed,) = (line for line in lines if "changed" in line)
    assert changed.split()[0] == "2026-11-23"
    assert "c" * 10 + "+" in changed
    assert (tmp_path / "history.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="no check was against it; choose one of aaaa"):
        history(HistoryOptions(files=tuple(paths), base="c"))
    paths[0].write_text("{")
    history(HistoryOptions(files=tuple(paths), plot=tmp_path / "history.png"))
    assert f"skipped: {paths[0]}: damaged" in capsys.readouterr().out.replace("\n", "")
    injected = record_json(SLOW)
    injected["options"]["inject"] = 0.05
    write(paths[0], injected)
    with pytest.raises(UsageError, match="no check of a change in"):
        history(HistoryOptions(files=(paths[0],)))


def test_machines_are_never_in_one_line_of_the_history() -> None:
    here, there, later = record_json(STEADY), record_json(SLOW), record_json(SLOW)
    there["environment"]["cpu"]["model"] = "Another"
    later["environment"] |= {"time": "2026-11-26T06:00:00+00:00"}
    series = series_of(map(CheckRecord.parse, (later, there, here)))
    steps = {machine: points for (machine, _, what), points in series.items() if what == STEP}
    assert [len(points) for machine, points in sorted(steps.items())] == [2, 1]
    first, second = steps[next(machine for machine in steps if machine.startswith("A processor"))]
    assert first.value == pytest.approx(0, abs=1e-3)
    assert second.value == pytest.approx(0.05, abs=1e-3)
    assert second.low < second.value < second.high


def test_starts_of_other_cases_are_not_in_one_line_of_the_history() -> None:
    eager = record_json(STEADY)
    compiled = json.loads(json.dumps(record_json(STEADY, startup=0.3)).replace("eager", "inductor"))
    compiled["environment"] |= {"time": "2026-11-26T06:00:00+00:00"}
    series = series_of(map(CheckRecord.parse, (eager, compiled)))
    starts = {case: points for (_, case, what), points in series.items() if what == STARTUP}
    values = {case: [round(point.value, 9) for point in points] for case, points in starts.items()}
    assert values == {NAME: [0.0], NAME.replace("eager", "inductor"): [0.3]}
