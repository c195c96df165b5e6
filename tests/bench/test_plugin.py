"""The pytest plugin in a repository that is not this one."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.harness import single
from tests.conftest import ROOT
from tests.documents import commands

SHORT = ("--benchmark-max-time=0.05", "-p", "no:cacheprovider", "-p", "bench.plugin", "--import-mode=importlib")
NAP = "time.sleep(0.002)"
EXAMPLE = "docs/examples/test_my_step.py"
NUMBERS = itertools.count()


class Done(NamedTuple):
    code: int
    said: str


Tests = dict[str, tuple[str, str]]
"""Names of tests in a repository; the body of the step, and how it is measured."""


def write(folder: Path, tests: Tests) -> Path:
    """Write a file of tests. Its module has a new name, because all sessions here are in one process."""
    path = folder / f"test_steps_{next(NUMBERS)}.py"
    lines = ["import math, time"]
    for name, (step, call) in tests.items():
        lines += [f"def test_{name}(measure_step):", "    calls = []"]
        lines += ["    def step():", "        calls.append(1)", textwrap.indent(step, " " * 8)]
        lines += [textwrap.indent(call, " " * 4)]
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture
def session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run pytest in this process on tests of steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(tests: Tests, *options: str) -> Done:
        code = pytest.main([write(tmp_path, tests).name, *SHORT, *options])
        captured = capfd.readouterr()
        return Done(int(code), captured.out + captured.err)

    return run


@pytest.fixture
def run(session: Callable[..., Done]) -> Callable[..., Done]:
    """Run pytest in this process on a test of one step."""

    def run(*options: str, step: str = NAP, call: str = "measure_step(step)") -> Done:
        return session({"step": (step, call)}, *options)

    return run


def let_steps_take(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step take so long by the engine's clock, whatever the machine does meanwhile."""
    now = 0.0
    take = single.Repeated.__next__

    def counted(steps: single.Repeated) -> None:
        nonlocal now
        now += seconds
        take(steps)

    monkeypatch.setattr(single.Repeated, "__next__", counted)
    monkeypatch.setattr(single, "Engine", partial(single.Engine, timer=lambda: now))


@pytest.mark.multiprocess  # what the processor is
def test_a_step_has_a_table_and_a_place_in_the_file(run: Callable[..., Done], tmp_path: Path) -> None:
    done = run("--benchmark-json=new.json", call="figures = measure_step(step, images=8)\nassert figures.settled")
    assert done.code == 0, done.said
    (benchmark,) = json.loads((tmp_path / "new.json").read_text())["benchmarks"]
    stats = benchmark["stats"]
    facts = benchmark["extra_info"]
    assert stats["iterations"] == facts["steps_per_window"] > 1
    assert stats["rounds"] == len(stats["data"]) >= 5
    assert 0.002 < facts["p5_seconds"] <= stats["median"] <= facts["p95_seconds"] <= facts["p99_seconds"]
    assert facts["images_per_second"] == pytest.approx(8 / stats["median"])
    assert facts["peak_host_bytes"] > 2**20
    assert benchmark["options"]["timer"] == "replayed"
    assert re.search(r"test +ms/step +p5 .*\ntest_step +\d", done.said)
    assert "Name (time in ms)" in done.said


def test_nothing_runs_beside_a_step_that_would_slow_it(run: Callable[..., Done]) -> None:
    """Neither a tracer, as of a coverage tool, nor the garbage collector."""
    step = "import gc, sys\nstate.append((sys.gettrace(), gc.isenabled()))\ntime.sleep(0.002)"
    call = """
    import sys
    state = []
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    measure_step(step)
    sys.settrace(before)
    assert {tracer for tracer, _ in state} == {None}
    assert state[-1] == (None, False)
    """
    done = run("-o", "addopts=", step=step, call=textwrap.dedent(call))
    assert done.code == 0, done.said


