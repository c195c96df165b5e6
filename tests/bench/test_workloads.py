"""The rows of workloads, and what they name."""

import ast

from bench.report.columns import COLUMNS, KEPT_LONGEST
from bench.report.plots import FIGURES
from bench.report.settings import TIMES_DEFAULT
from bench.results.damage import REQUIRED_FACTS
from bench.suite.suites import SUITES
from bench.suite.workloads import WORKLOADS
from bench.workloads.table import ARMS, FACTS
from tests.conftest import ROOT


def test_every_workload_is_measured_by_arms_or_by_a_function_of_facts() -> None:
    facts = {row.name for row in WORKLOADS.values() if row.kind == "facts"}
    assert (FACTS.keys(), ARMS.keys()) == (facts, WORKLOADS.keys() - facts), (
        "each row of WORKLOADS needs its function in ARMS, or if kind is facts in FACTS, of bench.workloads.table"
    )


def test_rows_name_columns_figures_and_facts_that_exist_and_no_other_exists() -> None:
    assert {name for row in WORKLOADS.values() for name in row.columns} == COLUMNS.keys()
    assert set(KEPT_LONGEST) <= {*COLUMNS, TIMES_DEFAULT}
    assert {name for row in WORKLOADS.values() for name in row.figures} == FIGURES.keys()
    assert {name for row in WORKLOADS.values() for name in row.facts} == REQUIRED_FACTS.keys()
    assert all(bool(row.columns) != row.row_per_arm for row in WORKLOADS.values())


def test_every_workload_has_its_test_function() -> None:
    functions = {
        node.name
        for path in ROOT.glob("bench/test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {name for name in functions if name.startswith("test_")} == {f"test_{name}" for name in WORKLOADS}, (
        "each row of WORKLOADS needs a function test_NAME in a bench/test_*.py"
    )


def test_every_workload_is_in_a_suite() -> None:
    sweeps = [sweep for suite in SUITES.values() for sweep in (*suite.sweeps, *suite.on_request)]
    assert {name for sweep in sweeps for name in sweep["workload"]} == WORKLOADS.keys(), (
        "each workload needs a case in `sweeps` or `on_request` of a suite in bench/suite/suites.py"
    )
