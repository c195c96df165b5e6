"""Tables, Markdown, the page and the comparison, and the commands that print them."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.report.columns import COLUMNS, GPU_COLUMNS, MEANINGS, PHASE_COLUMNS
from bench.report.compare import comparison
from bench.report.exposures import EXPOSURE_COLUMNS, MESSAGE_COLUMNS
from bench.report.markdown import markdown
from bench.report.notes import notes, session_notes, verdict_notes
from bench.report.page import page
from bench.report.profiles import PROFILE_COLUMNS
from bench.report.settings import TIMES_DEFAULT
from bench.report.tables import legend, tables
from bench.results.case_result import CaseResult
from bench.results.checks import Check
from bench.results.damage import KEY, schema_error
from bench.results.file import MissingCase, Results, SessionSummary, read
from bench.suite.cases import Case
from gan.errors import UsageError
from gan.recipes import RECIPES
from tests.bench.records import (
    arm,
    checkpoint_record,
    phases_record,
    rank,
    record,
    results_file,
    scaling_record,
    step_record,
)
from tests.conftest import ROOT


def stability_record(*checks: Check, processes: int = 1) -> dict:
    """On the second of several processes, every check passes."""
    case = Case(workload="stability", num_processes=processes)
    ranks = [rank(number) for number in range(processes)]
    passing = [replace(check, value=0.0) for check in checks]
    for process, of_process in zip(ranks, (checks, passing), strict=False):
        process["facts"] |= {"seconds": 7.0, "checks": [check.to_json() for check in of_process]}
    return record(case, ranks)


WELL = Check("T2", "generator's gradients", 4e-7, 1e-6, "a cause", 2e-7)
ILL = replace(WELL, value=5e-6)
LOST = replace(WELL, value=float("nan"))
UNKNOWN = Check("T3", "fid, undecided", 1.0, 0.0, "more seeds", undecided=True)

EVERYTHING = [
    stability_record(WELL, LOST),
    step_record(),
    step_record(Case(precision="bf16"), 0.5),
    scaling_record("weak"),
    scaling_record("strong"),
    phases_record(),
    checkpoint_record(),
    record(Case(workload="sampling"), [rank(sampling=arm([0.002] * 4, 64), plain=arm([0.003] * 4, 64))]),
    record(Case(workload="epoch"), [rank(epoch=arm([2.0] * 4, 9984), plain=arm([0.025] * 4, 64))]),
    record(Case(workload="startup"), [rank(step=arm([], 64))]),
]


def results(*records: dict, path: str = "0001_smoke.json", **environment: object) -> Results:
    return Results.of(Path(path), results_file(*records, **environment))


def table_of(title: str, records: list[dict]) -> list[dict[str, str]]:
    """The rows of a table, by column."""
    (table,) = [table for table in tables(list(map(CaseResult.of, records))) if table.title.startswith(title)]
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_the_table_of_steps() -> None:
    first, second = table_of("Training step", EVERYTHING)
    assert first == {
        "precision": "fp32",
        "ms/step": "10.0",
        "IQR": "0.0%",
        "p90 ms": "10.0",
        "p99 ms": "–",
        "images/s": "6,400",
        "s/kimg": "0.156",
        "× plain": "2.50 ± 0.00",
        "× fp32 eager": "–",
        "reached": "–",
        "one bound": "20.0%",
        "matrix products": "–",
        "peak MiB": "700",
        "first step s": "0.50",
        "compile s": "–",
    }
    assert (second["precision"], second["ms/step"], second["× plain"]) == ("bf16", "5.00", "5.00 ± 0.00")
    assert second["× fp32 eager"] == "2.00 ± 0.00"


def test_a_ratio_to_fp32_eager_is_that_of_the_ratios_to_their_plain_loops() -> None:
    """A machine that became slower between the two cases slows both plain loops, too."""
    half_as_fast = step_record(Case(precision="bf16"))
    for measured in half_as_fast["launches"][0]["ranks"][0]["arms"].values():
        measured["windows"] = [2 * seconds for seconds in measured["windows"]]
    others = [Case(recipe="dcgan"), Case(precision="bf16", batch_size=32), Case(compile="inductor")]
    measured = [step_record(), half_as_fast, *map(step_record, others)]
    shown = [row["× fp32 eager"] for row in table_of("Training step", measured)]
    assert shown == ["–", "1.00 ± 0.00", "–", "–", "1.00 ± 0.00"]


@pytest.mark.parametrize(("count", "p90", "p99"), [(9, "–", "–"), (10, "19.0", "–"), (100, "90.1", "99.0")])
def test_percentiles_need_a_window_beyond_them(count: int, p90: str, p99: str) -> None:
    seconds = [0.001 * (number + 1) for number in range(count)] if count == 100 else [0.01] * (count - 1) + [0.1]
    (row,) = table_of("Training step", [record(Case(), [rank(step=arm(seconds, 64))])])
    assert (row["p90 ms"], row["p99 ms"]) == (p90, p99)


def test_seconds_per_thousand_images_count_all_processes() -> None:
    weak, _ = table_of("Scaling", EVERYTHING)
    assert weak["s/kimg"] == "0.195"  # 1000 images / 128 images x 25 ms


def test_what_is_doubtful_of_several_cases_is_one_line() -> None:
    records = [step_record(), step_record(Case(precision="bf16"))]
    for disturbed in records:
        disturbed["quickest_probe"] = 0.001
    results = list(map(CaseResult.of, records))
    (line,) = (line for line in notes(results) if "disturbed" in line)
    assert line == (
        "disturbed: step mlp-cpu-fp32-eager-b64-p1 (0 of 12 rounds undisturbed), step mlp-cpu-bf16-eager-b64-p1 "
        "(0 of 12 rounds undisturbed): too few, so all rounds were taken: close other programs, or repeat later"
    )
    session = SessionSummary("smoke", complete=True, failed=[], skipped=[])
    assert verdict_notes(results, session) == ["complete, 2 cases; 2 cases doubtful (disturbed)"]


def test_the_verdict_stands_before_the_tables(command: Callable[..., Any], tmp_path: Path) -> None:
    failing = write(tmp_path / "0001_all.json", step_record(), stability_record(ILL), complete=False)
    _, printed, _ = command("report", failing)
    for said in ("INCOMPLETE, 2 cases; checks FAIL in 1 case", "5e-06, the limit is 1e-06"):
        assert printed.index(said) < printed.index("Training step")
    _, printed, _ = command("compare", failing, failing)
    assert printed.index("B over A, 2 case(s): 1 no difference, 1 not judged") < printed.index("Training step")


def test_axes_that_do_not_vary_stand_in_the_title() -> None:
    titles = [table.title for table in tables(list(map(CaseResult.of, EVERYTHING)))]
    assert titles[0] == "Training step: mlp, cpu, eager, b64, p1"
    assert titles[1] == "Scaling: mlp, cpu, fp32, eager, b64, p2, gloo"


def test_the_table_of_scaling() -> None:
    weak, strong = table_of("Scaling", EVERYTHING)
    assert (weak["× one process"], weak["efficiency"], weak["communication"]) == ("1.60", "80.0%", "20.0%")
    assert (strong["× one process"], strong["efficiency"]) == ("0.80", "40.0%")


def test_the_table_of_phases_adds_up() -> None:
    rows = {row["phase"]: row for row in table_of("Phases", EVERYTHING)}
    assert rows["generator"]["of the step"] == "40.0%"
    assert rows["rest"]["ms"] == "1.00"
    shares = [float(row["of the step"].rstrip("%")) for name, row in rows.items() if name != "step"]
    assert sum(shares) == pytest.approx(100)


def test_checkpoints_and_starts() -> None:
    (saved,) = table_of("Checkpoint", EVERYTHING)
    assert (saved["save ms"], saved["MiB"], saved["MiB/s saved"], saved["× torch.save"]) == (
        "100",
        "20",
        "200",
        "0.50 ± 0.00",
    )
    (start,) = table_of("Start", EVERYTHING)
    assert (start["total s"], start["imports s"]) == ("3.75", "2.00")


def test_notes_name_peaks_and_what_is_missing() -> None:
    assert notes([CaseResult.of(step_record())]) == [
        "cpu, fp32: matrix products up to 200 GFLOP/s, copies up to 10.0 GB/s, measured in the same processes"
    ]
    killed = MissingCase("step mlp", "rank 1 ended with signal SIGKILL\nits log ends: …")
    impossible = [MissingCase(name, "fp16 needs a GPU") for name in ("step a", "step b")]
    session = SessionSummary("smoke", complete=False, failed=[killed], skipped=impossible)
    said = session_notes(session)
    assert said[0].startswith("INCOMPLETE")
    assert said[1:] == [
        "failed: step mlp: rank 1 ended with signal SIGKILL",
        "skipped: 2 case(s): fp16 needs a GPU",
    ]


def test_markdown_has_rectangular_tables_and_says_where_it_was_measured() -> None:
    text = markdown([results(*EVERYTHING)])
    assert "A CPU, 4 cores; Python 3.11.7, torch 2.11.0, numpy 2.0.0; revision 0123456789" in text
    assert "`pytest bench --benchmark-only`" in text
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 8
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


class References(HTMLParser):
    """What a page would load, and its open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe"):
            self.loaded.append(tag)
        self.loaded += [f"{name}={value}" for name, value in attrs if name == "src"]


