"""What runs on GitHub and before a commit: pinned actions, the shell of the regression check, the hooks."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MARK = "<!-- regression check -->"


def steps(name: str) -> list[dict[str, Any]]:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def run_step(name: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the regression check as GitHub does, with what is in `cwd` for commands first."""
    (step,) = (step for step in steps("regress.yml") if step.get("name", "").startswith(name))
    return subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=cwd,
        env={"PATH": f"{cwd}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def command(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_leave_no_credentials(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" +# v\d+\.\d+\.\d+", comment)
    checkouts = [step for step in steps(path.name) if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False]


def test_the_module_that_the_hook_looks_for_exists() -> None:
    """Without it the hook would let every push pass."""
    (name,) = re.findall(r"import ([\w.]+)", (ROOT / "docs" / "examples" / "pre-push").read_text(encoding="utf-8"))
    assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("code", [0, 1, 2, 3])
@pytest.mark.parametrize("writes_markdown", [True, False])
def test_the_verdict_of_the_check_is_the_job_s(code: int, writes_markdown: bool, tmp_path: Path) -> None:
    report = "echo '# verdict' > regress.md" if writes_markdown else ":"
    command(tmp_path / "python", f"{report}\necho early >&2\necho 'why it ended' >&2\nexit {code}\n")
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    done = run_step("Compare", tmp_path, **files)
    assert done.returncode == 0, done.stderr
    assert "why it ended" in done.stdout
    said = "# verdict\n" if writes_markdown else "why it ended\n"
    assert (tmp_path / "regress.md").read_text() == (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == said
    (_, seen) = (tmp_path / "GITHUB_OUTPUT").read_text().strip().split("=")
    verdict = run_step("Verdict", tmp_path, CODE=seen)
    assert verdict.returncode == (0 if code == 3 else code)
    assert ("::warning::inconclusive" in verdict.stdout) is (code == 3)


@pytest.mark.parametrize("existing", ["", "41", "41\n77"])
def test_a_comment_edits_the_last_one_of_its_own(existing: str, tmp_path: Path) -> None:
    (tmp_path / "regress.md").write_text("PASS\n")
    command(
        tmp_path / "gh", f"printf '%s\\n' \"$*\" >> calls\n[ \"$2\" = --silent ] || printf '%s' '{existing}'\n"
    )
    done = run_step("Comment", tmp_path, GITHUB_REPOSITORY="o/r", NUMBER="7")
    assert done.returncode == 0, done.stderr
    asked, written = (tmp_path / "calls").read_text().splitlines()
    assert asked.startswith("api --paginate repos/o/r/issues/7/comments --jq ")
    assert f'(.body | startswith("{MARK}"))' in asked
    assert 'select(.user.login == "github-actions[bot]" and' in asked
    where = (
        f"PATCH repos/o/r/issues/comments/{existing.split()[-1]}"
        if existing
        else ("POST repos/o/r/issues/7/comments")
    )
    assert written == f"api --silent --method {where} --field body=@comment.md"
    assert (tmp_path / "comment.md").read_text() == f"{MARK}\nPASS\n"


def test_the_oldest_python_that_is_promised_and_the_newest_are_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert f'requires-python = ">={versions[0]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert versions[-1] == "3.14"


def test_the_hooks_for_text_pass_on_every_file_of_the_repository() -> None:
    """Those that search files by a pattern, as pre-commit does; the others are run by CI."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"] if hook["language"] == "pygrep"]
    assert len(hooks) == 2
    for hook in hooks:
        whole = "--multiline" in hook.get("args", ())
        pattern = re.compile(hook["entry"].encode(), re.MULTILINE | re.DOTALL if whole else 0)
        for name in listed.stdout.split("\0")[:-1]:
            path = ROOT / name
            if re.search(hook.get("exclude", "^$"), name) or not path.is_file():
                continue
            data = path.read_bytes()
            if b"\0" not in data:
                parts = [data] if whole else data.splitlines()
                assert not any(pattern.search(part) for part in parts), f"{name}: {hook['name']}"
