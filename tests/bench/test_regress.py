"""What a record of a regression check comes to, and what is refused."""

import contextlib
import copy
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from bench.regress.check import Survey
from bench.regress.history import HistoryOptions, history, series_of
from bench.regress.judge import PEAK_MEMORY, STARTUP, STEP, verdict_of
from bench.regress.options import RegressOptions, parse_case, parse_fraction, parse_seconds
from bench.regress.pair import (
    LaunchPairs,
    PairError,
    SideRanks,
    answers_of,
    ask_both,
    launched_together,
    plan_for,
    spec_of,
)
from bench.regress.record import CaseWindows, CheckRecord, Pair, read_record, write_record
from bench.regress.side import Side
from bench.regress.sides import Both
from bench.regress.study.pool import PoolOptions, pool
from bench.regress.summary import markdown_of
from bench.regress.trees import Trees
from bench.results.checks import Check, worst_checks
from bench.results.folder import find
from bench.suite.cases import Case
from gan.errors import UsageError
from tests.bench.regress_records import CASE, NAME, pair_of, record_json, record_of

STEADY = (0.001, -0.002, 0.0015, -0.0005, 0.0025, -0.0012)
SLOW = tuple(0.05 + value for value in STEADY * 2)


def words(record: CheckRecord) -> dict[str, str]:
    return {figure.what: judgement.word for figure, judgement in verdict_of(record).judgements}


def parsed(data: dict[str, Any], **changes: Any) -> CheckRecord:
    return CheckRecord.parse(data | changes)


def write(path: Path, data: dict[str, Any]) -> None:
    """Write a record as a check does."""
    record = CheckRecord.parse(data)
    write_record(path, record, verdict_of(record).to_json())


def test_each_figure_has_its_verdict_and_the_worst_decides() -> None:
    verdict = verdict_of(record_of(STEADY))
    assert (verdict.word, verdict.exit_code, verdict.lines) == ("PASS", 0, [])
    assert verdict_of(record_of(SLOW)).exit_code == 1
    assert verdict_of(record_of(STEADY[:4])).exit_code == 3
    assert words(record_of(STEADY, memory=0.06)) == {STEP: "PASS", STARTUP: "PASS", PEAK_MEMORY: "REGRESSION"}
    assert words(record_of(STEADY * 2, startup=0.3))[STARTUP] == "REGRESSION"


def test_faster_and_wrong_is_a_failure_with_its_own_line() -> None:
    record = record_json([-0.1 + value for value in STEADY])
    assert verdict_of(parsed(record)).word == "FASTER"
    record["semantics"][NAME][0] |= {"passed": False, "value": 0.3}
    verdict = verdict_of(parsed(record))
    assert verdict.exit_code == 1
    assert verdict.lines[0] == f"WRONG: {NAME}: T1 losses: 0.3, the limit is 1e-09: a sign"


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
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"windows\.(base|head): \[0\.01, .*too long\)$") as caught:
        read_record(tmp_path / "check.json")
    assert len(str(caught.value)) < 500
    assert time.monotonic() - began < 20


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
        assert (code, errors.split(":")[1]) == (2, f" {flag} {'0.0' if flag == '--tolerance' else value}")


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


