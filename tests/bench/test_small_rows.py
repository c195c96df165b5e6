"""Large rows made small: in which suites, under which name, and never taken for the row itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.report.compare import comparison
from bench.report.notes import notes
from bench.report.overview import summary
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.file import Results
from bench.results.records import parse_case
from bench.suite.cases import Case
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES, Suite
from gan.errors import UsageError
from gan.recipes import RECIPES
from gan.recipes_small import SMALL
from gan.rows.classic import CLASSIC
from tests.bench.records import results_file, step_record

LAPTOP = Machine(num_cores=2, num_gpus=0)
LARGE = {name for name in RECIPES if name in SMALL and name not in CLASSIC}
FULL = Case(recipe="dcgan", batch_size=8)
NARROW = replace(FULL, set=SMALL["dcgan"])


def of_one_row(name: str = "dcgan") -> Suite:
    """A suite of a row at its size, and of another one made small."""
    small = {"workload": ("step",), "recipe": (name,), "set": (SMALL[name],)}
    return replace(SUITES["smoke"], sweeps=({"workload": ("step",), "recipe": ("mlp",)}, small))


def test_a_suite_of_minutes_has_every_large_row_once_and_small() -> None:
    cases = [case for case in SUITES["smoke"].cases(LAPTOP, {}) if case.workload == "step"]
    assert {case.recipe for case in cases} == RECIPES.keys()
    for name in RECIPES:
        of_row = [case.is_small for case in cases if case.recipe == name]
        assert of_row == [True] if name in LARGE else not any(of_row)
    assert not any(impossible(case, LAPTOP) for case in cases)
    stability = SUITES["smoke"].cases(LAPTOP, {}, "stability")
    assert {case.recipe for case in stability if case.is_small} == LARGE


@pytest.mark.parametrize("suite", ["standard", "full"])
def test_other_suites_have_rows_at_their_size(suite: str) -> None:
    assert not any(case.set for case in SUITES[suite].cases(LAPTOP, {}))


def test_a_row_that_is_asked_for_is_measured_at_its_size() -> None:
    assert [case.set for case in of_one_row().cases(LAPTOP, {})] == [(), SMALL["dcgan"]]
    chosen = of_one_row().cases(LAPTOP, {"recipe": ["dcgan", "mlp"]})
    assert [(case.recipe, case.set) for case in chosen] == [("dcgan", ()), ("mlp", ())]
    settings = ("optimizer.eps=1e-6",)
    chosen = of_one_row().cases(LAPTOP, {"set": [settings]})
    assert [(case.recipe, case.set) for case in chosen] == [("mlp", settings)]
    precise = of_one_row().cases(LAPTOP, {"precision": ["bf16"]})
    assert [(case.recipe, case.is_small, case.precision) for case in precise] == [
        ("mlp", False, "bf16"),
        ("dcgan", True, "bf16"),
    ]


def test_only_the_core_and_the_plain_loop_are_asked_for_small_rows() -> None:
    subjects = {"subject": ["core", "plain", "my_gan.py:make"]}
    small = [case.subject for case in of_one_row().cases(LAPTOP, subjects) if case.set]
    assert small == ["core", "plain"]
    case = next(case for case in of_one_row().cases(LAPTOP, {"subject": ["plain"]}) if case.is_small)
    assert case.setup().options == {"set": SMALL["dcgan"]}


def test_a_small_row_is_measured_for_a_moment() -> None:
    suite = SUITES["smoke"]
    assert suite.effort_of(NARROW).measure_seconds == 1.5 < suite.effort_of(FULL).measure_seconds
    assert suite.effort_of(NARROW).rounds == suite.effort_of(FULL).rounds


def test_a_small_row_has_a_name_of_its_own_and_its_settings_in_the_record() -> None:
    assert NARROW.id == "dcgan-small-cpu-fp32-eager-b8-p1"
    assert (NARROW.label("recipe"), NARROW.label("set")) == ("dcgan-small", "–")
    assert NARROW.labels(["set"]) == ["small"], "where the recipe is not named"
    record = json.loads(json.dumps(NARROW.to_json()))
    assert (record["recipe"], tuple(record["set"])) == ("dcgan", SMALL["dcgan"])
    assert parse_case(record) == NARROW
    others = replace(FULL, set=("generator.channels=5", "discriminator.channels=5"))
    assert not others.is_small
    assert others.id == "dcgan-cpu-fp32-eager-b8-p1-generator.channels=5-discriminator.channels=5"
    assert "small" not in FULL.id


def test_settings_of_another_version_are_not_taken_for_those_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SMALL, "dcgan", ("generator.channels=6", "discriminator.channels=6"))
    assert NARROW.id.endswith("-generator.channels=4-discriminator.channels=4")


def results(*cases: Case) -> Results:
    return Results.of(Path("0001_smoke.json"), results_file(*map(step_record, cases)))


def test_a_small_row_is_not_compared_with_the_row() -> None:
    with pytest.raises(UsageError, match="no case is in both"):
        comparison(results(FULL), results(NARROW))
    both = comparison(results(FULL, Case()), results(NARROW, Case()))
    assert [row[0] for table in both.tables for row in table.rows] == ["mlp"]
    assert f"only in A: step {FULL.id}" in both.notes
    assert f"only in B: step {NARROW.id}" in both.notes


def test_tables_and_notes_say_that_a_row_is_small() -> None:
    measured = [CaseResult.of(step_record(case)) for case in (Case(), FULL, NARROW)]
    (table,) = tables(measured)
    names = [row[table.columns.index("recipe")] for row in table.rows]
    assert names == ["mlp", "dcgan", "dcgan-small"]
    assert "set" not in table.columns
    (line,) = [line for line in notes(measured) if line.startswith("small")]
    assert line == "small networks, so other GANs than their rows: dcgan-small: the file has their settings"
    assert not [line for line in notes(measured[:2]) if line.startswith("small")]
    shown = [row[0] for row in summary([results(FULL, NARROW)]).rows]
    assert shown == ["dcgan b8", "dcgan-small b8"]
