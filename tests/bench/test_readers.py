"""Other tools that read --benchmark-json: what they show means something, and our own reader loses nothing."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.results.damage import KEY, damage
from bench.results.file import Results, read
from bench.runner.case_runner import CaseRunner
from bench.suite.cases import Case
from tests.bench.readers import bencher, github_action_benchmark
from tests.bench.records import results_file, step_record
from tests.bench.test_damage import CHECK, EVERYTHING, single
from tests.conftest import ROOT

CHOSEN = ("--recipe", "mlp,mlp-compact", "--precision", "fp32", "--compile", "no")
EXAMPLE = ROOT / "docs" / "examples" / "track.yml"
STEP_SECONDS = {"mlp": 0.010, "mlp-compact": 0.020}


@pytest.fixture
def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[[str], Path]:
    """Run `pytest bench` in this process on made-up measurements; return the file of --benchmark-json."""

    def record(case: Case) -> dict[str, Any]:
        if case.workload == "step":
            return step_record(case, STEP_SECONDS[case.recipe] / 0.010)
        facts = {"seconds": 7.0, "checks": [CHECK]} if case.workload == "stability" else {}
        return {**single(case.workload, **facts), "case": case.to_json()}

    def run(self: CaseRunner, efforts: dict[Case, Any], outcomes: dict[Case, Any]) -> None:
        outcomes |= {case: record(case) for case in efforts}

    monkeypatch.setattr(CaseRunner, "run", run)
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def session(workloads: str) -> Path:
        path = tmp_path / "steps.json"
        options = (f"--benchmark-json={path}", f"--benchmark-storage=file://{tmp_path}", "-p", "no:cacheprovider")
        assert pytest.main(["bench", "-k", workloads, *CHOSEN, *options]) == 0, capfd.readouterr()
        return path

    return session


@pytest.mark.multiprocess
def test_other_tools_read_steps_and_nothing_that_is_no_step(session: Callable[[str], Path]) -> None:
    """A stability check of 7 s is not 0.14 iterations a second."""
    path = session("test_step or test_stability or test_startup")
    data = json.loads(path.read_text())
    names = {f"bench/test_throughput.py::test_step[{name}-cpu-fp32-eager-b{batch}-p1]": name
             for name, batch in (("mlp", 64), ("mlp-compact", 100))}  # fmt: skip
    points = github_action_benchmark(data)
    metrics = bencher(data)
    assert points.keys() == metrics.keys() == names.keys()
    for fullname, recipe in names.items():
        seconds = STEP_SECONDS[recipe]
        assert points[fullname].value == pytest.approx(1 / seconds)
        assert points[fullname].extra == f"mean: {1e3 * data_mean(data, fullname)} msec\nrounds: 12"
        assert metrics[fullname].value == pytest.approx(1e9 * seconds)
        assert metrics[fullname].lower <= metrics[fullname].value <= metrics[fullname].upper
    measured = {(result.case.workload, result.case.recipe) for result in read(path).cases}
    assert {workload for workload, _ in measured} == {"step", "stability", "startup"}
    assert ("stability", "mlp") in measured


def data_mean(data: dict[str, Any], fullname: str) -> float:
    (mean,) = (one["stats"]["mean"] for one in data["benchmarks"] if one["fullname"] == fullname)
    return float(mean)


def test_files_from_before_are_read_alike() -> None:
    """They have start-up and stability among the benchmarks."""
    newer = json.loads(json.dumps(EVERYTHING))
    newer[KEY]["without_windows"] = newer["benchmarks"][4:]
    del newer["benchmarks"][4:]
    assert damage(newer) is None
    cases = [Results.of(Path("x"), data).cases for data in (newer, EVERYTHING)]
    assert len(cases[0]) > 4
    assert repr(cases[0]) == repr(cases[1])


def test_what_is_damaged_is_found_without_windows_too() -> None:
    data = json.loads(json.dumps(results_file(step_record(), single("stability", seconds=7.0, checks=[CHECK]))))
    data[KEY]["without_windows"] = [data["benchmarks"].pop()]
    assert damage(data) is None
    data["benchmarks"].append(data[KEY]["without_windows"][0])
    assert damage(data) == f"$.{KEY}.without_windows[0]: its case is measured twice"
    del data["benchmarks"][1], data[KEY]["without_windows"][0]["stats"]["median"]
    assert damage(data) == f"$.{KEY}.without_windows[0].stats: 'median' is a required property"


def test_the_workflow_that_tracks_steps_hands_one_file_to_both_tools() -> None:
    jobs = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    runs = [shlex.split(step["run"]) for step in steps if "run" in step]
    (measured,) = (words for words in runs if words[0] == "pytest")
    file = measured[measured.index("--benchmark-json") + 1]
    (sent,) = (words for words in runs if words[0] == "bencher")
    assert sent[sent.index("--adapter") + 1] == "python_pytest"
    assert sent[sent.index("--file") + 1] == file
    inputs = {step["uses"].partition("@")[0]: step.get("with", {}) for step in steps if "uses" in step}
    drawn = inputs["benchmark-action/github-action-benchmark"]
    assert (drawn["tool"], drawn["output-file-path"]) == ("pytest", file)
    assert inputs["actions/upload-artifact"]["path"] == file
    assert inputs["actions/upload-artifact"]["name"] == inputs["actions/download-artifact"]["name"]
    assert [name for name, job in jobs.items() if job.get("permissions")] == ["github-action-benchmark"]
