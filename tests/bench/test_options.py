"""pytest-benchmark's options: each does what its documentation says, or is refused before anything is measured."""

import importlib.util
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.benchmark_options import REFUSED, path_of
from bench.results.damage import KEY
from bench.results.file import OF_A_RUN, read
from bench.runner.case_runner import CaseRunner
from bench.suite.cases import Case
from gan.files.environment import describe_environment
from tests.bench.records import step_record
from tests.conftest import ROOT

STEP = (
    "bench/test_throughput.py::test_step",
    "--recipe",
    "mlp,mlp-compact",
    "--precision",
    "fp32",
    "--compile",
    "no",
)


class Done(NamedTuple):
    """How a session ended, and how often it measured."""

    code: int
    said: str
    measured: int


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run `pytest bench` in this process; what is measured is made up."""
    measured: list[Case] = []

    def run(self: CaseRunner, efforts: dict[Case, Any], outcomes: dict[Case, Any]) -> None:
        measured.extend(efforts)
        outcomes |= {case: step_record(case, 2.0 if case.recipe == "mlp-compact" else 1.0) for case in efforts}

    monkeypatch.setattr(CaseRunner, "run", run)
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def session(
        *arguments: object, storage: Path = tmp_path / "results", benchmarks: tuple[str, ...] = STEP
    ) -> Done:
        before = len(measured)
        options = ("-p", "no:cacheprovider", f"--benchmark-storage=file://{storage}")
        code = pytest.main([*benchmarks, *options, *map(str, arguments)])
        captured = capfd.readouterr()
        return Done(int(code), captured.out + captured.err, len(measured) - before)

    return session


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.json"))


@pytest.mark.parametrize(
    "option", [*REFUSED, "--benchmark-disable", "--benchmark-group-by", "--benchmark-compare-fail"]
)
def test_what_could_not_work_is_refused_before_measuring(option: str, bench: Callable[..., Done]) -> None:
    values = {"cprofile": "tottime", "dump": "x", "timer": "time.time", "warmup": "on", "group-by": "size"}
    values |= {"calibration-precision": "3", "precision": "0.5", "confidence": "0.9", "fail": "min:5%"}
    value = next((value for end, value in values.items() if option.endswith(end)), "3")
    done = bench(*([option] if option in ("--benchmark-disable", "--benchmark-netrc") else [f"{option}={value}"]))
    assert (done.code, done.measured) == (4, 0)
    (line,) = (line for line in done.said.splitlines() if line.startswith("ERROR: "))
    assert line.startswith(f"ERROR: {option}")
    assert "Traceback" not in done.said


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--benchmark-storage=elasticsearch+http://host/index"], "results are files; give file://DIRECTORY"),
        (["--benchmark-compare"], "--benchmark-compare: no such results in "),
        (["--benchmark-compare=0099"], "--benchmark-compare 0099: no such results in "),
        (["--benchmark-compare=a/b/c/d.json"], "--benchmark-compare a/b/c/d.json: no such results in "),
        (["--benchmark-json=/dev/null/x.json"], "/dev/null: cannot be written to"),
        (["--benchmark-json=docs"], "--benchmark-json docs: is a directory"),
        (["--benchmark-disable", "--benchmark-skip"], "--benchmark-disable: every test here measures"),
        (
            ["--launch-template", "ssh {host} {command}"],
            "--launch-template: says how nodes of --hosts",
        ),
        (["--num-hosts", "2"], "ERROR: --num-hosts 2: add --hosts HERE,OTHER"),
        (
            ["--launches", "5000", "--rounds", "11"],
            "ERROR: --launches 5000 × --rounds 11: 55,000 windows of step mlp",
        ),
        (["--hosts", "127.0.0.1,127.0.0.2", "--num-hosts", "1,3"], "ERROR: --num-hosts 3: --hosts names 2"),
    ],
)
@pytest.mark.multiprocess
def test_what_will_fail_is_refused_before_measuring(
    arguments: list[str], complaint: str, bench: Callable[..., Done]
) -> None:
    done = bench(*arguments)
    assert (done.code, done.measured) == (4, 0)
    assert complaint in done.said
    assert "Traceback" not in done.said


def test_options_in_the_environment_are_refused_too(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "--benchmark-min-rounds 7")
    assert "ERROR: --benchmark-min-rounds: windows are measured" in bench().said


def test_workers_of_xdist_are_refused(bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    done = bench()
    assert (done.code, done.measured) == (4, 0)
    assert "ERROR: -n: benchmarks beside one another would measure one another" in done.said


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], r"0001_smoke\.json"),
        (["--benchmark-save=mine", "-p", "no:capture"], r"0001_mine\.json"),
        (["--benchmark-autosave"], r"0001_.*\d{8}_\d{6}.*\.json"),
    ],
)
@pytest.mark.multiprocess
def test_results_are_saved_under_the_name_that_is_asked_for(
    arguments: list[str], name: str, bench: Callable[..., Done], tmp_path: Path
) -> None:
    done = bench(*arguments)
    assert (done.code, done.measured) == (0, 2), done.said
    (saved,) = files(tmp_path / "results")
    assert re.fullmatch(name, saved)
    assert "Name (time in" not in done.said
    assert "GAN benchmarks" in done.said


@pytest.mark.multiprocess
def test_data_json_and_quiet(bench: Callable[..., Done], tmp_path: Path) -> None:
    done = bench(
        "--benchmark-save-data", f"--benchmark-json={tmp_path / 'new' / 'session.json'}", "--benchmark-quiet"
    )
    assert done.code == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    for file in (path, tmp_path / "new" / "session.json"):
        assert len(json.loads(file.read_text())["benchmarks"][0]["stats"]["data"]) == 12
        assert read(file).session.complete
    assert "Training step" not in done.said
    assert f"results: {path}"[-20:] in done.said


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--benchmark-columns=median,rounds"], r"Median\W+Rounds\W*\n"),
        (["--benchmark-sort=name"], r"test_step\[mlp-compact.*\n.*test_step\[mlp-cpu"),
        (["--benchmark-sort=min"], r"test_step\[mlp-cpu.*\n.*test_step\[mlp-compact"),
        (["--benchmark-group-by=param"], r"benchmark 'mlp-compact-cpu-fp32-eager-b100-p1'"),
        (["--benchmark-name=short"], r"\nstep\[mlp-cpu"),
        (["--benchmark-time-unit=us"], r"Name \(time in us\)"),
        (["--benchmark-verbose"], r"Name \(time in ms\)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.multiprocess
def test_the_table_of_pytest_benchmark_is_shown_where_it_is_asked_for(
    arguments: list[str], shown: str, bench: Callable[..., Done]
) -> None:
    done = bench(*arguments)
    assert (done.code, done.measured) == (0, 2)
    assert re.search(shown, done.said), done.said
    assert "GAN benchmarks" in done.said


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_comparison_with_stored_results(
    bench: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another directory. Only what identifies the machine must agree."""
    assert bench().code == 0
    monkeypatch.chdir(tmp_path)
    there = tuple(str(ROOT / part) if part.startswith("bench/") else part for part in STEP)
    for arguments in (["--benchmark-compare"], ["--benchmark-compare=0001"]):
        done = bench(*arguments, benchmarks=there)
        assert done.code == 0, done.said
        assert "(NOW)" in done.said
        assert "(0001_smoke)" in done.said
        assert "note: " not in done.said
    (first,) = (tmp_path / "results").rglob("0001*.json")
    other = json.loads(first.read_text())
    other["machine_info"]["node"] = other["machine_info"][KEY]["packages"]["torch"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = bench(f"--benchmark-compare={tmp_path / 'other.json'}", benchmarks=there)
    assert (
        f"note: other.json is of another machine, or other versions: {KEY}.packages.torch, node differ"
        in done.said
    )
    for benchmark in other["benchmarks"]:
        for name in ("min", "median"):
            benchmark["stats"][name] /= 2
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = bench(
        f"--benchmark-compare={tmp_path / 'other.json'}", "--benchmark-compare-fail=min:5%", benchmarks=there
    )
    assert done.code == 1
    assert done.said.count("\nslower: ") == 2
    assert "Traceback" not in done.said
    for damage in ({"benchmarks": 5}, {**other, "benchmarks": [{**other["benchmarks"][0], "stats": {}}]}, []):
        (tmp_path / "other.json").write_text(json.dumps(damage))
        done = bench(f"--benchmark-compare={tmp_path / 'other.json'}", benchmarks=there)
        assert (done.code, done.measured) == (4, 0)
        assert f"ERROR: {tmp_path / 'other.json'}: " in done.said


def test_a_histogram_is_drawn_or_what_it_needs_is_said(bench: Callable[..., Done], tmp_path: Path) -> None:
    done = bench(f"--benchmark-histogram={tmp_path / 'plots' / 'h'}")
    if importlib.util.find_spec("pygal"):
        assert done.code == 0
        assert list((tmp_path / "plots").glob("h*.svg"))
    else:
        assert (done.code, done.measured) == (4, 0)
        assert "--benchmark-histogram: needs pygal" in done.said


@pytest.mark.multiprocess
def test_benchmarks_are_skipped_where_that_is_asked_for(bench: Callable[..., Done], tmp_path: Path) -> None:
    done = bench("--benchmark-skip")
    assert (done.code, done.measured) == (0, 0)
    assert "2 skipped" in done.said
    assert not files(tmp_path / "results")
    assert bench("--benchmark-skip", "--benchmark-only").measured == 2
    assert bench("--benchmark-disable", "--benchmark-enable").measured == 2


def test_the_reason_is_said_if_every_case_is_skipped(bench: Callable[..., Done]) -> None:
    impossible = ("--device", "cpu", "--precision", "fp16", "--compile", "no")
    done = bench("--recipe", "mlp,mlp-compact", *impossible, benchmarks=STEP[:1])
    assert (done.code, done.measured) == (0, 0)
    assert "skipped: 2 case(s): fp16 needs a GPU" in done.said


@pytest.mark.multiprocess
def test_machine_info_says_nothing_that_changes_from_run_to_run(
    bench: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions at other times, under another load, with another command and clock of the processor."""
    contents = []
    for index, name in enumerate(("a", "b")):
        monkeypatch.setattr("os.getloadavg", lambda index=index: (float(index), 0.0, 0.0))
        monkeypatch.setattr("sys.argv", ["pytest", "bench", *["-q"] * index])
        monkeypatch.setattr("bench.results.environment.describe_environment", partial(_described, 2026 + index))
        info = {"brand_raw": "One", "hz_actual": [index, 0], "hz_actual_friendly": f"{index} GHz"}
        monkeypatch.setattr("pytest_benchmark.plugin.get_cpu_info", lambda info=info: dict(info))
        contents.append(json.loads(_saved(bench, tmp_path / name).read_text()))
    first, second = contents
    assert first["machine_info"] == second["machine_info"]
    assert first["machine_info"]["cpu"] == {"brand_raw": "One"}
    assert not {*OF_A_RUN} & {*first["machine_info"][KEY]}
    runs = [content[KEY]["run"] for content in contents]
    assert runs[0].keys() == set(OF_A_RUN)
    assert [run["load_average"] for run in runs] == [0.0, 1.0]
    assert [run["command"] for run in runs] == [["pytest", "bench"], ["pytest", "bench", "-q"]]
    assert [run["time"][:4] for run in runs] == ["2026", "2027"]
    assert read(next((tmp_path / "b").rglob("*.json"))).environment.command == ("pytest", "bench", "-q")


def _described(year: int) -> dict[str, Any]:
    return {**describe_environment(), "time": f"{year}-01-01T00:00:00+00:00"}


@pytest.mark.parametrize("plugin", ["no:benchmark", "no:timeout"])
def test_plugins_that_are_not_loaded(
    plugin: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """pytest-timeout only ends what hangs; without pytest-benchmark there is nothing to measure with."""
    monkeypatch.chdir(ROOT)
    code = pytest.main([*STEP, "--collect-only", "-q", "-p", plugin, "-p", "no:cacheprovider"])
    captured = capfd.readouterr()
    if plugin == "no:timeout":
        assert code == 0, captured
    else:
        assert code == 4
        (line,) = filter(None, (captured.out + captured.err).splitlines())
        assert line.startswith("ERROR: pytest bench: needs pytest-benchmark, which is not loaded: leave -p")


def _saved(bench: Callable[..., Done], folder: Path) -> Path:
    assert bench(storage=folder).code == 0
    return next(folder.rglob("*.json"))


@pytest.mark.multiprocess
def test_results_that_can_be_written_nowhere_are_said_to_be_lost(
    bench: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    done = bench(f"--benchmark-json={tmp_path / 'session.json'}")
    assert done.code == 1
    assert done.said.count("error: ") == 2
    assert "nor is there room for the results" in done.said
    assert "Traceback" not in done.said


def test_a_file_that_pytest_benchmark_has_opened_is_taken_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    file = path.open("wb")
    assert path_of(file) == path_of(path) == path
    assert file.closed


def test_every_option_of_pytest_benchmark_is_in_the_table() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = text[text.index("## pytest-benchmark's options") :]
    parser = pytest.Parser(_ispytest=True)
    from pytest_benchmark.plugin import pytest_addoption

    pytest_addoption(parser)
    for option in parser.getgroup("benchmark").options:
        (name,) = option.names()
        assert re.search(rf"`{name}[`= ]", table), name
