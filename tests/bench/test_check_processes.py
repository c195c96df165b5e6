"""Regression checks whose sides are processes that measure nothing: judged, refused, interrupted, killed."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.regress.record import read_record
from tests.bench.check_processes import commit, forked, git, hurry, left_behind, side_processes, until
from tests.conftest import ROOT

pytestmark = pytest.mark.multiprocess
STUB = (sys.executable, str(ROOT / "tests" / "bench" / "stub_side.py"))
CASE = ("--case", "mlp-compact,batch_size=4", "--no-semantics")
TWO_RANKS = ("--case", "mlp-compact,batch_size=4,num_processes=2", "--no-semantics")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repository(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit whose `gan` is a stub; checks are made in it, and their sides are stubs."""
    path = tmp_path / "repository"
    shutil.copytree(ROOT / "bench", path / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    (path / "gan").mkdir()
    (path / "gan" / "__init__.py").touch()
    behave(path)
    commit(path)
    monkeypatch.chdir(path)
    monkeypatch.setattr("bench.turns.ranks.SIDE_PROCESS", STUB)
    monkeypatch.setattr("bench.runner.leftovers.MODULES", ("stub_side.py",))  # as it knows the real sides
    return path


def behave(repository: Path, **behaviour: Any) -> None:
    """Let the working tree's stub behave so, as `Stub` describes it."""
    (repository / "gan" / "stub.json").write_text(json.dumps(behaviour))


@pytest.mark.parametrize(
    ("step_seconds", "exit_code", "word", "num_pairs"),
    [
        (0.004, 0, "PASS", 6),
        (0.0042, 1, "REGRESSION", 12),
        pytest.param(0.0038, 0, "FASTER", 6, marks=[pytest.mark.slow, pytest.mark.nightly]),
    ],
)
def test_a_check_ends_with_its_verdict(
    step_seconds: float,
    exit_code: int,
    word: str,
    num_pairs: int,
    repository: Path,
    temporary: Path,
    command: Command,
) -> None:
    behave(repository, step_seconds=step_seconds)
    code, printed, _ = command("regress", *CASE, "--inject", "0%", "--output", "check.json")
    record = read_record(Path("check.json"))
    assert (code, printed.split(":")[0].strip(), len(record.pairs)) == (exit_code, word, num_pairs)
    assert all(sorted(pair.started) == ["base", "head"] for pair in record.pairs)
    assert not left_behind(repository, temporary)


def test_a_rank_that_dies_ends_the_check(repository: Path, temporary: Path, command: Command) -> None:
    behave(repository, fails_at="TakeWindow", rank=1, exits=7)
    code, _, errors = command("regress", *TWO_RANKS)
    assert code == 2
    assert errors.splitlines()[-1] == (
        "error: HEAD: rank 1: its process ended with exit code 7; mend it, or choose another --case"
    )
    assert not left_behind(repository, temporary)


def test_a_rank_that_stalls_ends_the_check(
    repository: Path, temporary: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, lambda: temporary.glob("gan-regress-*/head-1.log"))
    monkeypatch.setattr("bench.runner.leftovers.MODULES", ())  # which would end it, too, as the trees are removed
    behave(repository, fails_at="Prepare", rank=1)
    code, _, errors = command("regress", *TWO_RANKS)
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: HEAD: rank 1: no answer for 600 s; all were ended")
    assert not left_behind(repository, temporary)


def test_a_base_that_does_not_import_is_refused(repository: Path, temporary: Path, command: Command) -> None:
    module = repository / "gan" / "__init__.py"
    module.write_text("import no_such_module\n")
    git(repository, "commit", "--quiet", "--all", "--message", "broken")
    module.write_text("")
    code, _, errors = command("regress", *CASE)
    assert code == 2
    assert errors.splitlines()[-1] == (
        "error: BASE: ModuleNotFoundError: No module named 'no_such_module'; choose another --base"
    )
    assert not left_behind(repository, temporary)


def test_a_recipe_that_disappeared_is_no_pass(repository: Path, command: Command) -> None:
    behave(repository, recipes=["mlp-compact"])
    output = ("--dropped", "wgan", "--output", "check.json")
    code, printed, errors = command("regress", *CASE, "--case", "mlp-dropout", "--budget", "1s", *output)
    assert code == 2, errors
    printed = " ".join(printed.split())
    assert "a benchmark disappeared: HEAD has no recipe for mlp-dropout" in printed
    assert "HEAD has no recipe mlp-dropout any more; if that is meant, say --dropped mlp-dropout" in printed
    assert "wgan" not in printed


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--base", "nowhere"), "error: --base nowhere: no such revision in"),
        (("--head", "/"), "error: git rev-parse in /: not a git repository"),
        (("--case", "mpl"), "error: --case mpl: unknown; did you mean mlp? choose one of"),
        (
            ("--case", "wgan-small"),
            "error: --case wgan-small: no recipe, but what benchmarks call wgan with small networks",
        ),
        (("--tolerance", "0%"), "error: --tolerance 0%: must be more than 1% and less than 100%"),
        (("--replay", "nothing.json"), "error: nothing.json: not found"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...], line: str, repository: Path, temporary: Path, command: Command
) -> None:
    code, _, printed = command("regress", *arguments)
    assert code == 2
    assert printed.splitlines()[-1].startswith(line), printed
    assert "Traceback" not in printed
    assert not left_behind(repository, temporary)


@contextmanager
def running(repository: Path, temporary: Path, log: Path) -> Iterator[Any]:
    """A check in a fork of this process, which has imported PyTorch; HEAD's side has stalled."""
    behave(repository, fails_at="TakeWindow")
    with forked(["regress", *CASE], log, lambda: temporary.glob("gan-regress-*/head-0.log")) as process:
        assert len(side_processes(temporary)) == 2
        yield process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_check_leaves_nothing(
    number: int, code: int, repository: Path, temporary: Path, tmp_path: Path
) -> None:
    with running(repository, temporary, tmp_path / "log") as process:
        os.kill(process.pid, number)
        process.join(200)
        assert process.exitcode == code
    said = (tmp_path / "log").read_text().splitlines()[-1]
    assert said in ("interrupted", "terminated; nothing was written")
    assert not left_behind(repository, temporary)
    assert not list(repository.glob("results/**/*.json"))


def test_a_killed_check_leaves_no_process_and_the_next_one_tidies_up(
    repository: Path, temporary: Path, tmp_path: Path, command: Command
) -> None:
    with running(repository, temporary, tmp_path / "log") as process:
        process.kill()
        process.join()
        until(lambda: not side_processes(temporary))
        assert left_behind(repository, temporary)
        assert command("regress", "--case", "mpl")[0] == 2
    assert not left_behind(repository, temporary)
