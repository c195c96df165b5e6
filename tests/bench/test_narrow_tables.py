"""Every table of the suite on terminals of any width: no number is cut, and the key columns stay."""

import io
import re
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest

import bench.quality.summary
from bench.__main__ import COMMANDS
from bench.predict.against import compared, comparison_table
from bench.predict.prediction import predictions, sizes_rehearsed
from bench.predict.summary import show_predictions
from bench.race.standing import standings_of
from bench.race.summary import table_of as race_table
from bench.reference import _table as reference_table
from bench.regress.history import _table_of_series, series_of
from bench.regress.judge import verdict_of
from bench.regress.study.pool import _describe
from bench.regress.summary import table_of as check_table
from bench.report.compare import comparison
from bench.report.overview import sessions, summary
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.file import read
from bench.stability.equivalence import Verdict
from bench.suite.cases import Case
from bench.tune.summary import table_of as tune_table
from gan.display.tables import Printer, Table
from tests.bench.race_records import NOISE, SLOWER, race_of
from tests.bench.records import explained_record, step_record
from tests.bench.regress_records import SLOW, record_of
from tests.bench.test_predict import settings, stub_rehearsals
from tests.bench.test_profile import with_profile
from tests.bench.test_report import EVERYTHING, results
from tests.bench.test_time_to_quality import submission_of
from tests.bench.test_tune import record_of as tuning_of
from tests.conftest import ROOT

NUMBER = re.compile(r"\d")


def printed_by(show: object, argument: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    kept: list[Table] = []
    monkeypatch.setattr(Printer, "table", lambda _, table: kept.append(table))
    show(argument)  # type: ignore[operator]
    monkeypatch.undo()
    yield from kept


def every_table(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Table]]:
    """The tables that each module of the suite makes, from records with long names and large numbers."""
    large = Case(
        recipe="mlp-batchnorm", batch_size=16384, precision="bf16", image_shape="3x128x128", device="cuda"
    )
    records = [*EVERYTHING, step_record(large, 1234.5), with_profile(step_record(Case(recipe="sngan")))]
    race = race_of(NOISE, SLOWER, b={"num_parameters": {"G": 123_456_789}})
    check = record_of(SLOW)
    session = read(ROOT / "results/Linux-CPython-3.11-64bit/0014_smoke.json")
    of_files = [tables(list(map(CaseResult.of, records))), tables(session.cases)]
    submissions = [submission_of([123_456_789, 2_000_000], failed=1), submission_of([1000])]
    explained = CaseResult.of(explained_record())
    same = comparison(results(*records), results(*records))
    (points, *_) = series_of([record_of(SLOW), record_of(SLOW)]).values()
    scaling = settings("--link", "400Gb/s", "--gpus", "8,512")
    steps = stub_rehearsals(scaling.case, sizes_rehearsed(scaling), None, None, None)

    compared_steps = compared(predictions(scaling, steps, None), [explained] * 2)

    def show_scaling(link: None) -> None:
        show_predictions(scaling, predictions(scaling, steps, link), steps, link, wide=True)

    return {
        "report/tables.py": [table for of_file in of_files for table in of_file],
        "report/exposures.py": tables([explained])[1:],
        "report/profiles.py": [table for table in of_files[0] if table.title.startswith("Operators")],
        "report/compare.py": list(same.tables),
        "report/overview.py": [summary([results(*records)]), *sessions([results(*records)] * 2)],
        "race/summary.py": [race_table(race, standings_of(race))],
        "tune/summary.py": [tune_table(tuning_of(*NOISE))],
        "regress/summary.py": [check_table(check, verdict_of(check))],
        "regress/history.py": [_table_of_series("a machine", points)],
        "regress/study/pool.py": [_describe({"a pool of many pairs": {"step time": np.array(SLOW * 4)}})],
        "reference.py": [reference_table(Case(), [Verdict("loss_d", -12.34, 0.001, 0.999, 1.234, 0.5)])],
        "predict/summary.py": list(printed_by(show_scaling, None, monkeypatch)),
        "predict/against.py": [comparison_table(compared_steps)],
        "quality/summary.py": list(printed_by(bench.quality.summary.show, submissions, monkeypatch)),
    }


def test_every_module_that_makes_tables_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        path.relative_to(ROOT / "bench").as_posix()
        for path in (ROOT / "bench").rglob("*.py")
        if re.search(r"\bTable\(", path.read_text(encoding="utf-8"))
    }
    assert made == every_table(monkeypatch).keys()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_no_number_is_cut_and_the_key_columns_stay(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, made in every_table(monkeypatch).items():
        assert made, name
        for table in made:
            file = io.StringIO()
            monkeypatch.setenv("COLUMNS", str(columns))
            Printer(file, advice="--wide shows them").table(table)
            monkeypatch.delenv("COLUMNS")
            require_whole(table, file.getvalue(), columns)


def require_whole(table: Table, text: str, columns: int) -> None:
    shown, _, rest = text.partition("left out for lack of width: ")
    expendable = table.expendable or table.columns[: table.num_labels : -1]
    named = " ".join(rest.split()).partition(";")[0]
    in_order = [expendable[:most] for most in range(len(expendable) + 1)]
    (left_out,) = (names for names in in_order if ", ".join(names) == named)
    assert "…" not in shown, text
    lines = shown.splitlines()
    for row in table.rows:
        for index, cell in enumerate(row):
            if index >= table.num_labels and table.columns[index] not in left_out and NUMBER.search(cell):
                assert any(cell in line for line in lines), (cell, text)
            if index < table.num_labels and re.fullmatch(r"[\d,x]+", cell):
                assert any(re.search(rf"(?<![\w,]){cell}(?![\w,])", line) for line in lines), (cell, text)
    if columns >= 80:
        assert max(map(len, lines)) <= columns, text


def test_every_command_that_prints_a_table_can_show_all_columns() -> None:
    """Its printer is told whether to; a session of pytest names `report --wide` instead."""
    options = {name: {field.name for field in fields(kind)} for name, (kind, _) in COMMANDS.items()}
    lacking = [name for name, names in options.items() if "wide" not in names]
    assert lacking == ["configs"]
    for path in sorted((ROOT / "bench").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        printers = re.findall(r"\bPrinter\((.*)\)", text)
        if ".table(" in text and path.name != "conftest.py":
            assert all("wide=wide" in made or "wide=options.wide" in made for made in printers), path
        checks = re.findall(r"(?<!def )\bshow_check\((.*)\)", text)
        assert all("wide=options.wide" in shown for shown in checks), path
