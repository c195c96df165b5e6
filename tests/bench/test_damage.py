"""Results and references from elsewhere are refused in one line, or shown without undefined figures."""

import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bench.results.damage
from bench.reference import _table
from bench.report.compare import comparison
from bench.report.markdown import markdown
from bench.report.page import page
from bench.report.terminal import show_session
from bench.results.damage import SHOWN_OUTCOMES, damage
from bench.results.file import Results
from bench.stability.equivalence import Sample, verdicts
from bench.stability.references import read_reference
from bench.suite.cases import Case
from bench.suite.workloads import WORKLOADS
from gan.display.tables import Printer
from gan.errors import UsageError
from tests.bench.mutations import mutations
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

SEED = {**dict.fromkeys(SHOWN_OUTCOMES, 1.0), "images_to_quality": 1000}
CHECK = {"tier": "T2", "name": "x", "value": 1.0, "limit": 2.0, "cause": "y", "reference": 1.0, "passed": True}
QUALITY = {"target_fid": 3.0, "images": 1000, "seconds": 3.0, "fid": 2.5, "course": []}


def single(workload: str, **facts: Any) -> dict[str, Any]:
    one = rank(step=arm([], 64))
    if WORKLOADS[workload].kind == "facts":
        one["arms"] = {}
        del one["startup_seconds"]["first step"]
    one["facts"] |= facts
    return record(Case(workload=workload), [one])


EVERYTHING = results_file(
    step_record(),
    scaling_record(),
    checkpoint_record(),
    phases_record(),
    single("startup"),
    single("stability", seconds=7.0, checks=[CHECK]),
    single("convergence", seconds=7.0, checks=[CHECK], seeds=[SEED] * 3),
    single("time_to_quality", seconds=9.0, quality=QUALITY, checks=[CHECK]),
)


def of(workload: str) -> int:
    """The place of a workload's case in EVERYTHING."""
    cases = [bench["extra_info"]["gan_bench"]["case"]["workload"] for bench in EVERYTHING["benchmarks"]]
    return cases.index(workload)


def test_what_is_well_passes() -> None:
    assert damage(EVERYTHING) is None


@pytest.mark.parametrize(
    ("workload", "place", "value", "complaint"),
    [
        ("step", "arms step windows 3", float("nan"), r"windows\[3\]: a number must be finite"),
        ("step", "arms step windows 3", 1e300, r"windows\[3\]: a number must be finite"),
        ("convergence", "facts seeds 0 fid", 10**400, r"seeds\[0\].fid: a number must be finite"),
        ("step", "arms plain windows 3", 0, "plain has a window that is no time"),
        ("step", "arms plain windows", [0.1] * 11, "plain has 11 windows, where 12 rounds have 12"),
        ("step", "arms peak_copy every", 3, "peak_copy has 3 windows, where 12 rounds have 4"),
        ("step", "arms peak_copy every", 4.0, "4.0 is not of type 'integer'"),
        ("step", "arms step windows", [], "its arm step is missing"),
        ("step", "arms step", None, "plain stands first of its arms, and not step"),
        ("step", "arms probe", None, "its arm probe is missing"),
        ("step", "arms step images_per_step", 0, "step has no images per step"),
        ("step", "arms plain images_per_step", 0, "plain has no images per step"),
        ("step", "arms step steps_per_window", True, "True is not of type 'integer'"),
        ("step", "arms step warmup", [0.1] * 60_000, "has 60,000 items; at most 50,000 are read"),
        ("step", "facts work peak_copy", None, "facts lack the work of peak_copy"),
        ("step", "facts flops_per_step", "many", "facts lack flops_per_step"),
        ("step", "load busy_cores", "null", "load.busy_cores is null"),
        ("step", "startup_seconds imports", -3600.0, "startup_seconds lack one of launcher, imports"),
        ("step", "strategy", [[]] * 2, "is not of type 'object'"),
        ("step", "flags variables", "null", r"flags.variables: None is not of type 'object'"),
        ("step", "flags variables", {"MKL_X": [1]}, r"flags.variables.MKL_X: \[1\] is not of type 'string'"),
        ("step", "threads", 0, "threads: 0 is less than the minimum of 1"),
        ("scaling", "rank", 1, r"it has the ranks \[1, 1\], of 2 processes"),
        ("scaling", "arms no_sync windows", [0.02] * 3, "no_sync has 3 windows, where 4 rounds have 4"),
        ("scaling", "arms no_sync", None, "are not those of rank 0"),
        ("checkpoint", "arms load", None, "its arm load is missing"),
        ("checkpoint", "facts checkpoint_bytes", None, "facts lack checkpoint_bytes"),
        ("phases", "arms data", None, "its arm data is missing"),
        ("startup", "startup_seconds", dict.fromkeys(bench.results.damage.STARTUP_PARTS, 0), "it took no time"),
        ("stability", "facts checks", None, "facts lack the checks"),
        ("stability", "facts checks 0 value", 3.0, "'passed' is not what value and limit say"),
        ("convergence", "facts seeds", [SEED], "facts have 1 seeds; a spread needs at least 2"),
        ("convergence", "facts seeds 1 fid", None, "facts lack the outcome of a seed"),
        ("time_to_quality", "facts quality fid", "low", "facts.quality lacks its fid"),
        ("time_to_quality", "facts quality seconds", 0, "facts.quality lacks its seconds"),
    ],
)
def test_what_a_figure_rests_on_is_there(workload: str, place: str, value: object, complaint: str) -> None:
    """`place` is of rank 0; None drops it."""
    data = json.loads(json.dumps(EVERYTHING))
    part = data["benchmarks"][of(workload)]["extra_info"]["gan_bench"]["launches"][0]["ranks"][0]
    *way, last = (int(key) if key.isdecimal() else key for key in place.split())
    for key in way:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = None if value == "null" else value
    line = damage(data)
    assert line is not None
    assert re.search(complaint, line), line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_processes": 10**15}, r"it has the ranks [0, 1], of 1000000000000000 processes"),
        ({"num_hosts": 3}, "it has 2 processes on 3 hosts"),
        ({"device": "tpu"}, "case.device: 'tpu' is not one of ['cpu', 'cuda']"),
    ],
)
def test_the_processes_of_a_case_are_those_that_measured_it(change: dict[str, Any], complaint: str) -> None:
    data = json.loads(json.dumps(EVERYTHING))
    data["benchmarks"][of("scaling")]["extra_info"]["gan_bench"]["case"] |= change
    assert complaint in (damage(data) or "")


