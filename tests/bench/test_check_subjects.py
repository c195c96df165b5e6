"""Checks of a subject in a repository that is not ours; the sides measure nothing, or do not behave."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.regress.record import read_record
from bench.regress.subject_case import parse_subject_cases
from bench.subjects.subject import Setup
from tests.bench.check_processes import commit, git, hurry, left_behind, until
from tests.conftest import ROOT

pytestmark = pytest.mark.multiprocess
STUB = (sys.executable, str(ROOT / "tests" / "bench" / "stub_side.py"))
SUBJECT = ("--subject", "train.py:make")
QUICK = (*SUBJECT, "--inject", "0%", "--output", "check.json")
LOSSES = ({"loss_d": 1.4, "loss_g": 0.7}, {"loss_d": 0.6931, "loss_g": 0.7})
CASE = "train.py:make-cpu-fp32-eager-b64-p1"
Command = Callable[..., tuple[int, str, str]]
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture
def repository(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, without anything of this project; checks are made in it."""
    path = tmp_path / "repository"
    (path / "gan").mkdir(parents=True)
    (path / "train.py").write_text("def make(setup): ...\n")
    behave(path, losses=LOSSES)
    commit(path)
    monkeypatch.chdir(path)
    monkeypatch.setattr("bench.turns.ranks.SIDE_PROCESS", STUB)
    monkeypatch.setattr("bench.runner.leftovers.MODULES", ("stub_side.py",))
    return path


def behave(repository: Path, **behaviour: Any) -> None:
    """Let the working tree's stub behave so, as `Stub` describes it."""
    (repository / "gan" / "stub.json").write_text(json.dumps(behaviour))


def said(printed: str) -> str:
    return " ".join(printed.split())


@pytest.mark.parametrize(
    ("step_seconds", "exit_code", "word"),
    [slow(0.004, 0, "PASS"), slow(0.0042, 1, "REGRESSION"), slow(0.0038, 0, "FASTER")],
)
def test_a_subject_is_judged_by_its_time(
    step_seconds: float, exit_code: int, word: str, repository: Path, temporary: Path, command: Command
) -> None:
    behave(repository, losses=LOSSES, step_seconds=step_seconds)
    code, printed, _ = command("regress", *QUICK)
    record = read_record(Path("check.json"))
    assert (code, printed.split(":")[0].strip()) == (exit_code, word)
    assert f"{CASE}: losses of the first 8 steps agree (loss_d, loss_g; at most 0 apart)" in said(printed)
    assert record.revisions.head == record.revisions.base + "+"
    assert len(record.pairs[0].cases[CASE].losses.head) == 8
    assert not left_behind(repository, temporary)
    code, _, errors = command("history", "check.json", "--plot", "history.png")
    assert code == 0, errors
    assert command("regress", "--replay", "check.json")[0] == exit_code


@pytest.mark.parametrize(
    ("behaviour", "exit_code", "line"),
    [
        (
            {"losses": [LOSSES[0], {"loss_d": 0.7310, "loss_g": 0.7}]},
            1,
            f"WRONG: {CASE}: losses differ from step 2: loss_d 0.731 against BASE's 0.6931; if that is meant, say "
            "--new-losses",
        ),
        slow(
            {"losses": [LOSSES[0], {"loss_d": float("nan"), "loss_g": 0.7}]},
            1,
            f"WRONG: {CASE}: losses are not finite from step 2: loss_d not finite against BASE's 0.6931",
        ),
        slow(
            {"losses": [LOSSES[0], {"loss_d": 0.69315, "loss_g": 0.7}]},
            0,
            "agree (loss_d, loss_g; at most 3.6e-05 apart)",
        ),
        slow({}, 0, f"{CASE}: HEAD shows no losses(), so only times and memory are compared"),
        slow(
            {"losses": LOSSES, "num_parameters": 12},
            0,
            f"{CASE}: generator has 12 parameters in HEAD, 10 in BASE",
        ),
        slow({"losses": LOSSES, "threads": 1}, 0, f"{CASE}: threads is 1 in HEAD, 2 in BASE"),
        ({"losses": LOSSES, "images_per_step": 128}, 2, "images_per_step is 64 for BASE and 128 for HEAD"),
    ],
    ids=["another loss", "NaN", "rounding", "none", "another network", "other threads", "other images"],
)
def test_a_subject_is_judged_by_its_losses(
    behaviour: dict[str, Any], exit_code: int, line: str, repository: Path, command: Command
) -> None:
    behave(repository, **behaviour)
    code, printed, errors = command("regress", *QUICK)
    assert code == exit_code
    assert line in said(printed + errors)


@pytest.mark.slow
def test_losses_that_are_meant_to_differ_are_said_and_not_judged(repository: Path, command: Command) -> None:
    behave(repository, losses=[LOSSES[0], {"loss_d": 0.7310, "loss_g": 0.7}])
    code, printed, _ = command("regress", *QUICK, "--new-losses")
    assert code == 0
    line = (
        "losses differ from step 2: loss_d 0.731 against BASE's 0.6931; they are not judged, as --new-losses says"
    )
    assert line in said(printed)
    assert command("regress", "--replay", "check.json")[0] == 0


