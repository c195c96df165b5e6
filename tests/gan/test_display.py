"""Tables on terminals of any width."""

import io
import re

import pytest
from rich.console import Console

import gan.display.progress
from gan.display.progress import Display
from gan.display.tables import Printer, Table

NUMBERS = ("12,345.6", "1.0%", "2.50 ± 0.01", "+21.3% to +25.0%")
TABLE = Table(
    "A title",
    ("case", "figure", "ms/step", "IQR", "× plain", "interval", "verdict"),
    2,
    [("step diffaugment-cpu-fp32-eager-b64-p1", "step time", *NUMBERS, "INCONCLUSIVE")] * 2,
    ("IQR", "interval", "× plain"),
)


def printed(table: Table, columns: int | None, monkeypatch: pytest.MonkeyPatch, *, wide: bool = False) -> str:
    """What a terminal of so many columns shows, or a file."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    Printer(file, wide=wide, advice="--wide shows them").table(table)
    return file.getvalue()


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 40, 20, 1])
def test_a_number_is_whole_or_its_column_is_named_as_left_out(columns: int, monkeypatch) -> None:
    text = printed(TABLE, columns, monkeypatch)
    table, _, left_out = " ".join(text.split()).partition("left out for lack of width:")
    for name, number in zip(TABLE.columns[2:], (*NUMBERS, "INCONCLUSIVE"), strict=True):
        assert table.count(number) == (0 if name in left_out else 2), text
    assert "…" not in text
    assert table.count("IQR") + left_out.count("IQR") == 1
    assert ("--wide shows them" in left_out) == bool(left_out)
    if columns >= 60:
        assert max(map(len, text.splitlines())) <= columns


def test_columns_go_in_the_order_that_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [" ".join(printed(TABLE, columns, monkeypatch).split()) for columns in (85, 65, 20)]
    assert [text.partition("width: ")[2].partition(";")[0] for text in shown] == [
        "IQR",
        "IQR, interval",
        "IQR, interval, × plain",
    ]


def test_from_the_last_number_to_the_second_where_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("A title", TABLE.columns[:6], 2, [row[:6] for row in TABLE.rows])
    shown = " ".join(printed(table, 30, monkeypatch).split())
    assert "left out for lack of width: interval, × plain, IQR; --wide" in shown
    assert shown.count(NUMBERS[0]) == 2


def test_a_file_takes_every_column_and_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours, but no width of 80
    rows = [("long " * 40 + "name", *TABLE.rows[0][1:])] * 2
    table = Table(TABLE.title, TABLE.columns, 2, rows)
    for text in (printed(table, None, monkeypatch), printed(table, 40, monkeypatch, wide=True)):
        plain = re.sub(r"\x1b\[\d*m", "", text)
        assert "left out" not in plain
        assert all(plain.count(cell) == 2 for cell in rows[0])


def test_markup_and_escape_codes_in_cells_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(Table("[/red] \x1b[31m", ("[bold]",), 1, [("[/b]\x07\n|",)]), None, monkeypatch)
    assert all(shown in text for shown in (r"[/red] \x1b[31m", "[bold]", r"[/b]\x07 |"))


def test_notes_and_lines_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    printer = Printer(file)
    printer.heading("[/red]\x1b")
    printer.note("[/red]\x1b")
    printer.line("x" * 500 + "[/red]\x1b")
    lines = file.getvalue().splitlines()
    assert r"[/red]\x1b" in lines[0]
    assert lines[1:] == ["• [/red]\\x1b", "x" * 500 + "[/red]\\x1b"]


METRICS = {"images_per_second": 51.2, "loss_d": 0.5, "loss_g": 1.2, "p_real": 0.7, "p_fake": 0.3}


def lines_of_steps(seconds_per_step: float, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a file gets of a run whose steps take so long."""
    clock = [1000.0]
    monkeypatch.setattr(gan.display.progress.time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    display = Display(enabled=True, total_steps=num_steps, console=Console(file=file, width=200))
    for step in range(1, num_steps + 1):
        clock[0] += seconds_per_step
        if display.due():
            display.step(step, "epoch 1/1", METRICS, seconds_left=seconds_per_step * (num_steps - step))
    return file.getvalue().splitlines()


def test_the_first_step_is_shown_and_then_one_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file too, where a bar would show nothing."""
    slow = lines_of_steps(4.0, 1000, monkeypatch)
    assert slow[0] == (
        "epoch 1/1  step 1/1,000  51 images/s  loss D 0.500  G 1.200  p(real) 0.700  p(fake) 0.300  1:06:36 left"
    )
    assert ["step 4/1,000" in slow[1], "step 7/1,000" in slow[2]] == [True, True]
    assert len(slow) == 334
    assert len(lines_of_steps(0.002, 1000, monkeypatch)) == 1


def test_other_processes_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Display(enabled=False, total_steps=3).due()


def test_colours_make_no_terminal_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with Display(enabled=True, total_steps=3, console=Console(file=file)) as display:
        display.say("a line")
    assert file.getvalue() == "a line\n"