@pytest.mark.parametrize(
    ("unchanged", "slower", "line"),
    [
        (STEADY, SLOW, None),
        (STEADY, STEADY, "with 5% injected is PASS, not REGRESSION"),
        (SLOW, SLOW, "with 0% injected is REGRESSION, not PASS"),
        (STEADY[:3], SLOW, "with 0% injected is INCONCLUSIVE, not PASS"),
        (STEADY, SLOW[:8], "with 5% injected is INCONCLUSIVE, not REGRESSION"),
    ],
    ids=["well", "dead", "nervous", "noisy", "slow"],
)
def test_a_gate_that_does_not_see_its_canaries_says_so(
    unchanged: tuple[float, ...],
    slower: tuple[float, ...],
    line: str | None,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = {0.0: record_of(unchanged), 0.05: record_of(slower)}
    monkeypatch.setattr("bench.regress.command.two_trees", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("bench.regress.command.measure", lambda settings, *_: records[settings.options.inject])
    code, printed, errors = command("regress", "--self-test")
    assert code == (2 if line else 0)
    assert line in errors if line else "the gate sees its canaries" in printed


def test_cases_are_a_recipe_and_axes() -> None:
    case = parse_case("mlp,compile=inductor,batch_size=32", "cpu")
    assert (case.recipe, case.compile, case.batch_size, case.workload) == ("mlp", "inductor", 32, "step")
    assert parse_case("quickstart,workload=epoch", "cpu").workload == "epoch"
    for text, line in (
        ("mlp,batchsize=8", "did you mean batch_size?"),
        ("mlp,compile=induktor", "did you mean inductor?"),
        ("mlp,workload=startup", "choose one of step, epoch"),
        ("mlp,num_processes=999", "999 processes, but "),
        ("mlp,precision=fp16", "fp16 needs a GPU"),
    ):
        with pytest.raises(UsageError, match=line) as caught:
            parse_case(text, "cpu")
        assert text in str(caught.value) or text.split("=")[1] in str(caught.value)


def test_fractions_and_times() -> None:
    assert parse_fraction("--tolerance", "5%") == parse_fraction("--tolerance", "0.05") == 0.05
    assert (parse_seconds("--budget", "90s"), parse_seconds("--budget", "1.5h")) == (90, 5400)
    with pytest.raises(UsageError, match="--tolerance five: must be a percentage"):
        parse_fraction("--tolerance", "five")
    with pytest.raises(UsageError, match="--budget 10: must be a time"):
        parse_seconds("--budget", "10")


def test_the_default_cases_are_possible_and_differ() -> None:
    cases = RegressOptions().cases.values()
    assert len({case.recipe for case in cases}) == 3
    assert {case.compile for case in cases} == {"no", "inductor"}
    assert {case.workload for case in cases} == {"step", "epoch"}


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


def test_history_draws_what_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for index, ratios in enumerate((STEADY, STEADY, STEADY, SLOW, SLOW, SLOW)):
        record = record_json(ratios)
        record["environment"]["time"] = f"2026-11-2{index}T06:00:00+00:00"
        paths.append(tmp_path / f"{index}.json")
        write(paths[-1], record)
    history(HistoryOptions(files=tuple(paths), plot=tmp_path / "history.png"))
    lines = capsys.readouterr().out.splitlines()
    (changed,) = (line for line in lines if "changed" in line)
    assert changed.split()[0] == "2026-11-23"
    assert (tmp_path / "history.png").stat().st_size > 1000
    with pytest.raises(UsageError, match="no check was against it; choose one of aaaa"):
        history(HistoryOptions(files=tuple(paths), base="c"))
    paths[0].write_text("{")
    history(HistoryOptions(files=tuple(paths), plot=tmp_path / "history.png"))
    assert f"skipped: {paths[0]}: damaged" in capsys.readouterr().out.replace("\n", "")
    injected = record_json(SLOW)
    injected["options"]["inject"] = 0.05
    write(paths[0], injected)
    with pytest.raises(UsageError, match="hold no check of a change"):
        history(HistoryOptions(files=(paths[0],)))


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let regress find HEAD 20 % slower in pairs of 40 s, by a clock of its own; yield what it says meanwhile."""
    now, said = 0.0, []

    class Pairs:
        of = classmethod(lambda cls, *_: cls())

        def measure(self, *_: object) -> Pair:
            nonlocal now
            now += 40
            return replace(pair_of(0.2), seconds=40.0)

    @contextlib.contextmanager
    def progress() -> Iterator[Callable[[str], None]]:
        yield said.append

    survey = Survey(missing=Both((), ()), dropped=(), gone=())
    monkeypatch.setattr("bench.regress.check.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("bench.regress.check._survey", lambda *_: survey)
    monkeypatch.setattr("bench.regress.check._semantics", lambda *_: ({}, ()))
    monkeypatch.setattr("bench.regress.check.LaunchPairs", Pairs)
    monkeypatch.setattr("bench.regress.command.progress_line", progress)
    revisions = Both("a" * 40, "b" * 40)
    monkeypatch.setattr(
        "bench.regress.command.two_trees", lambda *_: contextlib.nullcontext(Trees(Path("nowhere"), revisions))
    )
    monkeypatch.setattr("bench.regress.command.alike", lambda _: False)
    return said


QUICK = ("--case", "mlp-compact,batch_size=8", "--no-semantics")


def test_a_budget_that_ends_before_the_first_look_is_said_before_it_is_spent(
    measuring: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    """It needs six pairs; three tell of memory."""
    output = ("--output", tmp_path / "check.json", "--markdown", tmp_path / "check.md")
    code, printed, _ = command("regress", *QUICK, "--budget", "3m", *output)
    assert code == 3
    assert len(read_record(tmp_path / "check.json").pairs) == 3
    assert "ends before" not in measuring[-3]  # nothing is known yet
    assert measuring[-2].endswith("--budget ends before the first look, after 6 pairs: raise it")
    assert "%" not in summary_of(tmp_path / "check.md", STEP)
    assert "too few pairs" in summary_of(tmp_path / "check.md", STEP)
    assert "the first look is after 6, of which each took about 0:40 here; --budget 5m or more reaches it" in (
        " ".join(printed.split())
    )
    code, _, _ = command("regress", *QUICK, "--budget", "5m", *output)
    assert len(read_record(tmp_path / "check.json").pairs) == 7
    assert "+22.1%" in summary_of(tmp_path / "check.md", STEP)


def summary_of(path: Path, figure: str) -> str:
    """Return a figure's row in a summary."""
    (row,) = (line for line in path.read_text().splitlines() if f"| {figure} |" in line)
    return row


def test_a_change_without_an_interval_is_no_finding() -> None:
    record = record_of(SLOW[:2], memory=0.3)
    rows = markdown_of(record, verdict_of(record))
    assert "+5" not in rows
    assert "+30" not in rows
    assert rows.count("too few pairs |") == 3
    assert not series_of([record])


def test_a_clock_that_is_set_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair takes 12 s, while the time of day goes back by an hour."""
    wall, monotonic = iter([7200.0, 3600.0, 0.0]), iter([100.0, 112.0])
    clocks = SimpleNamespace(time=lambda: next(wall), monotonic=lambda: next(monotonic))
    monkeypatch.setattr("bench.regress.pair.time", clocks)
    monkeypatch.setattr("bench.regress.pair.processes", lambda *_: contextlib.nullcontext({}))
    answer = {"environment": {}, "startup_seconds": 3.0}
    monkeypatch.setattr("bench.regress.pair.ask_both", lambda *_: {"base": [answer], "head": [answer]})
    assert launch_pairs().measure({NAME: CASE}, []).seconds == 12
    monkeypatch.setattr("bench.regress.side.time", SimpleNamespace(monotonic=lambda: 108.0))
    assert Side({"monotonic_seconds": 100.0})._import_seconds == 8


def test_where_nothing_changed_there_is_nothing_to_compare(
    measuring: list[str], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no PASS, and no failure; `--inject 0%` measures all the same."""
    monkeypatch.setattr("bench.regress.command.alike", lambda _: True)
    output = ("--output", tmp_path / "check.json", "--markdown", tmp_path / "check.md")
    code, printed, errors = command("regress", *QUICK, *output)
    assert (code, errors, measuring) == (0, "", [])
    line = "nothing to compare: gan and bench are the same in HEAD (bbbbbbbbbb) and main (aaaaaaaaaa); "
    assert printed == f"{line}--inject 0% measures all the same\n" == (tmp_path / "check.md").read_text()
    assert not (tmp_path / "check.json").exists()
    for wrong in (("--tolerance", "0%"), ("--budget", "0m"), ("--inject", "51%")):
        code, printed, errors = command("regress", *QUICK, *wrong)
        assert (code, printed) == (2, "")
        assert errors.startswith(f"error: {wrong[0]} {wrong[1]}: must be ")
    command("regress", *QUICK, "--inject", "0%", *output)
    assert read_record(tmp_path / "check.json").options.inject == 0


def test_checks_are_stored_in_the_project_s_root_from_below_it_too(
    measuring: list[str], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "docs" / "images")
    _, printed, _ = command("regress", *QUICK)
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == tmp_path / "results" / "regress"
    assert printed.splitlines()[-1] == f"../../results/regress/{path.name}"
    assert command("history")[1].splitlines()[-1] == "../../results/regress/history.png"
    monkeypatch.chdir(tmp_path)
    assert command("history")[1].splitlines()[-1] == "results/regress/history.png"
    (tmp_path / "results" / "machine").mkdir()
    (tmp_path / "results" / "machine" / "0001_x.json").touch()
    monkeypatch.chdir(tmp_path / "docs")
    assert find(["0001"]) == find([]) == [Path("../results/machine/0001_x.json")]


class FakeSide:
    """Answers as a process would whose steps take their time; the compiler runs in one window."""

    ANSWERS: ClassVar = {
        "memory": [1000, 900],
        "calibrate": [{"products": 70}, {"products": 71}],
        "inject": [None, None],
    }

    def __init__(self, seconds_per_step: float, compiles_in: int = -1) -> None:
        self.seconds_per_step, self.compiles_in = seconds_per_step, compiles_in
        self.windows: list[int] = []
        self.told: list[tuple[Any, ...]] = []

    def ask(self, *command: Any) -> list[Any]:
        self.told.append(command)
        return self.ANSWERS[command[0]]

    def run(self, num_steps: int) -> tuple[float, int]:
        self.windows.append(num_steps)
        return num_steps * self.seconds_per_step, int(len(self.windows) == self.compiles_in)


def launch_pairs(**injected: float) -> LaunchPairs:
    return LaunchPairs(Trees(Path(), Both("", "")), random.Random(0), most_quads=9, injected=injected)


def measured(sides: dict[str, Any], pairs: LaunchPairs | None = None) -> CaseWindows:
    pairs = pairs or launch_pairs()
    return pairs._case(sides, "it", {side: [{"configuration": {}}] for side in sides}, num_cases=1)


def test_both_sides_take_the_same_steps_in_quads_of_random_order() -> None:
    sides = {"base": FakeSide(0.004), "head": FakeSide(0.006)}
    case = measured(sides)
    assert sides["base"].windows == sides["head"].windows
    assert set(case.orders) == {"ABBA", "BAAB"}
    assert case.steps_per_window == Both(3, 3)
    assert case.log_ratio == pytest.approx(math.log(1.5))


def test_a_compiler_inside_a_window_spoils_the_pair() -> None:
    counting = {"base": FakeSide(0.004), "head": FakeSide(0.004)}
    measured(counting)
    windows = len(counting["head"].windows)
    with pytest.raises(PairError, match="HEAD: it compiled again inside a window of quad 9"):
        measured({"base": FakeSide(0.004), "head": FakeSide(0.004, compiles_in=windows)})
    measured({"base": FakeSide(0.004), "head": FakeSide(0.004, compiles_in=3)})  # while it warms up


def test_extra_work_is_measured_once_and_the_same_in_every_pair() -> None:
    pairs = launch_pairs(head=0.05)
    for calibrated in (True, False):
        sides = {"base": FakeSide(0.004), "head": FakeSide(0.004)}
        case = measured(sides, pairs)
        calibration = [("calibrate", 0.05, 9)] if calibrated else []
        assert sides["head"].told == [("memory",), *calibration, ("inject", 70)]
        assert sides["base"].told == [("memory",)]
        assert case.injected == {"head": {"products": 70}}


def test_extra_work_is_a_share_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which a step takes 2 s and a product 10 ms."""
    now = 0.0

    def taking(seconds: float) -> Iterator[None]:
        nonlocal now
        while True:
            now += seconds
            yield

    monkeypatch.setattr(
        "bench.regress.side.time", SimpleNamespace(perf_counter=lambda: now, monotonic=lambda: now)
    )
    monkeypatch.setattr("bench.regress.side._products", lambda device: taking(0.01))
    side = Side({"monotonic_seconds": 0.0})
    side._steps = taking(2.0)
    found = side.calibrate(0.05, 12)
    assert found == pytest.approx({"products": 10, "product_seconds": 0.01, "step_seconds": 2.0})
    side.inject(found["products"])
    assert side.run(3)[0] == pytest.approx(3 * 2.1)


class FakeRank:
    """Has its answers ready, or dies."""

    def __init__(self, *answers: Any) -> None:
        self.side, self.who, self.answers = "head", "", list(answers)
        self.reading, self.writing = os.pipe()
        self.told: list[tuple[Any, ...]] = []

    def fileno(self) -> int:
        return self.reading

    def send(self, *command: Any) -> None:
        self.told.append(command)
        os.write(self.writing, b".")

    def receive(self) -> Any:
        os.read(self.reading, 1)
        return self.answers.pop(0)


def test_whichever_process_fails_first_ends_the_pair() -> None:
    """BASE has not answered yet, and HEAD's first rank waits for the one that died."""

    class Silent(FakeRank):
        def send(self, *command: Any) -> None:
            self.told.append(command)

    class Dead(FakeRank):
        def receive(self) -> Any:
            raise PairError("head", "rank 1: its process ended with code 7")

    sides = {"base": SideRanks([Silent(), Silent()]), "head": SideRanks([Silent(), Dead()])}  # type: ignore[list-item]
    with pytest.raises(PairError, match="HEAD: rank 1: its process ended with code 7"):
        ask_both(sides, "prepare")
    answers = {"base": SideRanks([FakeRank(1), FakeRank(2)]), "head": SideRanks([FakeRank(3), FakeRank(4)])}  # type: ignore[list-item]
    assert ask_both(answers, "prepare") == {"base": [1, 2], "head": [3, 4]}


def test_a_process_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.regress.pair.ANSWER_SECONDS", 0.05)
    ranks = [FakeRank(1), FakeRank(2)]
    ranks[0].send("prepare")
    ranks[1].who = "rank 1: "
    with pytest.raises(PairError, match=r"HEAD: rank 1: no answer for 0\.05 s; all were ended"):
        answers_of(ranks)  # type: ignore[arg-type]


def test_of_several_ranks_the_worst_is_judged() -> None:
    values = [[1e-9, 0.0], [0.7, float("nan")]]
    ranks = [[Check("T1", "x", value, 1.0, "y") for value in rank] for rank in values]
    worst = worst_checks(ranks)
    assert worst == ranks[1]
    assert [check.to_json()["value"] for check in worst] == [0.7, None]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "/somewhere"),
            "error: /somewhere: No space left on device; there",
        ),
        (RuntimeError("unforeseen"), "error: RuntimeError: unforeseen; the traceback is in "),
    ],
)
def test_an_error_is_no_regression(
    error: Exception, line: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr("bench.regress.command.two_trees", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("bench.regress.command.measure", fails)
    code, _, errors = command("regress", "--inject", "0%")
    assert code == 2
    assert errors.startswith(line)
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--output", "nowhere/check.json"],
            "error: --output nowhere/check.json: nowhere is no directory that can be written to\n",
        ),
        ([], "error: taken/regress: taken is no directory that can be written to; give --output FILE\n"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_measured(
    arguments: list[str],
    line: str,
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.results.folder.RESULTS", Path("taken"))
    code, _, errors = command("regress", *arguments)
    assert code == 2
    assert errors == line


def test_a_window_is_as_long_as_its_slowest_rank_s() -> None:
    ranks = [FakeRank([0.2, 0]), FakeRank([0.5, 1]), FakeRank([0.3, 1])]
    assert SideRanks(ranks).run(4) == (0.5, 2)  # type: ignore[arg-type]
    assert all(rank.told == [("run", 4)] for rank in ranks)


def test_cases_of_several_processes_have_launches_of_their_own() -> None:
    names = ("mlp", "mlp,num_processes=2", "quickstart", "quickstart,num_processes=2")
    cases = {name: Case(recipe=name.split(",")[0], num_processes=2 if "," in name else 1) for name in names}
    assert launched_together(cases) == [
        ["mlp", "quickstart"],
        ["mlp,num_processes=2"],
        ["quickstart,num_processes=2"],
    ]


@pytest.mark.parametrize(
    ("seconds", "cases", "plan"),
    [
        (0.001, 1, (13, 160)),
        (0.006, 1, (2, 160)),
        (0.02, 1, (1, 112)),
        (0.02, 5, (1, 67)),
        (0.1, 1, (1, 22)),
        (9, 1, (1, 12)),
    ],
)
def test_windows_are_short_and_as_many_as_there_is_time_for(
    seconds: float, cases: int, plan: tuple[int, int]
) -> None:
    found = plan_for(seconds, 160, cases)
    assert (found.steps_per_window, found.quads) == plan


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


def test_both_sides_take_the_threads_that_the_user_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert spec_of(Case())["options"]["num_threads"] == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert spec_of(Case())["options"]["num_threads"] is None
