"""Races of processes that measure nothing: measured, failed, interrupted, killed. One race is real."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.race.record import read_race
from bench.race.standing import standings_of
from bench.runner import leftovers
from tests.bench.check_processes import forked, hurry, until
from tests.bench.race_records import SLOWER, race_json
from tests.bench.stub_contender import STUBS
from tests.conftest import ROOT
from tests.documents import commands

pytestmark = pytest.mark.multiprocess
STUB = (sys.executable, str(ROOT / "tests" / "bench" / "stub_contender.py"))
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def behave(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets how the processes of core and of each subject `NAME.py:make` behave."""
    monkeypatch.setenv(STUBS, str(tmp_path / "stubs.json"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.turns.ranks.SIDE_PROCESS", STUB)

    def set_behaviour(**behaviours: dict[str, Any]) -> None:
        subjects = {}
        for name, behaviour in behaviours.items():
            subject = name if name in ("core", "plain") else f"{name}.py:make"
            subjects[subject] = behaviour
            file = Path(f"{name}.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        (tmp_path / "stubs.json").write_text(json.dumps(subjects))

    return set_behaviour


def left_behind(temporary: Path) -> list[object]:
    """Return the directories and processes that a race has not removed."""
    return [*temporary.glob("gan-race-*"), *contender_processes(temporary)]


def contender_processes(temporary: Path) -> list[int]:
    pids = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(leftovers.COMPILER_CACHE, "").startswith(str(temporary)):
                pids.append(process.pid)
        except psutil.Error:
            continue
    return pids


def test_a_race_of_three_is_measured_and_replayed(
    behave: Callable[..., None], temporary: Path, command: Command
) -> None:
    behave(core={}, slow={"step_seconds": 1.0}, wide={"images_per_step": 128, "losses": None})
    names = ("core", "slow.py:make", "wide.py:make")
    code, printed, errors = command("race", *names, "--pairs", "6", "--output", "race.json")
    assert code == 0, errors
    assert "pair 6 of 6" in errors
    assert "slow.py:make takes 2.000 × the time of core mlp per image (2.000 to 2.000)" in printed
    assert "wide.py:make takes 0.500 × the time of core mlp per image (0.500 to 0.500)" in printed
    record = read_race(Path("race.json"))
    assert [launch.log_ratio("b") for launch in record.launches] == pytest.approx([0.693147] * 6, abs=1e-5)
    assert not left_behind(temporary)
    code, again, _ = command("race", "--replay", "race.json")
    assert code == 0
    assert printed.splitlines() == [*again.splitlines(), "race.json"]


def test_without_output_a_race_is_stored_in_results(behave: Callable[..., None], command: Command) -> None:
    behave(core={})
    assert command("race", "core", "core", "--pairs", "1")[0] == 0
    (path,) = Path("results/races").glob("race-*.json")
    assert [one.name for one in standings_of(read_race(path))] == ["core (A)", "core (B)"]


@pytest.mark.parametrize(
    ("behaviour", "line"),
    [
        ({"fails_at": "Prepare", "exits": 7}, "its process ended with exit code 7"),
        ({"fails_at": "TakeWindow", "exits": 7}, "its process ended with exit code 7"),
        ({"compiles_in": 20}, "it compiled again inside a window of quad "),
        ({"images_per_step": 0}, "images_per_step is 0; it must be a whole number of at least 1"),
        ({"no_such_field": 0}, "TypeError: "),
    ],
    ids=["exits at once", "exits later", "compiles", "no images", "raises"],
)
def test_a_contender_that_fails_is_named_in_one_line(
    behaviour: dict[str, Any], line: str, behave: Callable[..., None], temporary: Path, command: Command
) -> None:
    behave(core={}, mine=behaviour)
    code, printed, errors = command("race", "core", "mine.py:make", "--pairs", "1")
    assert (code, printed) == (1, "")
    assert errors.splitlines()[-1].startswith(f"error: mine.py:make: {line}")
    assert "Traceback" not in errors
    assert not left_behind(temporary)
    assert not list(Path().glob("results/**/*.json"))


@pytest.mark.parametrize("fails_at", [pytest.param("Prepare", marks=pytest.mark.slow), "TakeWindow"])
def test_a_contender_that_waits_for_ever_is_ended(
    fails_at: str,
    behave: Callable[..., None],
    temporary: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behave(core={}, mine={"fails_at": fails_at})
    hurry(monkeypatch, lambda: temporary.glob("gan-race-*/b-0.log"))
    code, _, errors = command("race", "core", "mine.py:make", "--pairs", "1", "--stall-timeout", "100s")
    assert code == 1
    late = "error: mine.py:make: no answer for 100 s; all were ended"
    assert errors.splitlines()[-1] == f"{late}; if it is only slow, raise --stall-timeout"
    assert not left_behind(temporary)


def test_losses_that_are_not_finite_are_said(behave: Callable[..., None], command: Command) -> None:
    behave(core={}, mine={"losses": {"loss_d": float("nan")}})
    code, printed, _ = command("race", "core", "mine.py:make", "--pairs", "1", "--output", "race.json")
    assert code == 1
    assert "mine.py:make: not finite after 7 steps: loss_d" in printed
    assert read_race(Path("race.json")).launches[0].entries["b"].last_losses.not_finite == ["loss_d"]


@contextmanager
def running(behave: Callable[..., None], temporary: Path, log: Path) -> Iterator[Any]:
    """A race in a fork of this process, which has imported PyTorch; one of its contenders has stalled."""
    behave(core={}, mine={"fails_at": "TakeWindow"})
    command = ["race", "core", "mine.py:make"]
    with forked(command, log, lambda: temporary.glob("gan-race-*/b-0.log")) as process:
        assert len(contender_processes(temporary)) == 2
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_race_leaves_nothing(
    number: int, code: int, behave: Callable[..., None], temporary: Path, tmp_path: Path
) -> None:
    with running(behave, temporary, tmp_path / "log") as process:
        os.kill(process.pid, number)
        process.join(200)
        assert process.exitcode == code
    assert (tmp_path / "log").read_text().splitlines()[-1] in ("interrupted", "terminated; nothing was written")
    assert not left_behind(temporary)
    assert not list(tmp_path.glob("results/**/*.json"))


@pytest.mark.slow
def test_a_killed_race_leaves_no_process_and_the_next_one_tidies_up(
    behave: Callable[..., None], temporary: Path, tmp_path: Path, command: Command
) -> None:
    with running(behave, temporary, tmp_path / "log") as process:
        process.kill()
        process.join()
        until(lambda: not contender_processes(temporary))
        assert left_behind(temporary)
        behave(core={})
        assert command("race", "core", "core", "--pairs", "1")[0] == 0
    assert not left_behind(temporary)


@pytest.mark.parametrize("documented", commands("python", "-m", "bench", "race"), ids=str)
@pytest.mark.slow
def test_documented_races(documented: Any, behave: Callable[..., None], command: Command) -> None:
    behave(core={}, plain={}, my_gan={}, **{"docs/examples/subjects/dcgan_example": {}})
    Path("FILE").write_text(json.dumps(race_json(SLOWER)))
    code, printed, errors = command(*documented.words[3:])
    assert code == 0, errors
    assert "× the time of" in printed
    for word in documented.words:
        assert not word.endswith((".md", ".html")) or Path(word).stat().st_size > 500


@pytest.mark.slow
def test_a_subject_that_raises_is_named_once_with_its_line(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    images_per_step = 8\n    step = lambda self: 1 / 0\nmake = lambda _: Mine()\n"
    )
    monkeypatch.chdir(tmp_path)
    code, printed, errors = command("race", "mine.py:make", "plain", "--recipe", "mlp-compact", "--device", "cpu")
    assert (code, printed) == (1, "")
    line = "error: mine.py:make: step() raised at mine.py:3: ZeroDivisionError: division by zero"
    assert errors.splitlines()[-1] == line
    assert not left_behind(temporary)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_recipe_of_a_file_really_races(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """The core and the plain loop run in another directory than the file is relative to."""
    monkeypatch.chdir(tmp_path)
    text = "from dataclasses import replace\nfrom gan.recipes import RECIPES\n"
    Path("tiny.py").write_text(text + "TINY = replace(RECIPES['mlp-compact'], batch_size=12)\n")
    settings = ("--recipe", "tiny.py", "--set", "optimizer.learning_rate=1e-4", "--device", "cpu", "--pairs", "1")
    code, _, errors = command("race", "core", "plain", *settings, "--output", "race.json")
    assert code == 0, errors
    core, plain = standings_of(read_race(Path("race.json")))
    assert core.images_per_step == plain.images_per_step == 12


@pytest.mark.slow
@pytest.mark.nightly
def test_the_core_really_races_the_plain_loop_and_a_subject_of_somebody_s(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """The subject takes the core's step twice as often on one image: it is slower by far."""
    (tmp_path / "helper.py").write_text("SIZE = 700\n")
    (tmp_path / "words.txt").write_text("from the folder in which the race runs")
    (tmp_path / "mine.py").write_text(
        """
import torch
from helper import SIZE

class Mine:
    def __init__(self, setup):
        assert open("words.txt").read()
        self.images_per_step = setup.batch_size
        self.network = torch.nn.Linear(SIZE, SIZE)

    def step(self):
        for _ in range(8):
            self.network(torch.rand(64, SIZE)).mean().backward()

    def networks(self):
        return {"only": self.network}

def make(setup):
    return Mine(setup)
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    arguments = ("core", "plain", "mine.py:make", "--recipe", "mlp-compact", "--device", "cpu", "--pairs", "2")
    code, printed, errors = command("race", *arguments, "--output", "race.json", "--html", "race.html")
    assert code == 0, errors
    record = read_race(Path("race.json"))
    core, plain, mine = standings_of(record)
    assert plain.ratio
    assert plain.ratio.estimate > 1.2
    assert core.num_parameters
    assert plain.num_parameters in (None, core.num_parameters)
    assert mine.num_parameters == 700 * 701
    assert mine.entry.early_losses.values is None
    assert (
        set(core.entry.early_losses.values or ())
        == {"loss_d", "loss_g"}
        == set(plain.entry.early_losses.values or ())
    )
    assert {one.entry.configuration["threads"] for one in (core, plain, mine)} == {
        core.entry.configuration["threads"]
    }
    assert all(one.entry.configuration["flush_denormal"] for one in (core, plain, mine))
    assert core.entry.configuration["spinning"] == plain.entry.configuration["spinning"]
    assert core.entry.configuration["spinning"] == mine.entry.configuration["spinning"]
    assert len({one.entry.early_losses.step for one in (core, plain, mine)}) == 1
    first, second = (launch.entries["a"].early_losses for launch in record.launches)
    assert first == second, "the same seed"
    assert "mine.py:make has no losses(): its losses are not compared" in printed
    assert not left_behind(temporary)
