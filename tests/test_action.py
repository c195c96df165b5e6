"""The action with which other repositories check their pull requests: its inputs, its shell, its example."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.documents import programs_of

ACTION = ROOT / ".github" / "actions" / "regress"
EXAMPLE = ROOT / "docs" / "examples" / "gate"
SCRIPTS = (*sorted(ACTION.glob("*.sh")), ROOT / "docs" / "examples" / "pre-push", ROOT / ".ci" / "run")
INPUTS = {
    "SUBJECT": "train.py:make",
    "TOLERANCE": "5%",
    "BUDGET": "20m",
    "INCONCLUSIVE": "pass",
}


def action() -> dict[str, Any]:
    described: dict[str, Any] = yaml.safe_load((ACTION / "action.yml").read_text(encoding="utf-8"))
    return described


def test_every_input_is_used_and_every_variable_of_a_script_is_set() -> None:
    text = (ACTION / "action.yml").read_text(encoding="utf-8")
    described = action()
    assert set(re.findall(r"\binputs\.([\w-]+)", text)) == described["inputs"].keys()
    assert all(entry["description"] for entry in described["inputs"].values())
    assert [name for name, entry in described["inputs"].items() if entry.get("required")] == ["subject"]
    written = set(re.findall(r'echo "([\w-]+)=', (ACTION / "run.sh").read_text(encoding="utf-8")))
    assert written == described["outputs"].keys() == set(re.findall(r"steps\.check\.outputs\.([\w-]+)", text))
    for step in described["runs"]["steps"]:
        if "run" in step:
            assert step["shell"] == "bash"
            script = ACTION / step["run"].strip('"').removeprefix("$GITHUB_ACTION_PATH/")
            assert os.access(script, os.X_OK)
            used = set(re.findall(r"\$\{?([A-Z_]+)", script.read_text(encoding="utf-8")))
            assert {name for name in used if not re.match("GITHUB_|RUNNER_|PIP_", name)} == step["env"].keys()


def test_actions_that_it_uses_are_pinned() -> None:
    used = re.findall(r"uses: (\S+)(.*)", (ACTION / "action.yml").read_text(encoding="utf-8"))
    assert len(used) == 2
    for name, comment in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)
        assert re.fullmatch(r" +# v\d+\.\d+\.\d+", comment)


def test_the_workflow_of_the_example_has_ten_lines_and_uses_this_action() -> None:
    text = (EXAMPLE / ".github" / "workflows" / "regress.yml").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 10
    workflow = yaml.safe_load(text)
    assert workflow[True] == "pull_request"  # YAML 1.1 reads `on` so
    checkout, ours = workflow["jobs"]["regress"]["steps"]
    assert checkout["uses"].startswith("actions/checkout@")
    path, _, revision = ours["uses"].partition("@")
    assert revision
    assert (ROOT / path.split("/", 2)[2] / "action.yml").is_file()
    described = action()["inputs"]
    assert ours["with"].keys() <= described.keys()
    assert {name for name, entry in described.items() if entry.get("required")} <= ours["with"].keys()
    shown = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    assert f"```yaml\n{text}```" in shown


def test_the_document_shows_the_function_of_the_example() -> None:
    (program,) = programs_of(ROOT / "docs" / "gate.md")
    assert program in (EXAMPLE / "train.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_linted(script: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("no shellcheck; CI has it")
    subprocess.run([shellcheck, script], check=True)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits on main and two on a branch; `python` is a stub that notes its arguments."""
    for name, value in (
        ("GIT_CONFIG_GLOBAL", os.devnull),
        *((f"GIT_{who}_{what}", "tester") for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")),
        ("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"),
        ("RUNNER_TEMP", str(tmp_path)),
        ("GITHUB_OUTPUT", str(tmp_path / "output")),
        ("GITHUB_STEP_SUMMARY", str(tmp_path / "summary")),
        ("GITHUB_ACTION_PATH", str(ACTION)),
    ):
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_EVENT_NAME", "GITHUB_BASE_REF", "GITHUB_SHA"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "origin"
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "origin")
    for name in ("1", "2"):
        git(path, "commit", "--quiet", "--allow-empty", "--message", name)
    git(path, "checkout", "--quiet", "-b", "change", "HEAD~1")
    for name in ("change", "change again"):
        git(path, "commit", "--quiet", "--allow-empty", "--message", name)
    git(path, "checkout", "--quiet", "main")
    git(path, "merge", "--quiet", "--no-ff", "--message", "merge", "change")  # as GitHub does for a pull request
    return path


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def stub(tmp_path: Path, code: int = 0, *, writes: bool = True) -> None:
    """Let `python` write what the check writes, and end with a code."""
    text = '#!/bin/sh\nprintf "%s\\n" "$@" > "$RUNNER_TEMP/asked"\necho "why it ended" >&2\n'
    if writes:
        text += (
            'echo "### WORD: head against base" > "$RUNNER_TEMP/regress.md"\ntouch "$RUNNER_TEMP/regress.json"\n'
        )
    path = tmp_path / "bin" / "python"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{text}exit {code}\n")
    path.chmod(0o755)


