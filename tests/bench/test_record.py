"""The record of a regression check: its verdict, and which files are refused."""

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.regress.history import series_of
from bench.regress.judge import PEAK_MEMORY, STARTUP, STEP, verdict_of
from bench.regress.record import CheckRecord, read_record, write_record
from bench.regress.summary import markdown_of, notes_of, table_of
from bench.results.checks import Check, worst_checks
from gan.errors import UsageError
from tests.bench.regress_records import NAME, SLOW, STEADY, record_json, record_of, write


def words(record: CheckRecord) -> dict[str, str]:
    return {figure.what: judgement.word for figure, judgement in verdict_of(record).judgements}


def parsed(data: dict[str, Any], **changes: Any) -> CheckRecord:
    return CheckRecord.parse(data | changes)


def test_each_figure_has_its_verdict_and_the_worst_decides() -> None:
    verdict = verdict_of(record_of(STEADY))
    assert (verdict.word, verdict.exit_code, verdict.lines) == ("PASS", 0, [])
    assert verdict_of(record_of(SLOW)).exit_code == 1
    assert verdict_of(record_of(STEADY[:4])).exit_code == 3
    assert words(record_of(STEADY, memory=0.06)) == {STEP: "PASS", STARTUP: "PASS", PEAK_MEMORY: "REGRESSION"}
    assert verdict_of(record_of(STEADY, memory=-0.06)).word == "PASS"
    assert words(record_of(STEADY * 2, startup=0.3))[STARTUP] == "REGRESSION"


def test_faster_and_wrong_is_a_failure_with_its_own_line() -> None:
    record = record_json([-0.1 + value for value in STEADY])
    assert verdict_of(parsed(record)).word == "FASTER"
    record["semantics"][NAME][0] |= {"passed": False, "value": 0.1 + 0.2}
    verdict = verdict_of(parsed(record))
    assert verdict.exit_code == 1
    assert verdict.lines[0] == f"WRONG: {NAME}: T1 losses: 0.3, the limit is 1e-09: a sign"
    record["semantics"][NAME][0] |= {"value": 12345.6}
    assert "T1 losses: 12,346, the limit is 1e-09: a sign" in verdict_of(parsed(record)).lines[0]


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ({"gone": ["wgan"]}, "HEAD has no recipe wgan any more; if that is meant, say --dropped wgan"),
        ({"missing": {"base": [], "head": ["x"]}}, "a benchmark disappeared: HEAD has no recipe for x"),
    ],
)
def test_a_benchmark_that_disappeared_is_no_pass(missing: dict[str, Any], line: str) -> None:
    verdict = verdict_of(parsed(record_json(STEADY), **missing))
    assert (verdict.word, verdict.exit_code) == ("REFUSED", 2)
    assert line in verdict.lines
    assert verdict_of(parsed(record_json(SLOW), **missing)).exit_code == 1
    for known, said in (
        ({"missing": {"base": ["x"], "head": []}}, "only HEAD has the recipe of x: not compared"),
        ({"dropped": ["x"]}, "HEAD has no recipe for x, as --dropped says: not compared"),
        ({"unjudged": ["x"]}, "T1 was not asked of x: its step takes more than the 1797 digits"),
    ):
        verdict = verdict_of(parsed(record_json(STEADY), **known))
        assert (verdict.exit_code, verdict.lines) == (0, [said])


def test_a_replay_gives_the_same_verdict(tmp_path: Path) -> None:
    for name, ratios in (("pass", STEADY), ("slow", SLOW), ("few", STEADY[:3])):
        record = record_of(ratios)
        write_record(tmp_path / name, record, verdict_of(record).to_json())
        read = read_record(tmp_path / name)
        assert read == record
        stored = json.loads((tmp_path / name).read_text())
        assert stored.pop("verdict") == verdict_of(read).to_json() == verdict_of(record).to_json()
        assert stored.pop("semantics")[NAME][0]["passed"]
        assert stored == {name: value for name, value in record_json(ratios).items() if name != "semantics"}
        assert markdown_of(read, verdict_of(read)) == markdown_of(record, verdict_of(record))