def test_the_page_opens_offline_and_draws_every_figure() -> None:
    text = page([results(*EVERYTHING)])
    parser = References()
    parser.feed(text)
    assert parser.loaded == []
    assert "url(http" not in text
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert text.count("<table>") == 9, "the summary, and a table for each of eight workloads"


def test_names_are_escaped_in_the_page() -> None:
    assert "<b>" not in page([results(step_record(), command=["pytest", "-k", "<b>"])])


def test_a_file_compared_with_itself_shows_no_difference() -> None:
    (row,) = comparison(results(step_record()), results(step_record())).tables[0].rows
    assert row[0] == "mlp"
    assert row[3:] == ["1.000 (1.000–1.000)", "1.000 (1.000–1.000)", "no difference"]


def test_a_slower_step_is_told_from_a_slower_machine() -> None:
    slower_step = comparison(results(step_record()), results(step_record(scale=1.1))).tables[0].rows[0]
    assert slower_step[3].startswith("1.100")
    assert slower_step[4].startswith("1.100")
    assert slower_step[5] == "slower"
    within_noise = comparison(results(step_record()), results(step_record(scale=1.05))).tables[0].rows[0]
    assert (within_noise[4][:5], within_noise[5]) == ("1.050", "no difference")
    machine = step_record(scale=1.1)
    plain = machine["launches"][0]["ranks"][0]["arms"]["plain"]
    plain["windows"] = [1.1 * seconds for seconds in plain["windows"]]
    slower_machine = comparison(results(step_record()), results(machine)).tables[0].rows[0]
    assert slower_machine[3].startswith("1.100")
    assert slower_machine[4].startswith("1.000")
    assert slower_machine[5] == "no difference"


