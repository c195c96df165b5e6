"""Large rows made small: in which suites, under which name, and never taken for the row itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.harness.windows import Effort
from bench.report.compare import comparison
from bench.report.notes import notes
from bench.report.overview import summary
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.file import Results
from bench.results.records import parse_case
from bench.suite.cases import Case
from bench.suite.machine import Machine
from bench.suite.suites import SUITES
from bench.workloads.setup import CoreSetup
from bench.workloads.step import step
from gan.errors import UsageError
from gan.options import TrainOptions
from gan.recipes import RECIPES
from gan.recipes_small import LARGE, SMALL
from gan.session.run import prepare
from gan.surface import whole_batches
from tests.bench.records import results_file, step_record

LAPTOP = Machine(num_cores=2, num_gpus=0)
SERVER = Machine(num_cores=64, num_gpus=8, gpu_capability=(9, 0))
FULL = Case(recipe="dcgan", batch_size=8)
NARROW = replace(FULL, set=SMALL["dcgan"])


@pytest.fixture
def _dcgan_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.suite.suites.LARGE", ("dcgan",))


@pytest.mark.parametrize("suite", SUITES)
def test_a_cpu_measures_every_large_row_small_and_the_others_at_their_size(suite: str) -> None:
    cases = [case for case in SUITES[suite].cases(LAPTOP, {}, "stability") if case.device == "cpu"]
    assert {case.recipe for case in cases if case.workload == "step"} == RECIPES.keys()
    for case in cases:
        assert case.set == (SMALL.get(case.recipe, ()) if case.recipe in LARGE else ())
        assert case.is_small is bool(case.set)


@pytest.mark.usefixtures("_dcgan_is_large")
def test_a_gpu_measures_rows_at_their_size_but_in_the_suite_of_minutes() -> None:
    for suite, sets in (("smoke", {SMALL["dcgan"]}), ("standard", {()}), ("full", {()})):
        cases = SUITES[suite].cases(SERVER, {"device": ["cuda"]})
        assert {case.set for case in cases if case.recipe == "dcgan"} == sets
        assert {case.set for case in cases if case.recipe == "sngan"} == {()}


@pytest.mark.usefixtures("_dcgan_is_large")
def test_a_row_that_is_asked_for_is_measured_at_its_size() -> None:
    def steps(**chosen: list[Any]) -> dict[str, set[tuple[str, ...]]]:
        cases = [case for case in SUITES["smoke"].cases(LAPTOP, chosen) if case.workload == "step"]
        return {name: {case.set for case in cases if case.recipe == name} for name in ("dcgan", "mlp")}

    assert steps() == {"dcgan": {SMALL["dcgan"]}, "mlp": {()}}
    assert steps(recipe=["dcgan", "mlp"]) == {"dcgan": {()}, "mlp": {()}}
    settings = ("optimizer.eps=1e-6",)
    assert steps(set=[settings]) == {"dcgan": {settings}, "mlp": {settings}}
    assert steps(precision=["bf16"]) == {"dcgan": {SMALL["dcgan"]}, "mlp": {()}}


@pytest.mark.usefixtures("_dcgan_is_large")
def test_the_plain_loop_is_as_small_as_the_core() -> None:
    cases = SUITES["smoke"].cases(LAPTOP, {"subject": ["core", "plain", "my_gan.py:make"]})
    small = [case for case in cases if case.set and case.workload == "step"]
    assert [case.subject for case in small] == ["core", "plain"]
    assert small[1].setup().options == {"set": SMALL["dcgan"]}


def test_a_small_row_is_measured_for_a_moment() -> None:
    suite = SUITES["smoke"]
    assert suite.effort_of(NARROW).measure_seconds == 1.0 < suite.effort_of(FULL).measure_seconds
    assert suite.effort_of(NARROW).rounds == suite.effort_of(FULL).rounds


def test_a_small_row_has_nothing_beside_its_step(tmp_path: Path) -> None:
    def arms(case: Case) -> list[str]:
        run, state = prepare(TrainOptions(recipe=case.recipe, dataset="synthetic", batch_size=8, set=case.set))
        setup = CoreSetup(case, whole_batches(run), state, tmp_path, {}, Effort(1, 1))
        return [arm.name for arm in step(setup)]

    assert arms(NARROW) == ["step"]
    assert arms(replace(FULL, set=("generator.channels=5", "discriminator.channels=4")))[:2] == ["step", "plain"]


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
