"""`pytest bench` as people run it: what it prints, writes and survives."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.results.damage import schema_error
from bench.results.file import read
from bench.results.storage import ResultsStorage
from tests.conftest import ROOT, run_script

QUICK = ("--recipe", "mlp-compact", "--compile", "no", "--rounds", "4")
STEP = "bench/test_throughput.py::test_step"
STUB = ("-p", "tests.bench.stub_session")
SAMPLING = "bench/test_around.py::test_sampling"


def bench(*arguments: object, storage: Path, env: dict[str, str] | None = None):
    command = ("-m", "pytest", "--benchmark-only", "--benchmark-storage", f"file://{storage}", *arguments)
    return run_script(*command, cwd=ROOT, env=env)


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
@pytest.mark.multiprocess
def test_training_that_takes_longer_than_a_stall_does_not_hang(tmp_path: Path) -> None:
    chosen = ("bench/test_stability.py", "-k", "stability", "--recipe", "mlp-compact", "--precision", "fp32")
    done = bench(*chosen, "--stall-timeout", "2", storage=tmp_path)
    assert done.returncode == 0, done.stdout
    (result,) = read(only_file(tmp_path)).cases
    assert result.median() > 2
    assert "starting 1 case" in done.stdout


@pytest.mark.multiprocess
def test_a_case_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    fault = "if case['workload'] == 'step': raise FloatingPointError('injected')"
    done = bench(*STUB, SAMPLING, STEP, *QUICK, storage=tmp_path, env={"STUB_FAULT": fault})
    assert done.returncode == 1
    assert "FloatingPointError: injected" in done.stdout
    results = read(only_file(tmp_path))
    assert [result.case.workload for result in results.cases] == ["sampling"]
    assert not results.session.complete
    assert results.session.failed[0].case.startswith("step mlp-compact")


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("number", "cases"),
    [(signal.SIGINT, ["sampling", "step", "step"]), (signal.SIGTERM, ["sampling"])],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupted_session_keeps_what_it_measured_and_says_so(
    number: int, cases: list[str], tmp_path: Path
) -> None:
    """All cases are in the middle of their rounds."""
    benchmarks = (SAMPLING, STEP) if "step" in cases else (SAMPLING,)
    command = [
        sys.executable,
        "-u",
        "-m",
        "pytest",
        *STUB,
        *benchmarks,
        "--benchmark-only",
        *QUICK,
        "--rounds",
        "9999",
    ]
    process = subprocess.Popen(
        [*command, "--benchmark-storage", f"file://{tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = b""
    while said.count(b"is warm") < len(cases):
        part = os.read(process.stdout.fileno(), 4096)
        assert part, said
        said += part
    time.sleep(len(cases))  # a turn takes a stub a fifth of a second
    os.kill(process.pid, number)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 2, rest
    assert "INCOMPLETE" in rest
    results = read(only_file(tmp_path))
    assert not results.session.complete
    assert [result.case.workload for result in results.cases] == cases
    assert all(
        len(windows) >= 8 for result in results.cases for windows in result.seconds_per_step[result.own_arm]
    )


@pytest.mark.multiprocess
def test_results_that_cannot_be_written_are_refused_before_measuring(tmp_path: Path) -> None:
    blocked = tmp_path / "results"
    blocked.write_text("in the way")
    done = bench("bench", *QUICK, storage=blocked)
    assert done.returncode == 4
    assert "ERROR: " in done.stderr
    assert f"{blocked}: cannot be written to" in done.stderr
    assert "Traceback" not in done.stderr


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
