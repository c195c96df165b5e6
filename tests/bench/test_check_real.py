"""Regression checks in processes of their own: measured, refused, interrupted, killed."""

import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.regress.record import figures, read_record, verdict_of
from tests.conftest import ROOT, run_script

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]
QUICK = ("--case", "mlp-compact,batch_size=4", "--quads", "12", "--no-semantics")


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.com")
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one commit that holds this tree's code."""
    path = tmp_path / "repository"
    path.mkdir()
    for name in ("gan", "bench"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    git(path, "init", "--quiet", "--initial-branch", "main")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message", "all")
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where checks lay out their trees."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return path


def check(repository: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_script("-m", "bench", "regress", *arguments, cwd=repository)


def workers(temporary: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "bench.regress.side" in process.cmdline() and str(temporary) in process.environ().get(
                "PYTHONPATH", ""
            ):
                found.append(process.pid)
    return found


def left_behind(repository: Path, temporary: Path) -> list[object]:
    worktrees = git(repository, "worktree", "list", "--porcelain").split("\n\n")[1:]
    return [*filter(None, worktrees), *temporary.glob("gan-regress-*"), *workers(temporary)]


def test_a_pair_is_measured_judged_and_replayed(
    repository: Path, temporary: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Each side runs its own core: HEAD's takes each step twice and longer to import, and is not committed."""
    loop = repository / "gan" / "loop.py"
    once = "    state.record(train_step(state, inputs), num_images)"
    text = loop.read_text().replace(once, f"    train_step(state, inputs)\n{once}")
    assert text != loop.read_text()
    loop.write_text(text + "\nimport time\ntime.sleep(3)\n")
    path, summary = tmp_path / "check.json", tmp_path / "check.md"
    written = ("--output", path, "--markdown", summary)
    done = check(repository, *QUICK, "--pairs", "1", "--inject", "5%", *written)
    assert done.returncode == 3, done.stderr
    assert not left_behind(repository, temporary)
    record = read_record(path)
    assert record["revisions"]["head"] == record["revisions"]["base"] + "+"
    (pair,) = record["pairs"]
    (case,) = pair["cases"].values()
    assert len(case["orders"]) == 12
    assert len(case["windows"]["base"]) == len(case["windows"]["head"]) == 24
    assert case["configuration"]["base"] == case["configuration"]["head"]
    assert case["injected"]["head"]["products"] > 1
    assert all(len(figure.values) == 1 for figure in figures(record))
    assert 0.3 < figures(record)[0].values[0] < 1.1  # ln 2.1 is 0.74, and what was injected 0.05 of it
    assert 2 < pair["startup_seconds"]["head"] - pair["startup_seconds"]["base"] < 4.5
    code, again, _ = command("regress", "--replay", path)
    assert code == 3
    assert again.split("\n")[:8] == done.stdout.split("\n")[:8]
    assert record["verdict"] == verdict_of(record).to_json()
    assert summary.read_text().startswith("### INCONCLUSIVE: ")


TWO = ("--case", "mlp-compact,batch_size=4,num_processes=2", "--quads", "12", "--pairs", "1")


def test_a_pair_of_several_processes_counts_the_slowest_rank(
    repository: Path, temporary: Path, tmp_path: Path
) -> None:
    """HEAD's rank 1 alone computes long in each step, between the collectives that both take part in."""
    loop = repository / "gan" / "loop.py"
    slow = """    import os, time
    if os.environ["RANK"] == "1":
        ends = time.perf_counter() + 0.05
        while time.perf_counter() < ends:
            pass
    state.record("""
    text = loop.read_text().replace("    state.record(", slow, 1)
    assert slow in text
    loop.write_text(text)
    path = tmp_path / "check.json"
    done = check(repository, *TWO, "--output", path)
    assert done.returncode == 3, done.stderr
    assert not left_behind(repository, temporary)
    record = read_record(path)
    (pair,) = record["pairs"]
    (case,) = pair["cases"].values()
    assert case["configuration"]["head"]["processes"] == 2
    assert case["configuration"]["head"]["batch_size"] == 8
    assert min(case["windows"]["head"]) > 0.05 * case["steps_per_window"]["head"]
    assert statistics.median(case["windows"]["base"]) < 0.05 * case["steps_per_window"]["base"]
    (checks,) = record["semantics"].values()
    assert all(check["passed"] for check in checks)


def test_a_rank_that_dies_ends_the_check(repository: Path, temporary: Path) -> None:
    loop = repository / "gan" / "loop.py"
    fault = "    import os\n    os.environ['RANK'] == '1' and os._exit(7)\n    state.record("
    text = loop.read_text().replace("    state.record(", fault, 1)
    assert fault in text
    loop.write_text(text)
    done = check(repository, *TWO, "--no-semantics")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: HEAD: rank 1: its process ended with code 7"), (
        done.stderr
    )
    assert not left_behind(repository, temporary)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--base", "nowhere"), "error: --base nowhere: no such revision in"),
        (("--head", "/"), "error: git rev-parse in /: not a git repository"),
        (("--case", "mpl"), "error: --case mpl: unknown; did you mean mlp? choose one of"),
        (("--tolerance", "0%"), "error: --tolerance 0%: must be more than 1% and less than 100%"),
        (("--replay", "nothing.json"), "error: nothing.json: not found"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: tuple[str, ...],
    line: str,
    repository: Path,
    temporary: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    code, _, printed = command("regress", *arguments)
    assert code == 2
    assert printed.splitlines()[-1].startswith(line), printed
    assert "Traceback" not in printed
    assert not left_behind(repository, temporary)


def test_a_base_that_does_not_import_or_lacks_what_is_needed_is_refused(repository: Path, temporary: Path) -> None:
    loop = repository / "gan" / "loop.py"
    whole = loop.read_text()
    for fault, line in (
        (
            "import no_such_module\n" + whole,
            "error: BASE: ModuleNotFoundError: No module named 'no_such_module'; ",
        ),
        (
            whole.replace("def take_step(", "def take_a_step("),
            "error: BASE: AttributeError: module 'gan.loop' has no ",
        ),
    ):
        loop.write_text(fault)
        git(repository, "commit", "--quiet", "--all", "--message", "broken")
        loop.write_text(whole)
        done = check(repository, *QUICK, "--pairs", "1")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(line), done.stderr
        assert not left_behind(repository, temporary)


def test_a_recipe_that_disappeared_is_no_pass(repository: Path, temporary: Path, tmp_path: Path) -> None:
    recipes = repository / "gan" / "recipes.py"
    recipes.write_text(recipes.read_text() + '\ndel RECIPES["mlp-dropout"], RECIPES["wgan"]\n')
    output = ("--dropped", "wgan", "--output", tmp_path / "check.json")
    done = check(repository, *QUICK, "--case", "mlp-dropout", "--pairs", "1", *output)
    assert done.returncode == 2, done.stderr
    assert "a benchmark disappeared: HEAD has no recipe for mlp-dropout" in done.stdout
    assert "HEAD has no recipe mlp-dropout any more; if that is meant, say --dropped mlp-dropout" in done.stdout
    assert "wgan" not in done.stdout


@contextlib.contextmanager
def running(repository: Path, temporary: Path) -> Iterator["subprocess.Popen[str]"]:
    """A check whose workers have begun."""
    command = [sys.executable, "-m", "bench", "regress", *QUICK, "--pairs", "50"]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        until(lambda: len(workers(temporary)) == 2)
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_check_leaves_nothing(number: int, code: int, repository: Path, temporary: Path) -> None:
    with running(repository, temporary) as process:
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert printed.splitlines()[-1] in ("interrupted", "terminated; nothing was written")
    assert not left_behind(repository, temporary)
    assert not list(repository.glob("results/**/*.json"))


def test_a_killed_check_leaves_no_process_and_the_next_one_tidies_up(repository: Path, temporary: Path) -> None:
    with running(repository, temporary) as process:
        process.kill()
        process.wait()
        until(lambda: not workers(temporary), 20)
        assert left_behind(repository, temporary)
        assert check(repository, "--case", "mpl").returncode == 2
    assert not left_behind(repository, temporary)