def test_a_case_that_was_disturbed_throughout_is_not_judged() -> None:
    disturbed = step_record(scale=1.5)
    disturbed["quickest_probe"] = 0.001
    assert comparison(results(step_record()), results(disturbed)).tables[0].rows[0][5] == "disturbed"


def test_a_comparison_says_what_is_doubtful_in_which_file() -> None:
    busy = step_record()
    busy["launches"][0]["ranks"][0]["load"]["busy_cores"] = 3.0
    notes = comparison(results(step_record()), results(busy)).notes
    assert not [note for note in notes if note.startswith("A: ") and "busy" in note]
    assert [note for note in notes if note.startswith("B: other processes were busy: step mlp-")]


@pytest.mark.parametrize(
    ("environment", "key"),
    [
        ({"cpu": {"model": "Another", "cores": 4}}, "cpu.model"),
        ({"cpu": {"model": "A CPU", "cores": 8}}, "cpu.cores"),
        ({"gpus": ["A GPU"]}, "gpus"),
        ({"packages": {"torch": "2.12.0", "numpy": "2.0.0"}}, "packages.torch"),
        ({"python": "3.12.0"}, "python"),
    ],
)
def test_unlike_files_are_refused_unless_the_difference_is_meant(environment: dict, key: str) -> None:
    a, b = results(step_record()), results(step_record(), **environment)
    with pytest.raises(UsageError, match=re.escape(f"{key} is ")) as caught:
        comparison(a, b)
    assert f"--across {key}" in str(caught.value)
    compared = comparison(a, b, across=(key,))
    same_machine = key in ("packages.torch", "python")
    assert compared.tables[0].rows[0][5] == ("no difference" if same_machine else "–")
    assert any("of different hardware" in note for note in compared.notes) != same_machine


