"""The pre-push hook of docs/examples, in real pushes; `python` is a stub that notes its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with the hook, whose main is one commit ahead."""
    for name, value in (
        ("GIT_CONFIG_GLOBAL", os.devnull),
        *((f"GIT_{who}_{what}", "tester") for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")),
        ("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"),
        ("CODE", "0"),
        ("ASKED", str(tmp_path / "asked")),
    ):
        monkeypatch.setenv(name, value)
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\ncat >> "$ASKED"; echo "$*" >> "$ASKED"; exit "$CODE"\n')
    stub.chmod(0o755)
    path = tmp_path / "clone"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch", "main", "origin")
    git(tmp_path, "clone", "--quiet", "origin", "clone")
    git(path, "checkout", "--quiet", "-b", "main")
    git(path, "commit", "--quiet", "--allow-empty", "--message", "1")
    git(path, "push", "--quiet", "--set-upstream", "origin", "main")
    hook = path / ".git" / "hooks" / "pre-push"
    shutil.copy(ROOT / "docs" / "examples" / "pre-push", hook)  # as `cp` does: git runs only what is executable
    git(path, "commit", "--quiet", "--allow-empty", "--message", "2")
    return path


def git(repository: Path, *arguments: str, code: int = 0) -> str:
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout.strip() + done.stderr.strip()


def asked(tmp_path: Path) -> list[str]:
    """Return the bases of the checks that the hook has started."""
    path = tmp_path / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    before, after = "-m bench regress --base ", " --case quickstart --budget 4m"
    assert all(line.startswith(before) and line.endswith(after) for line in lines), lines
    return [line.removeprefix(before).removesuffix(after) for line in lines]


def test_a_push_is_compared_with_what_the_remote_has(clone: Path, tmp_path: Path) -> None:
    before = git(clone, "rev-parse", "HEAD~1")
    git(clone, "push", "--quiet")
    assert asked(tmp_path) == [before]


@pytest.mark.parametrize(("code", "ends"), [("0", 0), ("1", 1), ("2", 0), ("3", 0)])
def test_only_a_regression_stops_a_push(
    code: str, ends: int, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE", code)
    printed = git(clone, "push", "--quiet", code=ends)
    assert ("pre-push: slower than" in printed) == bool(ends)
    assert (git(tmp_path / "origin", "rev-parse", "main") == git(clone, "rev-parse", "HEAD")) == (not ends)


def test_new_branches_are_compared_with_the_remote_s_main(clone: Path, tmp_path: Path) -> None:
    base = git(clone, "rev-parse", "origin/main")
    git(clone, "checkout", "--quiet", "-b", "new")
    git(clone, "push", "--quiet", "origin", "new")
    assert asked(tmp_path) == [base]
    git(clone, "commit", "--quiet", "--allow-empty", "--message", "3")
    git(clone, "push", "--quiet", "origin", "new")  # which is new no more
    assert asked(tmp_path) == [git(clone, "rev-parse", "HEAD~1")]
    git(clone, "push", "--quiet", str(tmp_path / "origin"), "new:newer")  # a remote without a name
    assert asked(tmp_path) == []


def test_what_has_no_files_here_is_not_checked(clone: Path, tmp_path: Path) -> None:
    git(clone, "branch", "other")
    git(clone, "push", "--quiet", "--no-verify", "origin", "other")
    git(clone, "tag", "v1")
    git(clone, "push", "--quiet", "origin", "v1")
    git(clone, "push", "--quiet", "origin", ":v1")
    git(clone, "push", "--quiet", "origin", "--delete", "other")
    git(clone, "push", "--quiet", "origin", "HEAD~1:refs/heads/older")
    assert asked(tmp_path) == []


def test_of_several_refs_the_one_that_is_checked_out_is_checked_once(clone: Path, tmp_path: Path) -> None:
    base = git(clone, "rev-parse", "origin/main")
    git(clone, "branch", "older", "HEAD~1")
    git(clone, "tag", "v1")
    git(clone, "push", "--quiet", "origin", "older", "v1", "main", "HEAD:refs/heads/again")
    assert asked(tmp_path) == [base]


def test_without_the_environment_nothing_stops_a_push(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    git(clone, "push", "--quiet")