def test_a_case_is_measured_once_and_its_workload_known() -> None:
    data = json.loads(json.dumps(EVERYTHING))
    data["benchmarks"].append(data["benchmarks"][0])
    assert (damage(data) or "").endswith("its case is measured twice")
    data["benchmarks"][-1] = json.loads(json.dumps(data["benchmarks"][0]))
    data["benchmarks"][-1]["extra_info"]["gan_bench"]["case"]["workload"] = "race"
    assert "the workload 'race' is none of step, scaling, " in (damage(data) or "")


def test_launches_are_alike_and_not_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    two = record(Case(), *([rank(step=arm([0.01] * 4, 64))] for _ in range(2)))
    assert damage(results_file(two)) is None
    monkeypatch.setattr(bench.results.damage, "MOST_WINDOWS", 7)
    assert "step has 8 windows; at most 7 are read" in (damage(results_file(two)) or "")
    two["launches"][1]["ranks"][0]["arms"]["step"]["images_per_step"] = 128
    assert "are not those of the first launch" in (damage(results_file(two)) or "")


def test_a_case_without_a_plain_arm_is_shown_without_its_ratio() -> None:
    alone = step_record()
    del alone["launches"][0]["ranks"][0]["arms"]["plain"]
    data = results_file(alone)
    assert damage(data) is None
    results = Results.of(Path("alone.json"), data)
    assert "| 10.0 | 0.0% | 10.0 | – | 6,400 | 0.156 | – |" in markdown([results])
    assert "<svg" in page([results])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_training_came_to_may_be_nothing(value: float, tmp_path: Path, command: Callable[..., Any]) -> None:
    lost = single("convergence", seconds=7.0, checks=[], seeds=[SEED, {**SEED, "fid": value}])
    path = tmp_path / "0001_lost.json"
    path.write_text(json.dumps(results_file(lost)))
    code, printed, errors = command("report", path)
    assert code == 0, errors
    assert "not finite" in printed


