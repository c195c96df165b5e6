"""A regression check: its options, its budget, what it says and where it writes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.regress.check import Survey
from bench.regress.judge import STEP
from bench.regress.options import (
    RegressOptions,
    parse_case_text,
    parse_fraction,
    parse_seconds,
    settings_of,
)
from bench.regress.record import read_record
from bench.regress.sides import Both
from bench.regress.trees import Trees
from bench.regress.windows import Pair
from bench.results.folder import find
from bench.turns.ranks import PairError
from gan.errors import UsageError
from tests.bench.regress_records import SLOW, STEADY, pair_of, record_of


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
    monkeypatch.setattr("bench.regress.command.two_trees", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(
        "bench.regress.command.measure_check", lambda settings, *_: records[settings.options.inject]
    )
    code, printed, errors = command("regress", "--self-test")
    assert code == (2 if line else 0)
    assert line in errors if line else "the gate sees its canaries" in printed


def test_options_that_a_self_test_would_ignore_are_refused(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.regress.command.measure_check", lambda *_: pytest.fail("measures"))
    for words in ("--base dev", "--inject 1%", "--no-semantics", "--output a.json", "--markdown a.md"):
        code, printed, errors = command("regress", "--self-test", *words.split())
        assert (code, printed) == (2, "")
        assert errors.startswith(f"error: {words}: --self-test compares HEAD with itself, and writes no file; ")


def test_cases_are_a_recipe_and_axes() -> None:
    case = parse_case_text("mlp,compile=inductor,batch_size=32", "cpu")
    assert (case.recipe, case.compile, case.batch_size, case.workload) == ("mlp", "inductor", 32, "step")
    assert parse_case_text("quickstart,workload=epoch", "cpu").workload == "epoch"
    for text, line in (
        ("mlp,batchsize=8", "did you mean batch_size?"),
        ("mlp,compile=induktor", "did you mean inductor?"),
        ("mlp,workload=startup", "choose one of step, epoch"),
        ("mlp,num_processes=999", "999 processes, but "),
        ("mlp,precision=fp16", "fp16 needs a GPU"),
        ("mlp,compile=no,compile=inductor", "compile twice; give each value a --case of its own"),
    ):
        with pytest.raises(UsageError, match=line) as caught:
            parse_case_text(text, "cpu")
        assert text in str(caught.value) or text.split("=")[1] in str(caught.value)


def test_fractions_and_times() -> None:
    assert parse_fraction("--tolerance", "5%") == parse_fraction("--tolerance", "0.05") == 0.05
    assert (parse_seconds("--budget", "90s"), parse_seconds("--budget", "1.5h")) == (90, 5400)
    with pytest.raises(UsageError, match="--tolerance five: must be a percentage"):
        parse_fraction("--tolerance", "five")
    with pytest.raises(UsageError, match="--budget 10: must be a time"):
        parse_seconds("--budget", "10")


def test_the_default_cases_are_possible_and_differ() -> None:
    cases = settings_of(RegressOptions()).cases.values()
    assert len({case.recipe for case in cases}) == 3
    assert {case.compile for case in cases} == {"no", "inductor"}
    assert {case.workload for case in cases} == {"step", "epoch"}


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
        "bench.regress.command.two_trees",
        lambda *_, **__: contextlib.nullcontext(Trees(Path("nowhere"), revisions)),
    )
    monkeypatch.setattr("bench.regress.command.alike", lambda _: False)
    return said


QUICK = ("--case", "mlp-compact,batch_size=8", "--no-semantics")


def test_a_budget_that_ends_before_the_next_look_is_said_before_it_is_spent(
    measuring: list[str], command: Callable[..., Any], tmp_path: Path
) -> None:
    """It needs six pairs; three tell of memory."""
    output = ("--output", tmp_path / "check.json", "--markdown", tmp_path / "check.md")
    code, printed, _ = command("regress", *QUICK, "--budget", "3m", *output)
    assert code == 3
    assert len(read_record(tmp_path / "check.json").pairs) == 3
    assert "ends before" not in measuring[-3]  # nothing is known yet
    assert measuring[-2].endswith("at this pace --budget ends before the next look (6 pairs): raise it")
    assert "%" not in summary_of(tmp_path / "check.md", STEP)
    assert "too few pairs" in summary_of(tmp_path / "check.md", STEP)
    assert "the next look is after 6, of which each took about 0:40 here; --budget 5m or more reaches it" in (
        " ".join(printed.split())
    )
    code, _, _ = command("regress", *QUICK, "--budget", "5m", *output)
    assert len(read_record(tmp_path / "check.json").pairs) == 6, "the next look, after 12, is out of reach"
    assert "+22.1%" in summary_of(tmp_path / "check.md", STEP)


def test_pairs_that_were_measured_are_kept_if_too_many_others_fail(
    measuring: list[str], command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = pair_of(0.2), PairError("head", "it died")
    outcomes = iter([good, bad, good, bad])

    class Pairs:
        of = classmethod(lambda cls, *_: cls())

        def measure(self, *_: object) -> Pair:
            if isinstance(outcome := next(outcomes), Exception):
                raise outcome
            return outcome

    trees = Trees(Path("nowhere"), Both("a" * 40, "b" * 40))
    monkeypatch.setattr("bench.regress.check.LaunchPairs", Pairs)
    monkeypatch.setattr("bench.regress.study.pairs.two_trees", lambda *_: contextlib.nullcontext(trees))
    path = tmp_path / "pairs.json"
    code, printed, errors = command("pairs", "--output", path, "--case", "mlp-compact,batch_size=8")
    assert (code, printed.splitlines()[-1]) == (2, str(path))
    kept = f"error: HEAD: it died; mend it; {path} has the pairs that were measured"
    assert errors.splitlines()[-1] == kept
    record = read_record(path)
    assert (len(record.pairs), len(record.failed_pairs)) == (2, 2)


def summary_of(path: Path, figure: str) -> str:
    """Return a figure's row in a summary."""
    (row,) = (line for line in path.read_text().splitlines() if f"| {figure} |" in line)
    return row


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "/somewhere"),
            "error: /somewhere: No space left on device; there",
        ),
        (
            OSError(12, "Cannot allocate memory"),
            "error: out of memory: lower the batch_size of --case; the traceback",
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

    monkeypatch.setattr("bench.regress.command.two_trees", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("bench.regress.command.measure_check", fails)
    code, _, errors = command("regress", "--inject", "0%")
    assert code == 2
    assert errors.startswith(line)
    assert errors.endswith("; there is no verdict\n")
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
