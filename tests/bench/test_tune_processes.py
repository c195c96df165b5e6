"""Tunings of processes that measure nothing: the best setting, one that fails, Ctrl-C. One tuning is real."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.race.measure import ContenderError
from bench.suite.cases import Case
from bench.suite.machine import Machine
from bench.tune.measure import TurnMeasures
from bench.tune.options import TuneSettings
from bench.tune.record import read_tuning
from bench.tune.search import Failed
from bench.tune.summary import decision_of
from tests.bench.check_processes import forked
from tests.bench.stub_contender import STUBS
from tests.bench.test_race_processes import STUB, left_behind
from tests.conftest import ROOT
from tests.documents import commands

pytestmark = pytest.mark.multiprocess
Command = Callable[..., tuple[int, str, str]]
BF16 = "ACCELERATE_MIXED_PRECISION=bf16"
INDUCTOR = "ACCELERATE_DYNAMO_BACKEND=INDUCTOR"
FEW = ("tune", "--recipe", "quickstart", "--device", "cpu", "--memory-format", "auto", "--budget", "10m")


@pytest.fixture
def behave(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets how the processes of all settings behave."""
    monkeypatch.setenv(STUBS, str(tmp_path / "stubs.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.turns.ranks.SIDE_PROCESS", STUB)
    monkeypatch.setattr("bench.tune.options.SETTING_AXES", ("precision", "compile", "memory_format"))
    monkeypatch.setattr("bench.tune.settings.SETTING_AXES", ("precision", "compile", "memory_format"))

    def set_behaviour(**behaviour: Any) -> None:
        (tmp_path / "stubs.json").write_text(json.dumps({"core": behaviour}))

    return set_behaviour


def test_the_fastest_setting_wins_and_is_replayed(
    behave: Callable[..., None], temporary: Path, command: Command
) -> None:
    behave(factors={BF16: 0.8, INDUCTOR: 0.9})
    code, printed, errors = command(*FEW, "--output", "tune.json", "--markdown", "tune.md", "--wide")
    assert code == 0, errors
    assert "use bf16 inductor: it takes 0.720 × the time of the default, fp32 eager, per image" in printed
    lines = printed.splitlines()
    assert lines[-1].startswith("accelerate launch --config_file ")
    assert lines[-1].endswith("--recipe quickstart")
    assert "--mixed_precision bf16 --dynamo_backend inductor" in lines[-1]
    assert lines[-3:-1] == ["tune.json", ""]
    record = read_tuning(Path("tune.json"))
    assert {one.name for one in record.trials if one.heats} == {"bf16 eager", "fp32 inductor", "bf16 inductor"}
    assert not left_behind(temporary)
    code, again, _ = command("tune", "--replay", "tune.json", "--wide")
    assert (code, again.splitlines()) == (0, [line for line in lines if line != "tune.json"])
    assert lines[-1] in Path("tune.md").read_text()


@pytest.mark.parametrize("unfit", ["T2", "Prepare"])
def test_a_setting_that_fails_is_dropped(unfit: str, behave: Callable[..., None], command: Command) -> None:
    behave(factors={BF16: 0.5}, unfit={BF16: unfit})
    code, printed, errors = command(*FEW, "--compile", "no", "--output", "tune.json")
    assert code == 0, errors
    assert "keep the default, fp32 eager" in printed
    reason = (
        "T2 gradients: 2, the limit is 1" if unfit == "T2" else "ACCELERATE_MIXED_PRECISION=bf16 is not possible"
    )
    assert f"bf16 eager: {reason}" in " ".join(printed.split())
    assert json.loads(Path("tune.json").read_text())["outcome"]["setting"] == "fp32 eager"


@pytest.mark.parametrize(("unfit", "num_processes"), [("bf16", "1"), ("comm_hook=bf16", "2")])
def test_settings_of_several_processes_are_judged_by_what_they_exchange_and_by_one_process(
    unfit: str, num_processes: str, behave: Callable[..., None], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes cannot say whether bf16 is exact enough, nor one whether an exchange is."""
    monkeypatch.setattr("bench.tune.options.SETTING_AXES", ("precision", "comm_hook"))
    monkeypatch.setattr("bench.tune.settings.SETTING_AXES", ("precision", "comm_hook"))
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine(2, 0, processes_at_once=12)))
    setting = BF16 if unfit == "bf16" else unfit
    behave(factors={BF16: 0.5, "comm_hook=bf16": 0.8}, unfit={setting: "T2"}, unfit_processes=int(num_processes))
    words = ("tune", "--recipe", "quickstart", "--device", "cpu", "--num-processes", "2", "--budget", "10m")
    code, _, errors = command(*words, "--comm-hook", "no,bf16", "--output", "tune.json")
    assert code == 0, errors
    axis = "precision" if unfit == "bf16" else "comm_hook"
    for trial in read_tuning(Path("tune.json")).trials:
        if trial.checks is not None:
            assert [check.tier for check in trial.checks] == ["T1", "T2"] * 2
            assert bool(trial.dropped) is (trial.axes.get(axis) == "bf16"), trial.name


def test_a_finalist_that_fails_in_the_final_race_is_dropped(
    behave: Callable[..., None], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: Any, *_: Any, **__: Any) -> None:
        raise ContenderError(f"{settings.contenders['b'].name}: compiled again")

    monkeypatch.setattr("bench.tune.measure.measure_race", fail)
    behave(factors={BF16: 0.5})
    code, printed, errors = command(*FEW, "--compile", "no", "--output", "tune.json")
    assert code == 0, errors
    sentence = "keep the default, fp32 eager: bf16 eager was the fastest, but failed in the final race"
    assert sentence in " ".join(printed.split())
    (bf16,) = [one for one in read_tuning(Path("tune.json")).trials if one.name == "bf16 eager"]
    assert bf16.dropped == "the final race: core bf16: compiled again"


def test_of_equal_settings_the_default_stays(behave: Callable[..., None], command: Command) -> None:
    behave()
    code, printed, errors = command(*FEW, "--compile", "no")
    assert code == 0, errors
    assert "keep the default, fp32 eager: the best other setting is not better by 1 %" in printed
    (path,) = Path("results/tune").glob("tune-*.json")
    record = read_tuning(path)
    assert record.race
    assert len(record.race.launches) == 6, "it can no longer win"
    assert decision_of(record).setting == record.default


def test_a_default_that_fails_is_one_line(behave: Callable[..., None], temporary: Path, command: Command) -> None:
    behave(fails_at="Prepare", exits=7)
    code, printed, errors = command(*FEW, "--output", "tune.json")
    assert (code, printed) == (1, "")
    line = errors.splitlines()[-1]
    assert line.startswith("error: the default setting: its process ended with exit code 7"), errors
    assert not left_behind(temporary)
    assert not Path("tune.json").exists()


def test_after_ctrl_c_nothing_is_left(behave: Callable[..., None], temporary: Path, tmp_path: Path) -> None:
    behave(fails_at="TakeWindow")
    log = tmp_path / "log"
    with forked([*FEW], log, lambda: temporary.glob("gan-race-*/*/a-0.log")) as process:
        os.kill(process.pid, signal.SIGINT)
        process.join(200)
    assert process.exitcode == 130
    assert not left_behind(temporary)
    assert not list(tmp_path.glob("results/**/*.json"))


@pytest.mark.parametrize("documented", commands("python", "-m", "bench", "tune"), ids=str)
@pytest.mark.slow
def test_documented_tunings(documented: Any, behave: Callable[..., None], command: Command) -> None:
    behave(factors={BF16: 0.8})
    words = documented.words[3:]
    if "FILE" in words:
        assert command(*FEW, "--compile", "no", "--output", "FILE")[0] == 0
    code, printed, errors = command(*words, *(() if "--replay" in words else ("--budget", "10m", "--wide")))
    assert code == 0, errors
    assert "accelerate launch --config_file " in printed
    for word in words:
        assert not word.endswith(".md") or Path(word).stat().st_size > 500


@pytest.mark.nightly
@pytest.mark.slow
def test_two_real_processes_are_judged(tmp_path: Path) -> None:
    case = Case(recipe="mlp-compact", num_processes=2, comm_hook="bf16", batch_size=64)
    settings = TuneSettings(case, {}, Machine(2, 0, processes_at_once=4))
    checks = TurnMeasures(settings, tmp_path, time.monotonic() + 60, print).judge(case)
    assert not isinstance(checks, Failed), checks
    assert not [check.complaint() for check in checks if check.failed]
    names = [(check.tier, check.name) for check in checks]
    assert ("T2", "generator's exchange") in names
    assert ("T2", "generator's direction (1 - cosine)") in names
    assert names.count(("T1", "losses")) == 2


@pytest.mark.slow
@pytest.mark.nightly
def test_a_real_tuning_ends_with_a_command_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    command = [sys.executable, "-m", "bench", "tune", "--recipe", "quickstart", "--device", "cpu"]
    command += ["--compile", "no", "--budget", "40s", "--output", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = read_tuning(path)
    (bf16,) = [one for one in record.trials if one.name == "bf16 eager"]
    assert not bf16.dropped
    if bf16.heats[0].log_ratio < 0:  # it is slower, and not judged, where the CPU has no instructions for it
        assert bf16.checks
        assert {check.tier for check in bf16.checks} == {"T1", "T2"}
    advice = shlex.split(decision_of(record).setting.command)
    assert done.stdout.splitlines()[-1] == shlex.join(advice)
    launch = [sys.executable, "-m", "accelerate.commands.launch", *advice[2:], "--dry-run"]
    dry = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr
    assert "quickstart" in dry.stdout