def shallow_clone(origin: Path, revision: str = "main") -> Path:
    """Clone as `actions/checkout` does: one commit."""
    path = origin.parent / "clone"
    git(origin.parent, "clone", "--quiet", "--depth", "1", "--branch", revision, f"file://{origin}", "clone")
    return path


def run(clone: Path, **inputs: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **INPUTS, **inputs}
    return subprocess.run(
        [str(ACTION / "run.sh")], cwd=clone, env=environment, capture_output=True, text=True, check=False
    )


def asked(tmp_path: Path) -> list[str]:
    return (tmp_path / "asked").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130])
@pytest.mark.parametrize("inconclusive", ["pass", "fail"])
def test_the_verdict_is_the_step_s(code: int, inconclusive: str, origin: Path, tmp_path: Path) -> None:
    stub(tmp_path, code)
    done = run(shallow_clone(origin), BASE="main", INCONCLUSIVE=inconclusive)
    assert done.returncode == (0 if (code, inconclusive) == (3, "pass") else code), done.stderr
    assert (tmp_path / "output").read_text() == f"exit-code={code}\nrecord={tmp_path}/regress.json\n"
    assert (tmp_path / "summary").read_text() == "### WORD: head against base\n"
    line = {1: "::error::WORD: head against base", 2: "::error::why it ended", 3: "::warning::inconclusive"}
    assert line.get(code, "") in done.stdout
    assert "why it ended" in done.stdout


def test_a_refused_check_says_why_in_the_summary(origin: Path, tmp_path: Path) -> None:
    stub(tmp_path, 2, writes=False)
    assert run(shallow_clone(origin), BASE="main").returncode == 2
    assert (tmp_path / "summary").read_text() == "why it ended\n"
    assert (tmp_path / "output").read_text() == "exit-code=2\n"


def test_inputs_become_options(origin: Path, tmp_path: Path) -> None:
    stub(tmp_path)
    clone = shallow_clone(origin)
    cases = "batch_size=32\n\ndevice=cpu,precision=bf16\n"
    run(clone, BASE="main", CASE=cases, ARGUMENTS="--new-losses\n--wide", SUBJECT="a b.py:make")
    base = git(clone, "rev-parse", "HEAD")
    assert asked(tmp_path) == [
        *("-P", "-m", "bench", "regress", "--subject", "a b.py:make", "--base", base),
        *("--tolerance", "5%", "--budget", "20m"),
        *("--output", f"{tmp_path}/regress.json", "--markdown", f"{tmp_path}/regress.md"),
        *("--case", "batch_size=32", "--case", "device=cpu,precision=bf16", "--new-losses", "--wide"),
    ]


def base_of(tmp_path: Path) -> str:
    arguments = asked(tmp_path)
    return arguments[arguments.index("--base") + 1]


@pytest.mark.parametrize(
    ("inputs", "revision"),
    [
        ({"GITHUB_EVENT_NAME": "pull_request", "GITHUB_BASE_REF": "main"}, "main^1"),
        ({"GITHUB_EVENT_NAME": "push", "BEFORE": "main~1"}, "main~1"),
        ({"BASE": "change"}, "change"),
        ({"BASE": "main~1"}, "main~1"),
    ],
    ids=["pull request", "push", "branch", "commit"],
)
def test_a_shallow_clone_fetches_its_base(
    inputs: dict[str, str], revision: str, origin: Path, tmp_path: Path
) -> None:
    stub(tmp_path)
    commit = git(origin, "rev-parse", revision)
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")  # as GitHub's servers do
    clone = shallow_clone(origin)
    named = {name: commit if "~" in value else value for name, value in inputs.items()}
    done = run(clone, **named, GITHUB_SHA=git(clone, "rev-parse", "HEAD"))
    assert done.returncode == 0, done.stderr
    assert base_of(tmp_path) == commit
    assert git(clone, "cat-file", "-t", commit) == "commit"


