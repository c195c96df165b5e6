"""The page: readable by programs and people, on any screen, and small."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.report.drawing import drawing
from bench.report.overview import sessions, stability_of, summary
from bench.report.page import page
from bench.report.plots import figures
from bench.results.case_result import CaseResult
from bench.results.file import Results, read
from bench.suite.cases import Case
from tests.bench.records import results_file, step_record
from tests.bench.test_report import EVERYTHING, ILL, results, stability_record
from tests.conftest import ROOT


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag == name]


def at(time: str, *records: dict, number: int = 1) -> Results:
    return Results.of(Path(f"{number:04d}_smoke.json"), results_file(*records, time=time))


def test_ids_are_unique_and_all_that_is_referred_to_exists() -> None:
    text = page([results(*EVERYTHING), results(*EVERYTHING)])
    ids = Counter(attributes["id"] for _, attributes in Elements(text).seen if "id" in attributes)
    assert set(ids.values()) == {1}
    referred = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text)
    assert len(referred) > 20
    assert set(referred) <= ids.keys()


def test_figures_and_tables_say_what_they_are() -> None:
    elements = Elements(page([results(*EVERYTHING)]))
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in elements.all("svg"))
    assert {cell.get("scope") for cell in elements.all("th")} == {"row", "col"}
    assert len(elements.all("caption")) == len(elements.all("table"))


def test_numbers_of_texts_keep_their_digits() -> None:
    figure = Figure()
    figure.text(0.123456, 0.5, "0.9951 and 1.0049")
    drawn = drawing("", figure, "a")
    assert "0.9951 and 1.0049" in drawn
    assert re.findall(r"\d\.\d{3,}", drawn.replace("0.9951 and 1.0049", "")) == []


def test_no_legend_lies_on_what_is_drawn() -> None:
    drawn = 0
    for _, figure in figures([*map(CaseResult.of, EVERYTHING)]):
        FigureCanvasAgg(figure).draw()
        (axes,) = figure.axes
        assert axes.get_legend() is None
        for legend in figure.legends:
            assert not legend.get_window_extent().overlaps(axes.get_window_extent())
            drawn += 1
    assert drawn >= 3


def test_the_summary_takes_each_step_from_its_newest_session() -> None:
    bf16 = Case(precision="bf16")
    older = at("2026-01-01T00:00:00+00:00", step_record(), step_record(bf16, 0.5))
    newer = at("2026-01-02T00:00:00+00:00", step_record(scale=2.0), stability_record(ILL), number=2)
    table = summary([newer, older])
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["setting"] for row in rows] == ["cpu fp32 eager", "cpu bf16 eager"]
    assert [row["× plain"] for row in rows] == ["1.25 ± 0.00", "5.00 ± 0.00"]
    assert [row["session"] for row in rows] == ["0002", "0001"]
    assert [row["stability"] for row in rows] == ["FAIL", "–"]
    assert rows[1]["× fp32 eager"] == "2.00 ± 0.00"


def test_the_summary_has_the_steps_of_each_machine() -> None:
    """Of two virtual machines with the same processor, and files of the same number, one was left out."""
    files = [
        Results.of(Path(f"machine{cores}/0001_smoke.json"), results_file(step_record(), cpu=cpu))
        for cores in (4, 8)
        for cpu in [{"model": "A CPU", "cores": cores}]
    ]
    table = summary(files)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["machine"] for row in rows] == ["A CPU, 4 cores", "A CPU, 8 cores"]
    assert [row["session"] for row in rows] == ["machine4/0001_smoke", "machine8/0001_smoke"]
    assert "machine" not in summary(files[:1]).columns


def test_the_summary_tells_numbers_of_processes_apart() -> None:
    cases = [Case(), Case(num_processes=2), Case(num_processes=2, scaling="strong")]
    table = summary([results(*map(step_record, cases))])
    settings = [dict(zip(table.columns, row, strict=True))["setting"] for row in table.rows]
    assert settings == ["cpu fp32 eager", "cpu fp32 eager p2", "cpu fp32 eager p2 strong"]


def test_the_verdict_of_stability_is_that_of_the_setting_at_any_batch() -> None:
    judged = [CaseResult.of(stability_record(ILL))]
    assert stability_of(Case(batch_size=512), judged) == "FAIL"
    assert stability_of(Case(precision="bf16"), judged) == "–"


def test_sessions_of_one_machine_are_compared_and_no_others() -> None:
    files = [at(f"2026-01-0{day}T00:00:00+00:00", step_record(scale=day), number=day) for day in (2, 1)]
    other = results(step_record(), cpu={"model": "A CPU", "cores": 8})
    (table,) = sessions([*files, other])
    assert table.title == "× plain on A CPU, 4 cores"
    assert table.columns[2:] == ["0001", "0002", "newest beside the one before"]
    assert list(table.rows[0][2:]) == ["2.50 ± 0.00", "1.25 ± 0.00", "slower"]
    assert "Sessions compared" not in page([other])


def test_styles_are_written_once_and_say_the_same() -> None:
    text = page([results(*EVERYTHING)])
    rules = dict(re.findall(r"\.(s[0-9a-f]{6})\{([^}]*)\}", text))
    used = Counter(re.findall(r'class="(s[0-9a-f]{6})"', text))
    assert used.keys() == rules.keys()
    assert min(used.values()) >= 3
    assert any("stroke: #d55e00" in rule for rule in rules.values()), "the line of a median"
    for drawn in re.findall(r"<svg.*?</svg>", text):
        assert max(Counter(re.findall(r'style="([^"]*)"', drawn)).values(), default=0) < 3


@pytest.mark.slow
@pytest.mark.nightly
def test_ten_sessions_take_less_than_a_megabyte() -> None:
    path = ROOT / "results/Linux-CPython-3.11-64bit/0014_smoke.json"
    assert len(page([read(path)] * 10).encode()) < 1_000_000