def _case(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda record: change(record["pairs"][2]["cases"][NAME])


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (lambda record: record["pairs"].clear(), "no launch pair was measured"),
        (_case(lambda case: case["windows"]["head"].__setitem__(1, math.nan)), "HEAD has a window that is no"),
        (_case(lambda case: case["windows"]["base"].__setitem__(1, 0.0)), "BASE has a window that is no time"),
        (_case(lambda case: case["windows"]["base"].pop()), "unequal windows: 5 of BASE in 3 quads"),
        (_case(lambda case: case["steps_per_window"].update(head=3)), "unequal windows: 2 steps of BASE, 3 of"),
        (
            _case(lambda case: case["steps_per_window"].update(head=3, base=3)),
            "unequal windows: 3 steps, but 2 in the first pair",
        ),
        (
            _case(lambda case: case.update(orders=[], windows={"base": [], "head": []})),
            "empty: it has no windows",
        ),
        (
            _case(lambda case: case["configuration"]["head"].update(threads=1)),
            "threads is 2 for BASE and 1 for HEAD",
        ),
        (_case(lambda case: case["peak_bytes"].update(head=None)), "HEAD's peak memory is not a number of bytes"),
        (
            lambda record: record["pairs"][1]["sides"]["head"].update(instructions="AVX512"),
            "pair 2: instructions is 'AVX2' for BASE in pair 1 and 'AVX512' for HEAD",
        ),
        (
            lambda record: record["pairs"][3]["sides"]["base"].update(packages={"torch": "2.12.0"}),
            "pair 4: packages.torch is '2.11.0' for BASE in pair 1 and '2.12.0' for BASE",
        ),
        (lambda record: record["pairs"][0]["startup_seconds"].update(base=math.inf), "pair 1: start-up is"),
        (lambda record: record.update(schema="gan-regress/9"), "written as 'gan-regress/9'"),
        (lambda record: record.pop("schema"), "not written by this check"),
        (lambda record: record.pop("cases"), "damaged ($: 'cases' is a required property)"),
        (lambda record: record.pop("seconds"), "damaged ($: 'seconds' is a required property)"),
        (lambda record: record["cases"].update(other=record["cases"][NAME]), "other: no launch pair has measured"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_in_one_line(
    fault: Callable[[dict[str, Any]], object], line: str, tmp_path: Path
) -> None:
    record = copy.deepcopy(record_json(STEADY))
    fault(record)
    path = tmp_path / "check.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError) as caught:
        read_record(path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


ODD = (
    None,
    True,
    -1,
    0.5,
    1e300,
    math.nan,
    math.inf,
    10**400,
    "",
    "[/red]",
    "\x1b[31m",
    "$\\frac{$",
    "\ud800",
    [],
    {},
    [[1]],
)


def damaged(record: dict[str, Any], random: random.Random) -> None:
    """Remove, rename, repeat or replace something anywhere in a record."""

    def places(parent: Any) -> Iterator[tuple[Any, Any]]:
        for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
            yield parent, key
            if isinstance(parent[key], dict | list):
                yield from places(parent[key])

    parent, key = random.choice(list(places(record)))
    how = random.randrange(5)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, list):
        parent.append(parent[key])
    elif how == 1:
        parent[random.choice(["", "[b]", "\u202e", *parent])] = parent.pop(key)
    else:
        parent[key] = random.choice(ODD)


@pytest.mark.slow
def test_what_is_damaged_anywhere_is_judged_or_refused_in_one_line(
    tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, words = tmp_path / "check.json", ("PASS", "FASTER", "REGRESSION", "INCONCLUSIVE", "REFUSED")
    refused = 0
    for seed in range(150):
        record = record_json(STEADY)
        damaged(record, random.Random(seed))
        path.write_text(json.dumps(record))
        code, printed, errors = command("regress", "--replay", path)
        if errors:
            refused += 1
            assert code == 2, seed
            assert errors.startswith(f"error: {path}: "), (seed, errors)
            assert len(errors.splitlines()) == 1, (seed, errors)
            assert len(errors) < 900, (seed, errors)
            assert "Error" not in errors, (seed, errors)
        else:
            assert any(word in printed for word in words), (seed, printed)
            assert "nan" not in printed, (seed, printed)
            assert not any(mark in printed for mark in ("\x1b", "\u202e")), (seed, printed)
    assert 50 < refused < 140


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"[" * 10_000, "damaged (nested too deeply)"),
        (b"\xff\xfe", "damaged (byte 0 is not UTF-8)"),
        (b"[]", "not written by this check"),
        (b'{"schema": "gan-regress/1"}', "damaged ($: "),
        (b"\xef\xbb\xbf" + json.dumps(record_json(STEADY)).encode(), ""),
    ],
    ids=["deep", "no text", "a list", "empty", "byte order mark"],
)
def test_files_from_elsewhere(data: bytes, line: str, tmp_path: Path, command: Callable[..., Any]) -> None:
    path = tmp_path / "check.json"
    path.write_bytes(data)
    code, _, errors = command("regress", "--replay", path)
    assert code == (2 if line else 0)
    assert errors.startswith(f"error: {path}: {line}" if line else "")
    assert len(errors.splitlines()) == bool(line)