def test_files_of_no_use_are_named_in_one_line_each(tmp_path: Path, command: Callable[..., Any]) -> None:
    text = json.dumps(EVERYTHING)
    contents = {
        "0001_empty": b"",
        "0002_deep": b"[" * 100_000,
        "0003_latin": b'{"\xe9": 1}',
        "0004_huge": text.replace("0.025", "1e400").encode(),
        "0005_other": b'{"machine_info": {}, "benchmarks": []}',
        "0006_list": b"[]",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_bytes(content)
    (tmp_path / "0007_folder.json").mkdir()
    code, printed, errors = command("report", tmp_path)
    assert (code, printed) == (2, "")
    *skipped, last = errors.splitlines()
    assert [re.match(r"skipped: .*/(\w+)\.json: ", line)[1] for line in skipped] == [*contents, "0007_folder"]
    assert last == "error: none of the results can be read"
    (tmp_path / "0008_good.json").write_bytes(b"\xef\xbb\xbf" + text.encode())  # with a byte order mark
    assert command("report", tmp_path)[0] == 0


def test_names_in_a_file_are_shown_and_not_obeyed(tmp_path: Path, command: Callable[..., Any]) -> None:
    name = "[/red]$\\frac{$<b>|\x1b[31m\n\ud800"
    data = results_file(step_record(Case(recipe=name)), cpu={"model": name, "cores": 4}, command=[name])
    data["gan_bench"] |= {"suite": name, "failed": [{"case": name, "reason": name}, {"case": "", "reason": ""}]}
    path = tmp_path / "0001_odd.json"
    path.write_text(json.dumps(data))
    shown = {}
    for form in ("terminal", "markdown", "html"):
        output = tmp_path / form
        code, _, errors = command("report", path, "--format", form, "--output", output)
        assert code == 0, errors
        shown[form] = output.read_text(encoding="utf-8")
        assert "\x1b" not in shown[form]
    assert r"[/red]$\frac{$<b>|\x1b[31m \ud800" in shown["terminal"]
    assert r"\[/red]\$\\frac{\$\<b>\|\\x1b\[31m \\ud800" in shown["markdown"]
    assert "<b>" not in shown["html"]


@pytest.mark.slow
@pytest.mark.nightly
def test_damaged_files_are_refused_or_shown_without_a_figure_that_is_none() -> None:
    """More of the same ran outside the suite: docs/log.md."""
    whole, shown = Results.of(Path("whole.json"), EVERYTHING), 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for data, changes in mutations(EVERYTHING, 1, 120):
            if damage(data) is not None:
                continue
            results, file = Results.of(Path("damaged.json"), data), io.StringIO()
            shown += 1
            show_session(Printer(file), results.cases, results.session, results.environment)
            assert not re.search(r"\b(nan|inf)\b", file.getvalue()), changes
            markdown([results])
            if shown % 5 == 0:
                page([results])
            try:
                comparison(whole, results).markdown()
            except UsageError:
                continue
    assert shown > 10


REFERENCE = {
    "schema": "gan-reference/1",
    "configuration": {"recipe": "mlp", "images": 1000},
    "metrics": {name: {"mean": 1.5, "sd": 0.5, "n": 20} for name in SHOWN_OUTCOMES},
    "environment": {"python": "3.11"},
}


@pytest.mark.parametrize(
    ("sample", "well"),
    [
        ({"mean": 1, "sd": 0.0, "n": 2}, True),
        ({"mean": 1.0, "sd": -0.5, "n": 20}, False),
        ({"mean": 1.0, "sd": 0.5, "n": 1}, False),
        ({"mean": 1.0, "sd": 0.5, "n": 20.0}, False),
        ({"mean": "1", "sd": 0.5, "n": 20}, False),
        ({"mean": True, "sd": 0.5, "n": 20}, False),
        ({"mean": 1e300, "sd": 0.5, "n": 20}, False),
        ({"mean": 1.0, "n": 20}, False),
        ({"mean": 1.0, "sd": 0.5, "n": 20, "median": 1.0}, False),
        ([1.0, 0.5, 20], False),
    ],
)
def test_samples_of_a_reference_are_samples(sample: object, well: bool, tmp_path: Path) -> None:
    path = tmp_path / "mlp-b64.json"
    path.write_text(json.dumps({**REFERENCE, "metrics": {"fid": sample}}))
    if well:
        assert read_reference(path).metrics["fid"].n == 2
    else:
        with pytest.raises(UsageError, match=r"damaged \(fid must have a mean, .*; make it again with"):
            read_reference(path)


def test_a_reference_that_lacks_an_outcome_is_not_compared_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "mlp-b64.json"
    path.write_text(json.dumps({**REFERENCE, "metrics": {"fid": REFERENCE["metrics"]["fid"]}}))
    with pytest.raises(UsageError, match="lacks coverage; make it again"):
        read_reference(path).require({"images": 1000}, ("coverage", "fid"), path)


def test_damaged_references_are_refused_or_compared(tmp_path: Path) -> None:
    ours, path, compared = {name: Sample(1.4, 0.4, 8) for name in SHOWN_OUTCOMES}, tmp_path / "mlp-b64.json", 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for data, changes in mutations(REFERENCE, 1, 300):
            path.write_text(json.dumps(data))
            try:
                reference = read_reference(path)
                reference.require({"images": 1000}, SHOWN_OUTCOMES, path)
            except UsageError:
                continue
            file = io.StringIO()
            Printer(file).table(_table(Case(), verdicts(ours, reference.metrics)))
            assert not re.search(r"\b(nan|inf)\b|\d{9}", file.getvalue()), changes
            compared += 1
    assert compared > 20