@pytest.mark.slow
def test_a_gate_of_a_subject_sees_its_canaries(repository: Path, temporary: Path, command: Command) -> None:
    code, printed, errors = command("regress", *SUBJECT, "--self-test")
    assert code == 0, errors
    assert "the gate sees its canaries" in printed
    assert "+5.0%" in printed
    assert not left_behind(repository, temporary)


@pytest.mark.slow
def test_losses_that_base_does_not_repeat_are_not_judged(repository: Path, command: Command) -> None:
    """Each process of BASE counts how many there were before it."""
    counting = (
        "import random, gc, __main__\n"
        "side = next(o for o in gc.get_objects() if type(o).__name__ == 'Stub')\n"
        "side.losses[0]['loss_d'] = random.random()"
    )
    behave(repository, losses=LOSSES, runs=counting)
    git(repository, "commit", "--quiet", "--all", "--message", "random")
    code, printed, _ = command("regress", *QUICK)
    assert code == 0
    assert "losses are not judged: BASE does not repeat its own, from step 1" in said(printed)


def test_a_case_has_the_settings_of_a_setup() -> None:
    text = "batch_size=8,image_shape=3x64x32,num_classes=10,seed=7,precision=bf16,device=cpu"
    ((name, case),) = parse_subject_cases("train.py:make", [text]).items()
    assert name == "train.py:make-cpu-bf16-eager-b8-p1-3x64x32-10classes-seed7"
    assert Setup(**case.spec.setup) == Setup(
        precision="bf16", batch_size=8, image_shape=(3, 64, 32), num_classes=10, seed=7
    )
    assert case.spec.environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert case.to_json()["image_shape"] == "3x64x32"
    ((name, case),) = parse_subject_cases("train.py:make", ["device=cpu"]).items()
    assert (name, Setup(**case.spec.setup)) == (CASE, Setup())


def test_a_change_in_any_file_counts_and_the_checks_before_do_not(repository: Path, command: Command) -> None:
    for path in ("results/regress/regress-1.json", "check.json"):
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text("{}")
    (repository / ".git" / "info" / "exclude").write_text("check.json\n")
    code, printed, _ = command("regress", *SUBJECT)
    assert code == 0
    revision = git(repository, "rev-parse", "HEAD")[:10]
    assert printed == (
        f"nothing to compare: every file is the same in HEAD ({revision}) and main ({revision}); "
        "--inject 0% measures all the same\n"
    )
    (repository / "settings.yaml").write_text("width: 3")
    code, printed, _ = command("regress", *SUBJECT, "--output", "check.json", "--budget", "0.01s")
    assert code == 3
    assert printed.startswith(f"INCONCLUSIVE: {revision}+ against main ({revision})")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--subject", "core"), "--subject core: must be FILE.py:NAME or package.module:NAME of the repository"),
        (("--subject", "train.py"), "--subject train.py: must be FILE.py:NAME or package.module:NAME"),
        (("--subject", "trian.py:make"), "--subject trian.py:make: there is no file trian.py in "),
        (("--subject", "hidden.py:make"), "--subject hidden.py:make: git ignores hidden.py, so that no revision"),
        (("--subject", "new.py:make"), "--base main: {revision} has no new.py; choose a revision that has it"),
        ((*SUBJECT, "--head", "/"), "git rev-parse in /: not a git repository"),
        ((*SUBJECT, "--dropped", "mlp"), "--dropped mlp: only for recipes; leave it out with --subject"),
        (("--new-losses",), "--new-losses: only with --subject; "),
        ((*SUBJECT, "--output", "train.py"), "--output train.py: the same file is read; name another"),
        ((*SUBJECT, "--case", "mlp"), "--case mlp: setting mlp: unknown; choose one of device, precision"),
        (
            (*SUBJECT, "--case", "batchsize=8"),
            "--case batchsize=8: setting batchsize: unknown; did you mean",
        ),
        ((*SUBJECT, "--case", "workload=epoch"), "--case workload=epoch: a subject has no epochs, only steps"),
        (
            (*SUBJECT, "--case", "image_shape=28"),
            "--case image_shape=28: image_shape 28: must be channels",
        ),
        ((*SUBJECT, "--case", "seed=-1"), "--case seed=-1: seed -1: must be a whole number of at least 0"),
        ((*SUBJECT, "--case", "precision=fp99"), "--case precision=fp99: precision fp99: unknown; "),
        ((*SUBJECT, "--case", "num_processes=999"), "--case num_processes=999: 999 processes, but "),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...], line: str, repository: Path, temporary: Path, command: Command
) -> None:
    (repository / ".gitignore").write_text("hidden.py\n")
    (repository / "hidden.py").touch()
    (repository / "new.py").touch()
    code, printed, errors = command("regress", *arguments)
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {line.format(revision=git(repository, 'rev-parse', 'HEAD')[:10])}"), errors
    assert len(errors.splitlines()) == 1
    assert not left_behind(repository, temporary)