def test_a_million_windows_are_refused_at_once(tmp_path: Path) -> None:
    record = record_json(STEADY)
    case = record["pairs"][0]["cases"][NAME]
    case["windows"]["base"] = case["windows"]["head"] = [0.01] * 1_000_000
    (tmp_path / "check.json").write_text(json.dumps(record))
    began = time.process_time()
    with pytest.raises(UsageError, match=r"windows\.(base|head): \[0\.01, .*too long\)$") as caught:
        read_record(tmp_path / "check.json")
    assert len(str(caught.value)) < 500
    assert time.process_time() - began < 20


def test_replay_from_the_command_line(command: Callable[..., Any], tmp_path: Path) -> None:
    path, summary = tmp_path / "check.json", tmp_path / "check.md"
    for ratios, code in ((STEADY, 0), (SLOW, 1), (STEADY[:3], 3)):
        write(path, record_json(ratios))
        exit_code, printed, _ = command("regress", "--replay", path, "--markdown", summary)
        assert exit_code == code
        assert verdict_of(record_of(ratios)).word in printed
        assert summary.read_text().startswith(
            f"### {verdict_of(record_of(ratios)).word}: bbbbbbbbbb+ against main"
        )
    path.write_text("{")
    exit_code, _, errors = command("regress", "--replay", path, "--markdown", summary)
    assert exit_code == 2
    assert errors.startswith(f"error: {path}: damaged")
    assert len(errors.splitlines()) == 1
    for flags in ("--tolerance 2%", "--case mlp", "--no-semantics"):
        code, _, errors = command("regress", "--replay", path, *flags.split())
        assert (code, errors) == (2, f"error: {flags}: --replay measures nothing anew; leave one of them out\n")


def test_a_change_without_an_interval_is_no_finding() -> None:
    record = record_of(SLOW[:2], memory=0.3)
    rows = markdown_of(record, verdict_of(record))
    assert "+5" not in rows
    assert "+30" not in rows
    assert rows.count("too few pairs |") == 3
    assert not series_of([record])


def test_of_several_ranks_the_worst_is_judged() -> None:
    values = [[1e-9, 0.0], [0.7, float("nan")]]
    ranks = [[Check("T1", "x", value, 1.0, "y") for value in rank] for rank in values]
    worst = worst_checks(ranks)
    assert worst == ranks[1]
    assert [check.to_json()["value"] for check in worst] == [0.7, None]


def test_a_pass_says_what_it_excludes_and_no_less() -> None:
    data = record_json(STEADY)
    data["options"]["tolerance"] = 0.025
    record = CheckRecord.parse(data)
    words = [row[-1] for row in table_of(record, verdict_of(record)).rows]
    assert words == ["PASS (< 2.5%)", "PASS (< 5%)", "PASS (< 2.5%)"]


@pytest.mark.parametrize(
    ("dose", "said"),
    [
        (0.03, "+3.0% of work was injected into HEAD's steps"),
        (-0.2, "+25.0% of work was injected into BASE's steps"),
    ],
)
def test_injected_work_is_said_to_be_where_it_is(dose: float, said: str) -> None:
    data = record_json(STEADY)
    data["options"]["inject"] = dose
    record = CheckRecord.parse(data)
    assert said in notes_of(record, verdict_of(record))


def test_a_single_launch_pair_is_no_plural() -> None:
    data = record_json(STEADY)
    data["pairs"] = data["pairs"][:1]
    record = CheckRecord.parse(data)
    assert any(note.startswith("1 launch pair in ") for note in notes_of(record, verdict_of(record)))