@pytest.mark.parametrize(
    ("options", "arguments", "num_windows"),
    [
        (["--benchmark-min-rounds=9"], "", 9),
        pytest.param(["--benchmark-max-time=0.3"], "", 15, marks=pytest.mark.slow),
        pytest.param(["--benchmark-min-time=0.1"], "", 5, marks=pytest.mark.slow),
        pytest.param([], ", rounds=3", 3, marks=pytest.mark.slow),
        pytest.param([], ", window_seconds=0.005", 8, marks=pytest.mark.slow),
    ],
)
def test_options_and_arguments_say_how_many_windows_there_are(
    options: list[str],
    arguments: str,
    num_windows: int,
    run: Callable[..., Done],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps take 2.3 ms, so that a window of at least 20 ms has nine of them, and takes 20.7 ms."""
    let_steps_take(0.0023, monkeypatch)
    least_seconds = 0.1 if "--benchmark-min-time=0.1" in options else 0.005
    call = f"""
    figures = measure_step(step{arguments})
    assert len(figures.seconds) == {num_windows}
    assert figures.steps_per_window * figures.median_seconds >= {least_seconds}
    """
    done = run(*options, step="pass", call=textwrap.dedent(call))
    assert done.code == 0, done.said


@pytest.mark.slow
def test_a_mark_says_how_long_and_in_which_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"step": (NAP, "assert len(measure_step(step).seconds) == 6")})
    mark = "import pytest\n@pytest.mark.benchmark(group='mine', min_rounds=6)\ndef test_step"
    path.write_text(path.read_text().replace("def test_step", mark))
    monkeypatch.chdir(tmp_path)
    assert pytest.main([path.name, *SHORT]) == 0
    assert "benchmark 'mine': 1 tests" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        (["--benchmark-disable"], "1 passed"),
        (["--benchmark-skip"], "1 skipped"),
        (["--benchmark-only"], "1 passed"),
        (["--collect-only"], "1 test collected"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_pytest_benchmark_s_switches_work(options: list[str], ending: str, run: Callable[..., Done]) -> None:
    once = "figures = measure_step(step)\nassert (figures is None) == (len(calls) == 1)\nassert calls"
    done = run(*options, call=once)
    assert done.code == 0, done.said
    assert ending in done.said
    assert ("ms/step" in done.said) is (options == ["--benchmark-only"])


@pytest.mark.slow
def test_the_profile_is_that_of_the_step(run: Callable[..., Done]) -> None:
    done = run("--benchmark-cprofile=tottime")
    assert done.code == 0, done.said
    assert re.search(r"test_steps_\d+.py:\d+\(step\)", done.said)
    assert "time.sleep" in done.said


@pytest.mark.slow
def test_options_without_effect_are_said_once(session: Callable[..., Done]) -> None:
    tests = dict.fromkeys(("one", "other"), (NAP, "measure_step(step)"))
    done = session(tests, "--benchmark-warmup=on", "--benchmark-timer=time.time")
    assert done.code == 0, done.said
    assert done.said.count("measure_step: --benchmark-timer, --benchmark-warmup: without effect") == 1


def test_a_fixture_that_is_asked_for_too_late_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, {"late": (NAP, "request.getfixturevalue('measure_step')(step)")})
    path.write_text(path.read_text().replace("(measure_step):", "(request):"))
    monkeypatch.chdir(tmp_path)
    assert pytest.main([path.name, *SHORT]) == 1
    assert "\nmeasure_step: is asked for by request.getfixturevalue; name it" in capfd.readouterr().out


NO_STEPS = {
    "nan": ("return float('nan')", "", "the step returned NaN or infinity, at step 1"),
    "inf": ("return {'loss': [1.0, -math.inf]}", "", "the step returned NaN or infinity, at step 1"),
    "later": (
        "return [math.nan if len(calls) > 50 else 1.0]",
        "",
        r"the step returned NaN or infinity, at step \d\d",
    ),
    "ends": ("next(data)", "data = iter([1, 2])", "the step raised StopIteration after 2 steps: its data ended"),
    "generator": ("yield", "", "the step returned a generator, which has not run"),
    "coroutine": (NAP, "async def step(): pass", "the step returned a coroutine, which has not run"),
    "number": (NAP, "step = 5", "step 5: must be a function without arguments"),
    "argument": (NAP, "step = lambda batch: batch", r"step: must take no arguments \(missing a required"),
    "twice": (NAP, "measure_step(step, rounds=1)", "measures one step per test"),
}


def test_what_is_no_step_fails_in_one_line(session: Callable[..., Done]) -> None:
    tests = {name: (step, f"{call}\nmeasure_step(step)") for name, (step, call, _) in NO_STEPS.items()}
    done = session(tests)
    assert done.code == 1
    said = done.said[: done.said.index("short test summary")]
    for name, (*_, line) in NO_STEPS.items():
        assert re.search(rf"_ test_{name} _+\nmeasure_step: {line}.*\n[_=]", said), (name, said)
    assert f"{len(NO_STEPS)} failed in" in done.said  # and no warning


BAD_ARGUMENTS = {
    "images=-1": "images=-1: must be a whole number of at least 0",
    "images=6.5": "images=6.5: must be a whole number of at least 0",
    "images=True": "images=True: must be a whole number of at least 0",
    "period=0": "period=0: must be a whole number of at least 1",
    "rounds=0": "rounds=0: must be a whole number of at least 1",
    "window_seconds=0": "window_seconds=0: must be a number of at least 1e-06",
    "window_seconds='1'": "window_seconds='1': must be a number of at least 1e-06",
    "warmup_seconds=-1": "warmup_seconds=-1: must be a number of at least 0",
    "warmup_seconds=math.inf": "warmup_seconds=inf: must be a number of at least 0",
    "device='tpu'": "device='tpu': must be one of cpu",
    "device='cuda:99'": "device='cuda:99': must be one of cpu",
}


@pytest.mark.parametrize("options", [(), ("--benchmark-disable",)], ids=["measured", "disabled"])
def test_bad_arguments_are_refused_in_one_line(options: tuple[str, ...], session: Callable[..., Done]) -> None:
    calls = [f"measure_step(step, {argument})" for argument in BAD_ARGUMENTS]
    done = session({f"{index}_": ("print('taken')", call) for index, call in enumerate(calls)}, *options)
    assert done.code == 1
    said = done.said[: done.said.index("short test summary")]
    for index, line in enumerate(BAD_ARGUMENTS.values()):
        assert re.search(rf"_ test_{index}_ _+\nmeasure_step: {re.escape(line)}.*\n[_=]", said), (line, said)
    assert "Captured stdout" not in said


@pytest.mark.parametrize(
    ("when", "options"), [(1, ()), pytest.param(20, (), marks=pytest.mark.slow), (1, ("--benchmark-disable",))]
)
def test_a_step_that_raises_is_shown_where_it_raises(
    when: int, options: tuple[str, ...], run: Callable[..., Done]
) -> None:
    done = run(*options, step=f"time.sleep(0.001)\nif len(calls) == {when}:\n    raise ValueError('mine')")
    assert done.code == 1
    assert re.search(r"test_steps_\d+.py:\d+: ValueError", done.said)
    assert re.search(r"\nE +ValueError: mine", done.said)
    assert "bench/harness" not in done.said
    assert "1 failed in" in done.said  # and no warning


def test_a_step_that_compiles_again_and_again_fails(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations = iter(range(10**9))
    monkeypatch.setattr(single, "num_compilations", lambda: next(compilations))
    done = run(call="measure_step(step, warmup_seconds=0.2)")
    assert done.code == 1
    assert "\nmeasure_step: the step compiled again inside window 1: its time is no step's" in done.said
    assert "Traceback" not in done.said


@pytest.mark.slow
def test_a_step_without_a_steady_state_is_measured_with_a_warning(run: Callable[..., Done]) -> None:
    done = run(
        step="time.sleep(0.0005 * 1.02 ** len(calls))",
        call="measure_step(step, warmup_seconds=0.1, rounds=1)",
    )
    assert done.code == 0, done.said
    assert "measure_step: no steady state within 0.1 s of warm-up, so times may still change" in done.said


def test_without_pytest_benchmark_one_line_says_so(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = [str(write(tmp_path, {"step": (NAP, "")})), *SHORT[1:], "-p", "no:benchmark"]
    for missing in (False, True):
        if missing:
            for module in {"bench.plugin", "gan_bench_plugin"} & sys.modules.keys():  # both where it is installed
                monkeypatch.setattr(f"{module}.find_spec", lambda _: None)
        assert pytest.main(options) == 1
    done = run()  # reads what both have said
    assert "\nmeasure_step: needs pytest-benchmark; it is installed, but not loaded" in done.said
    assert "\nmeasure_step: needs pytest-benchmark; install it with: pip install pytest-benchmark\n" in done.said


def test_a_package_of_this_name_is_named(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    import bench

    run("--benchmark-disable")
    monkeypatch.delattr(bench, "measured_step")
    monkeypatch.setitem(sys.modules, "bench.measured_step", None)
    done = run()
    assert done.code == 1
    assert re.search(r"\nmeasure_step: the package `bench` of .*__init__.py hides that of the harness", done.said)


@pytest.mark.multiprocess
def test_the_plugin_imports_nothing_at_the_start() -> None:
    heavy = "{'torch', 'numpy', 'gan', 'bench.harness', 'bench.measured_step', 'pytest_benchmark'}"
    code = f"import sys, bench.plugin; print({heavy} & {{*sys.modules}} or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "nothing\n"


@pytest.mark.multiprocess
def test_a_slowed_step_fails_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neighbours take up to three quarters of a machine; 20 times the work is far more than that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def arguments(work: int, *options: str) -> list[str]:
        tests = {"step": (f"sum(range({work}))", "measure_step(step)")}
        write(tmp_path, tests).replace(tmp_path / "test_steps.py")
        sys.modules.pop("test_steps", None)  # of the measurement before
        return ["test_steps.py", *SHORT, "--benchmark-autosave", *options]

    assert pytest.main(arguments(20_000)) == 0
    (stored,) = (tmp_path / ".benchmarks").rglob("0001_*.json")
    slowed = subprocess.run(  # in a process of its own, which pytest-benchmark ends by an exception
        [
            *(sys.executable, "-m", "pytest"),
            *arguments(400_000, "--benchmark-compare=0001", "--benchmark-compare-fail=min:50%"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert slowed.returncode == 1
    assert "Performance has regressed" in slowed.stdout + slowed.stderr
    assert "(NOW)" in slowed.stdout
    same = pytest.main(arguments(20_000, "--benchmark-compare=0001", "--benchmark-compare-fail=min:900%"))
    assert same == 0, capfd.readouterr()
    assert stored.is_file()


@pytest.mark.multiprocess  # what the processor is
def test_the_documented_commands_measure_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """They store aside, and a busy machine may take a hundred times as long."""
    monkeypatch.chdir(ROOT)
    documented = [command for command in commands("pytest") if EXAMPLE in command.words]
    assert len(documented) == 3
    for command in documented:
        options = [*command.words[1:], *SHORT, f"--benchmark-storage=file://{tmp_path}"]
        if "--benchmark-compare" in options:
            options.append("--benchmark-compare-fail=median:99900%")
        code = pytest.main(options)
        said = capfd.readouterr().out
        assert code == 0, said
        assert re.search(r"\ntest_my_step +[\d.]+ ", said)
    assert "(NOW)" in said
    assert list(tmp_path.rglob("0001_*.json"))


@pytest.mark.multiprocess  # what the processor is
def test_numbers_of_numpy_are_stored(run: Callable[..., Done], tmp_path: Path) -> None:
    call = "import numpy\nmeasure_step(step, images=numpy.int64(8), rounds=numpy.int32(3), warmup_seconds=0)"
    done = run("--benchmark-json=new.json", call=call)
    assert done.code == 0, done.said
    (benchmark,) = json.loads((tmp_path / "new.json").read_text())["benchmarks"]
    assert benchmark["extra_info"]["images_per_step"] == 8
    assert benchmark["stats"]["rounds"] == 3


@pytest.mark.parametrize(
    "option", ["--benchmark-max-time=nan", "--benchmark-max-time=inf", "--benchmark-min-time=nan"]
)
def test_a_time_that_is_not_finite_is_refused(option: str, run: Callable[..., Done]) -> None:
    done = run(option)
    assert done.code == 1
    assert f"measure_step: {option.replace('=', ' ')}: must be a finite number" in done.said


def test_a_test_that_has_used_benchmark_itself_is_told(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    text = "def test_both(benchmark, measure_step):\n    benchmark(int)\n    measure_step(int)\n"
    path = tmp_path / f"test_both_{next(NUMBERS)}.py"
    path.write_text(text)
    assert pytest.main([path.name, *SHORT]) == 1
    said = capfd.readouterr().out
    assert "Fixture can only be used once. Previously it was used in benchmark(...) mode." in said
    assert "TypeError" not in said