def test_what_only_one_file_says_is_noted() -> None:
    older = results(step_record())
    flags = {"float32_matmul_precision": "highest", "a": 1}
    newer = results(step_record(flags=flags), cpu={"model": "A CPU", "cores": 4, "instructions": "AVX512"})
    for pair in ((older, newer), (newer, older)):
        (note,) = (note for note in comparison(*pair).notes if note.startswith("only one of the files has this"))
        assert note.endswith(": cpu.instructions, flags.a")


def test_every_difference_is_named_and_the_advice_is_enough() -> None:
    environment = {"packages": {"torch": "2.12.0", "numpy": "2.1.0"}, "python": "3.12.0"}
    a, b = results(step_record()), results(step_record(), **environment)
    with pytest.raises(UsageError) as caught:
        comparison(a, b, across=("python",))
    advised = re.findall(r"--across (.*) if this", str(caught.value))[0].split()
    assert advised == ["python", "packages.numpy", "packages.torch"]
    assert comparison(a, b, across=advised).tables[0].rows


def test_unlike_cases_are_refused_or_listed() -> None:
    with pytest.raises(UsageError, match="no case is in both"):
        comparison(results(step_record()), results(phases_record()))
    with pytest.raises(UsageError, match=r"step mlp-cpu-fp32-eager-b64-p1: threads is 4 in A and 2 in B"):
        comparison(results(step_record()), results(step_record(threads=2)))
    listed = comparison(results(step_record(), phases_record()), results(step_record())).notes
    assert "only in A: phases mlp-cpu-fp32-eager-b64-p1" in listed


def write(path: Path, *records: dict, **session: object) -> Path:
    data = results_file(*records)
    data[KEY] |= session
    path.write_text(json.dumps(data))
    return path


def test_report_names_and_skips_what_it_cannot_read(command: Callable[..., Any], tmp_path: Path) -> None:
    good, bad = write(tmp_path / "0001_good.json", *EVERYTHING), tmp_path / "0002_bad.json"
    bad.write_text('{"benchmarks": [')
    output = tmp_path / "page.html"
    code, _, errors = command("report", good, bad, "--format", "html", "--output", output)
    assert code == 0, errors
    assert errors.startswith(f"skipped: {bad}: damaged")
    assert output.read_text().startswith("<!doctype html>")
    code, _, errors = command("report", bad)
    assert code == 2
    assert errors.splitlines()[-1] == "error: none of the results can be read"
    assert "Traceback" not in errors


def test_compare_refuses_in_one_line(command: Callable[..., Any], tmp_path: Path) -> None:
    a = write(tmp_path / "0001_a.json", step_record())
    other = results_file(step_record(), python="3.12.0")
    b = tmp_path / "0002_b.json"
    b.write_text(json.dumps(other))
    code, _, errors = command("compare", a, b)
    assert code == 2
    assert errors.startswith("error: python is '3.11.7' in A and '3.12.0' in B")
    code, printed, _ = command("compare", a, b, "--across", "python", "--format", "markdown")
    assert code == 0
    assert "### B over A. Training step: cpu, fp32, eager, b64, p1" in printed
    assert "| mlp | 10.0 | 10.0 |" in printed


