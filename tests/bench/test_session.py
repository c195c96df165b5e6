"""`pytest bench` as people run it: what it prints, writes and survives."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.harness.exchange import Exchange
from bench.results.damage import schema_error
from bench.results.file import read
from bench.results.storage import ResultsStorage
from bench.runner import session as session_module
from bench.runner.case_runner import CaseRunner
from bench.suite.cases import Case
from tests.bench import stub
from tests.bench.check_processes import until
from tests.bench.test_launch import in_turn
from tests.bench.test_report import ILL, WELL, stability_record
from tests.conftest import ROOT, run_script

QUICK = ("--recipe", "mlp-compact", "--compile", "no", "--rounds", "4")
STEP = "bench/test_throughput.py::test_step"
SAMPLING = "bench/test_around.py::test_sampling"


def bench(*arguments: object, storage: Path):
    command = ("-m", "pytest", "--benchmark-only", "--benchmark-storage", f"file://{storage}", *arguments)
    return run_script(*command, cwd=ROOT)


def only_file(storage: Path) -> Path:
    (path,) = storage.rglob("*.json")
    return path


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_session_prints_tables_and_writes_what_the_schema_and_pytest_benchmark_read(tmp_path: Path) -> None:
    done = bench(STEP, *QUICK, "--precision", "fp32,fp16", "--launches", "2", storage=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    path = only_file(tmp_path)
    assert path.name == "0001_smoke.json"
    data = json.loads(path.read_text())
    assert schema_error(data) is None
    assert "Training step: cpu, fp32, eager, b100, p1" in done.stdout
    assert "fp16 needs a GPU" in done.stdout
    results = read(path)
    assert results.session.complete
    (step,) = results.cases
    (replayed,) = data["benchmarks"]
    assert len(step.launches) == 2
    assert replayed["stats"]["median"] == pytest.approx(step.median())
    assert replayed["stats"]["rounds"] == sum(map(len, step.seconds_per_step["step"]))
    assert results.environment.revision is None or len(results.environment.revision) == 40
    compared = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "--storage", f"file://{tmp_path}", "compare"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "test_step[mlp-compact-cpu-fp32-eager-b100-p1]" in compared.stdout


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_training_that_takes_longer_than_a_stall_does_not_hang(tmp_path: Path) -> None:
    chosen = ("bench/test_stability.py", "-k", "stability", "--recipe", "mlp-compact", "--precision", "fp32")
    done = bench(*chosen, "--stall-timeout", "2", storage=tmp_path)
    assert done.returncode == 0, done.stdout
    (result,) = read(only_file(tmp_path)).cases
    assert result.median() > 2
    assert "starting 1 case" in done.stdout


@pytest.fixture
def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `pytest` with benchmarks in this process; return its exit code and all that it printed."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*arguments: str, storage: Path) -> tuple[int, str]:
        options = ("--benchmark-only", "-p", "no:cacheprovider", "--benchmark-storage", f"file://{storage}")
        code = pytest.main([*arguments, *options])
        return int(code), "".join(capfd.readouterr())

    return run


@pytest.mark.multiprocess
def test_a_case_that_fails_is_named_and_the_others_are_kept(
    session: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.runner.session.CaseRunner", partial(CaseRunner, command=stub.command))
    monkeypatch.setenv("STUB_FAULT", "if case['workload'] == 'step': raise FloatingPointError('injected')")
    code, said = session(SAMPLING, STEP, *QUICK, storage=tmp_path)
    assert code == 1
    assert "FloatingPointError: injected" in said
    results = read(only_file(tmp_path))
    assert [result.case.workload for result in results.cases] == ["sampling"]
    assert not results.session.complete
    assert results.session.failed[0].case.startswith("step mlp-compact")


def measure_stubs(arguments: list[str], log: Path) -> None:
    """Measure stubs with `pytest bench` in this fork of the tests, whose imports are done."""
    session_module.CaseRunner = partial(CaseRunner, command=stub.command)  # type: ignore[misc, assignment]
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os._exit(int(pytest.main(arguments)))


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("number", "cases"),
    [
        (signal.SIGINT, ["sampling", "step"]),
        pytest.param(signal.SIGTERM, ["sampling"], marks=[pytest.mark.slow, pytest.mark.nightly]),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_session_keeps_what_it_measured_and_says_so(
    number: int, cases: list[str], tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cases are in the middle of their rounds."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    benchmarks = (SAMPLING, STEP) if "step" in cases else (SAMPLING,)
    options = ("--benchmark-only", *QUICK, "--precision", "fp32", "--rounds", "9999", "-p", "no:cacheprovider")
    arguments = [*benchmarks, *options, "--benchmark-storage", f"file://{tmp_path / 'results'}"]
    log = tmp_path / "log"
    measured: set[Path] = set()

    def have_rounds() -> bool:
        """Say whether all cases have waited for their third turn; the first one warms up."""
        roots = [path.parent for path in temporary.glob("gan-bench-*/*/assignment.json")]
        measured.update(root for root in roots if in_turn(Exchange(root), 0, least=2))
        return len(measured) == len(cases)

    process = multiprocessing.get_context("fork").Process(target=measure_stubs, args=(arguments, log))
    process.start()
    try:
        until(lambda: process.exitcode is not None or have_rounds())
        assert process.exitcode is None, log.read_text()
        assert process.pid
        os.kill(process.pid, number)
        process.join(200)
    finally:
        process.kill()
    said = log.read_text()
    assert process.exitcode == 2, said
    assert "INCOMPLETE" in said
    results = read(only_file(tmp_path / "results"))
    assert not results.session.complete
    assert [result.case.workload for result in results.cases] == cases
    assert all(
        len(windows) >= 8 for result in results.cases for windows in result.seconds_per_step[result.own_arm]
    )


@pytest.mark.multiprocess
def test_a_check_that_fails_loses_no_case_of_an_interrupted_session(
    session: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C came while the last of four cases was measured, and the first one fails its check."""

    def run(_: CaseRunner, efforts: dict[Case, Any], outcomes: dict[Case, Any]) -> None:
        for case, check in zip(efforts, (ILL, WELL, WELL), strict=False):
            outcomes[case] = {**stability_record(check), "case": case.to_json()}
        raise KeyboardInterrupt

    monkeypatch.setattr(CaseRunner, "run", run)
    monkeypatch.setattr("bench.suite.machine._processes_at_once", lambda *_: 24)
    recipes = ["mlp", "mlp-compact", "mlp-smooth", "mlp-dropout"]
    chosen = ("--recipe", ",".join(recipes), "--precision", "fp32", "--device", "cpu", "-k", "test_stability")
    code, said = session("bench/test_stability.py", *chosen, storage=tmp_path)
    assert code == 2, said
    results = read(only_file(tmp_path))
    assert [result.case.recipe for result in results.cases] == recipes[:3]
    assert [failure.case.split()[1].partition("-cpu")[0] for failure in results.session.failed] == ["mlp"]
    assert not results.session.complete