def test_a_base_that_cannot_be_measured_says_what_else_to_compare(repository: Path, command: Command) -> None:
    behave(repository, runs="raise ValueError('no make')")
    commit(repository)
    behave(repository, losses=LOSSES)
    code, _, errors = command("regress", *QUICK, "--budget", "1m")
    assert code == 2
    line = "error: BASE: ValueError: no make; choose another --base, or a --subject that works on both sides"
    assert errors.splitlines()[-1] == line


@pytest.mark.slow
def test_a_file_is_relative_to_the_working_directory_or_to_the_root(
    repository: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "models").mkdir()
    (repository / "models" / "small.py").touch()
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "models")
    monkeypatch.chdir(repository / "models")
    arguments = ("--inject", "0%", "--budget", "1s", "--output", "check.json")
    for name, recorded in (("small.py", "models/small.py"), ("train.py", "train.py")):
        command("regress", "--subject", f"{name}:make", *arguments)
        (case,) = read_record(Path("check.json")).cases.values()
        assert case.axes["subject"] == f"{recorded}:make"


@pytest.mark.parametrize(
    ("runs", "line"),
    [
        ("input()", "HEAD: EOFError: EOF when reading a line; mend it"),
        slow("import sys; sys.exit(3)", "HEAD: it called sys.exit(3); mend it"),
        (
            "import os; print('why'); os.sys.stdout.flush(); os._exit(4)",
            "HEAD: its process ended with exit code 4: why",
        ),
        (
            "import os; os.kill(os.getpid(), 9)",
            "HEAD: its process ended with signal SIGKILL; has the machine run out",
        ),
        slow("1 / 0", "HEAD: ZeroDivisionError: division by zero; mend it"),
        slow("import os; os.close(1); os.chdir('/'); print('x' * 10**5, file=os.sys.stderr)", None),
        ('print(\'{"message": "Done"}\', flush=True)', None),
        slow(
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
            "held = []\n"
            "while True: held.append(bytearray(2**26))",
            "HEAD: MemoryError: ; mend it",
        ),
    ],
    ids=["reads", "exits", "ends", "killed", "raises", "closes and leaves", "prints", "allocates"],
)
def test_whatever_a_subject_does_is_one_line_and_leaves_nothing(
    runs: str, line: str | None, repository: Path, temporary: Path, command: Command
) -> None:
    behave(repository, losses=LOSSES, runs=runs)
    code, _, errors = command("regress", *SUBJECT, "--budget", "0.01s", "--output", "check.json")
    if line:
        assert code == 2
        assert errors.splitlines()[-1].startswith(f"error: {line}"), errors
    else:
        assert code == 3, errors
    assert not left_behind(repository, temporary)


def test_a_subject_that_waits_for_ever_is_ended(
    repository: Path, temporary: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, lambda: temporary.glob("gan-regress-*/head-0.log"))
    behave(repository, losses=LOSSES, runs="import time; print('stalled', flush=True); time.sleep(600)")
    code, _, errors = command("regress", *SUBJECT, "--budget", "1s")
    assert code == 2
    assert errors.splitlines()[-1] == (
        "error: HEAD: no answer for 60 s; all were ended; if it is only slow, raise --budget; if train.py trains "
        "when it is imported, let it do so below: if __name__ == '__main__'"
    )
    assert not left_behind(repository, temporary)


@pytest.mark.slow
def test_a_subject_that_prints_without_end_is_ended(
    repository: Path, temporary: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.turns.ranks.MOST_LOG_BYTES", 2**20)
    monkeypatch.setattr("bench.turns.ranks.LOOK_SECONDS", 0.1)
    behave(repository, losses=LOSSES, runs="import time\nwhile True: print('x' * 10**4); time.sleep(0.001)")
    code, _, errors = command("regress", *SUBJECT)
    assert code == 2
    assert errors.splitlines()[-1] == "error: HEAD: it printed more than 1 MiB; mend it"
    assert not left_behind(repository, temporary)


CHILD = """import os, subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', 'left-behind'] {settings})
os._exit(5)
"""
FORK = """import os, time
if not os.fork():
    time.sleep(600)
os._exit(5)
"""


@pytest.mark.parametrize(
    "runs",
    [slow(CHILD.format(settings="")), CHILD.format(settings=", start_new_session=True"), slow(FORK)],
    ids=["a child", "a session", "a fork"],
)
def test_what_a_subject_starts_ends_with_it(
    runs: str, repository: Path, temporary: Path, command: Command
) -> None:
    """Also if its parent has gone before; a fork keeps the pipe of the answers open."""
    behave(repository, losses=LOSSES, runs=runs)
    code, _, errors = command("regress", *SUBJECT)
    assert code == 2
    assert "HEAD: its process ended with exit code 5" in errors.splitlines()[-1]
    assert not left_behind(repository, temporary)
    until(lambda: not started_in(temporary))


def started_in(temporary: Path) -> list[psutil.Process]:
    """Return the processes that have inherited the environment of a side."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get("TRITON_CACHE_DIR", "").startswith(str(temporary)):
                found.append(process)
        except psutil.Error:
            continue
    return found