def test_a_library_s_variable_that_only_one_session_had_is_a_difference(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    """A session from before variables were recorded is compared all the same, which a note says."""
    files = {}
    for name, variables in (("old", None), ("unset", {}), ("set", {"MKL_CBWR": "AVX2"})):
        measured = step_record()
        if variables is not None:
            measured["launches"][0]["ranks"][0]["flags"]["variables"] = variables
        files[name] = write(tmp_path / f"{name}.json", measured)
    for a, b, values in (("set", "unset", "'AVX2' in A and '' in B"), ("unset", "set", "'' in A and 'AVX2' in B")):
        code, _, errors = command("compare", files[a], files[b])
        assert code == 2
        assert f"flags.variables.MKL_CBWR is {values}" in errors
    code, printed, _ = command("compare", files["old"], files["set"])
    assert code == 0
    assert "only one of the files has this, so it was not compared: flags.variables" in " ".join(printed.split())


def test_every_recipe_fits_the_tables() -> None:
    records = [step_record(Case(recipe=name)) for name in RECIPES]
    assert [row["recipe"] for row in table_of("Training step", records)] == list(RECIPES)


def test_the_page_of_each_stored_session_is_current() -> None:
    """Only of sessions in the repository; somebody may have measured here."""
    listed = subprocess.run(
        ["git", "ls-files", "results/*/[0-9][0-9][0-9][0-9]_*.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if not listed.stdout:
        pytest.skip("no results are stored, or this is no git checkout")
    for path in (ROOT / name for name in listed.stdout.splitlines()):
        assert path.with_suffix(".md").read_text(encoding="utf-8") == markdown([read(path)])


@pytest.mark.parametrize(
    ("checks", "verdict", "said", "error"),
    [
        ([WELL], "pass", "", "4e-07 (2.0×)"),
        ([WELL, UNKNOWN], "undecided", "T3 fid, undecided: more seeds", "4e-07 (2.0×)"),
        ([ILL, UNKNOWN], "FAIL", "T2 generator's gradients: 5e-06, the limit is 1e-06: a cause", "5e-06 (25.0×)"),
        ([LOST], "FAIL", "T2 generator's gradients: not finite, the limit is 1e-06: a cause", "not finite"),
    ],
)
def test_verdicts_of_stability(checks: list[Check], verdict: str, said: str, error: str) -> None:
    for processes in (1, 2):
        judged = stability_record(*checks, processes=processes)
        (row,) = table_of("Loss stability", [judged])
        assert (row["verdict"], row["G's gradient error"]) == (verdict, error)
        session = SessionSummary("smoke", complete=True, failed=[], skipped=[])
        first, *others = verdict_notes([CaseResult.of(judged)], session)
        assert first.endswith({"pass": "all checks pass"}.get(verdict, f"checks {verdict} in 1 case"))
        assert said in "\n".join(others)
        assert schema_error(results_file(judged)) is None


def test_a_case_without_checks_has_no_verdict() -> None:
    (row,) = table_of("Loss stability", [stability_record()])
    assert row["verdict"] == "–"


def test_names_of_cases_stay_whole_in_a_narrow_terminal(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [step_record(Case(recipe=name)) for name in RECIPES] + [step_record(Case(precision="bf16"))]
    path = write(tmp_path / "0001_all.json", *records)
    monkeypatch.setenv("COLUMNS", "80")
    for arguments in (("report", path), ("compare", path, path)):
        code, printed, errors = command(*arguments)
        assert code == 0, errors
        first_words = [line.split()[0] for line in printed.splitlines() if line.strip()]
        assert [word for word in first_words if word in RECIPES] == [*RECIPES, "mlp"], printed


def test_the_legend_explains_the_columns_that_are_shown() -> None:
    assert MEANINGS.keys() <= COLUMNS.keys() | GPU_COLUMNS.keys() | {
        *PHASE_COLUMNS,
        *PROFILE_COLUMNS,
        *EXPOSURE_COLUMNS,
        *MESSAGE_COLUMNS,
        TIMES_DEFAULT,
    }
    shown = tables([CaseResult.of(step_record())])
    names = [line.split(":")[0] for line in legend(shown)]
    assert {"IQR", "one bound"} <= set(names) <= set(shown[0].columns)