@pytest.mark.parametrize("is_shallow", [True, False])
def test_the_branch_of_a_pull_request_is_compared_with_what_it_left(
    is_shallow: bool, origin: Path, tmp_path: Path
) -> None:
    """A workflow may check out the branch itself. Its parent is only the commit before its last one."""
    stub(tmp_path)
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")  # as GitHub's servers do
    git(origin, "branch", "target", "main^1")
    clone = shallow_clone(origin, "change")
    if not is_shallow:
        git(clone, "fetch", "--quiet", "--unshallow", "origin", "+refs/heads/*:refs/remotes/origin/*")
    merge = git(origin, "rev-parse", "main")
    done = run(clone, GITHUB_EVENT_NAME="pull_request", GITHUB_BASE_REF="target", GITHUB_SHA=merge)
    assert done.returncode == 0, done.stderr
    assert base_of(tmp_path) == git(origin, "rev-parse", "change~2")


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({"BASE": "nowhere"}, "::error::base: nowhere: no such revision in this repository or its origin; "),
        ({}, "::error::base: give the revision to compare with; this event has none"),
        ({"BEFORE": "0" * 40}, "::error::base: give the revision to compare with; this event has none"),
        ({"BASE": "main", "INCONCLUSIVE": "maybe"}, "::error::inconclusive: maybe: must be pass or fail"),
    ],
)
def test_bad_inputs_are_refused_before_anything_runs(
    inputs: dict[str, str], line: str, origin: Path, tmp_path: Path
) -> None:
    stub(tmp_path)
    done = run(shallow_clone(origin), **inputs)
    assert done.returncode == 2
    assert line in done.stdout + done.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("install", ["", "pip-of-theirs one 'two three'"])
@pytest.mark.parametrize("has_requirements", [True, False])
def test_what_the_repository_needs_is_installed_first(
    install: str, has_requirements: bool, origin: Path, tmp_path: Path
) -> None:
    for name in ("python", "pip-of-theirs"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $# $* $PIP_EXTRA_INDEX_URL" >> "$RUNNER_TEMP/installed"\n')
        path.chmod(0o755)
    if has_requirements:
        (origin / "requirements.txt").touch()
    environment = {**os.environ, "INSTALL": install, "TORCH_INDEX": "https://index"}
    subprocess.run([str(ACTION / "install.sh")], cwd=origin, env=environment, check=True)
    *theirs, ours = (tmp_path / "installed").read_text().splitlines()
    project = f"{ACTION}/../../.."
    assert ours == f"python 4 -m pip install {project} https://index"
    assert (Path(project) / "pyproject.toml").is_file()
    if install:
        assert theirs == ["pip-of-theirs 2 one two three https://index"]
    else:
        requirements = "python 5 -m pip install --requirement requirements.txt https://index"
        assert theirs == ([requirements] if has_requirements else [])


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.nightly
def test_the_action_checks_the_example(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its repository with a pull request that changes the loss, in a shallow clone; this takes some pairs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    shutil.copytree(EXAMPLE, origin, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "--message", "tinygan")
    losses = origin / "tinygan" / "losses.py"
    losses.write_text(losses.read_text().replace("softplus(-real).mean()", "0.9 * softplus(-real).mean()"))
    git(origin, "commit", "--quiet", "--all", "--message", "another loss")
    git(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    base = git(origin, "rev-parse", "HEAD~1")
    done = run(shallow_clone(origin), BASE=base, BUDGET="75s", CASE="batch_size=8")
    summary = (tmp_path / "summary").read_text()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "losses differ from step 1: loss_d" in summary
    assert summary.startswith("### REGRESSION: ")
    assert (tmp_path / "regress.json").is_file()