def test_results_that_cannot_be_written_are_refused_before_measuring(
    session: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("in the way")
    code, said = session("bench", *QUICK, storage=blocked)
    assert code == 4
    assert "ERROR: " in said
    assert f"{blocked}: cannot be written to" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--recipe", "mpl"), "ERROR: --recipe mpl: unknown; did you mean mlp? choose one of"),
        (("--suite", "smok"), "ERROR: --suite smok: unknown; did you mean smoke?"),
        (("--rounds", "0"), "ERROR: --rounds 0: must be at least 1"),
        (("--subject", "no.py:make"), "ERROR: --subject no.py:make: no.py is no file; give FILE.py:NAME or"),
        (
            ("--subject", "docs/examples/my_gan.py:make,./docs/examples/my_gan.py:make"),
            "is shown as my_gan:make, as docs/examples/my_gan.py:make is; rename one",
        ),
        (("--stall-timeout", "0"), "ERROR: --stall-timeout 0: must be above 0 seconds"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    arguments: tuple[str, str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    code = pytest.main(["bench", *arguments, "--benchmark-storage", f"file://{tmp_path}"])
    said = capsys.readouterr().err
    assert code == 4
    assert line in said
    assert "Traceback" not in said


def _save(storage: Path, index: int) -> None:
    ResultsStorage(storage, None, "machine").save({"index": index}, "smoke")


@pytest.mark.multiprocess
def test_two_suites_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_save, args=(tmp_path, index)) for index in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    files = sorted(tmp_path.rglob("*.json"))
    assert [path.name for path in files] == [f"{number:04}_smoke.json" for number in range(1, 9)]
    assert {json.loads(path.read_text())["index"] for path in files} == set(range(8))
    assert len(list((tmp_path / "machine").iterdir())) == 8


@pytest.fixture
def aside(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where results go that find no other place."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("aside")))


@pytest.mark.usefixtures("aside")
def test_a_full_disk_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    storage = ResultsStorage(tmp_path, None, "machine")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        storage.save({"index": 1}, "smoke")
    assert not list(tmp_path.rglob("*.*"))
    assert storage.errors
    assert "No space left on device" in storage.errors[0]
    assert storage.saved is not None
    assert json.loads(storage.saved.read_text()) == {"index": 1}


@pytest.mark.usefixtures("aside")
def test_a_file_in_the_place_of_the_machines_folder_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "machine").write_text("in the way")
    storage = ResultsStorage(tmp_path, None, "machine")
    storage.save({"index": 1}, "smoke")
    assert storage.errors
    assert storage.saved is not None
    assert json.loads(storage.saved.read_text()) == {"index": 1}
