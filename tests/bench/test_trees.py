"""BASE and HEAD laid out side by side: alike, and with nothing of the user's touched."""

import contextlib
import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.regress.sides import Both
from bench.regress.trees import TREES_PREFIX, Trees, alike, two_trees
from bench.runner.leftovers import LOCK_NAME, prune
from bench.turns.serve import RefusedError
from bench.turns.side import surface_of
from gan.errors import UsageError
from gan.files.environment import describe_environment
from gan.files.locks import DirectoryLock
from gan.files.repository import git as run_git
from tests.conftest import ROOT

LATIN_1 = os.fsdecode(b"caf\xe9.txt")


def git(repository: Path, *arguments: str, **variables: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits, `1` and `2` in gan/step.py."""
    for name, value in (
        ("GIT_CONFIG_GLOBAL", os.devnull),
        *((f"GIT_{who}_{what}", "tester") for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")),
    ):
        monkeypatch.setenv(name, value)
    path = tmp_path / "repository"
    for name, text in (
        ("gan/step.py", "1"),
        ("bench/runner/worker.py", "1"),
        ("README.md", "1"),
        (".gitignore", "runs/"),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{text}\n")
    git(path, "init", "--quiet", "--initial-branch", "main")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message", "1")
    (path / "gan" / "step.py").write_text("2\n")
    git(path, "commit", "--quiet", "--all", "--message", "2")
    return path


def everything(*roots: Path) -> dict[Path, object]:
    """Return the bytes, link or mode of all below, which includes .git."""
    return {
        path: path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else path.stat().st_mode
        for root in roots
        for path in root.rglob("*")
    }


def files(tree: Path) -> dict[str, object]:
    """Return what a tree holds by name, without .git."""
    found = {str(path.relative_to(tree)): content for path, content in everything(tree).items()}
    return {name: content for name, content in found.items() if name.split("/")[0] != ".git"}


@contextlib.contextmanager
def laid_out(head: Path, base: str | None = "HEAD") -> Iterator[SimpleNamespace]:
    with two_trees(head, base) as trees:
        yield SimpleNamespace(
            base=files(trees.tree("base")), head=files(trees.tree("head")), revisions=trees.revisions
        )
    assert not trees.root.exists()


def test_base_is_the_revision_and_head_the_files_as_they_are(repository: Path) -> None:
    (repository / "gan" / "step.py").write_text("3\n")
    (repository / "README.md").unlink()
    (repository / "new.sh").write_text("new")
    (repository / "new.sh").chmod(0o755)
    (repository / "runs").mkdir()
    (repository / "runs" / "ignored").touch()
    before = everything(repository)
    with two_trees(repository / "gan", "HEAD~1") as trees:
        base, head = files(trees.tree("base")), files(trees.tree("head"))
        assert os.access(trees.tree("head") / "new.sh", os.X_OK)
        assert (trees.code / "bench" / "runner" / "worker.py").exists()
    assert base["gan/step.py"] == b"1\n"
    assert head["gan/step.py"] == b"3\n"
    assert set(base) - set(head) == {"README.md"}
    assert set(head) - set(base) == {"new.sh"}
    assert trees.revisions == Both(
        git(repository, "rev-parse", "HEAD~1").strip(), git(repository, "rev-parse", "HEAD").strip() + "+"
    )
    assert everything(repository) == before


def test_links_submodules_and_odd_names_are_laid_out_alike(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(repository), "other")
    allowed = ("-c", "protocol.file.allow=always")
    git(repository, *allowed, "submodule", "add", "--quiet", str(tmp_path / "other"), "parts")
    (repository / "data").symlink_to("gan")
    (repository / "dangling").symlink_to("nowhere")
    (repository / "link.py").symlink_to("gan/step.py")
    (repository / LATIN_1).write_text("x")
    (repository / "new\nline ä \t").write_text("x")
    (repository / "-rf").write_text("x")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "odd")
    git(repository, "config", "submodule.recurse", "true")
    before = everything(repository)
    with laid_out(repository) as trees:
        assert trees.head == trees.base
        assert {LATIN_1, "new\nline ä \t", "-rf", "parts", "data", "dangling", "link.py"} <= set(trees.head)
        assert trees.head["data"] == Path("gan")
        assert "parts/README.md" not in trees.head
    assert everything(repository) == before


def test_nothing_is_read_or_written_through_a_link_in_the_place_of_a_directory(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "data").mkdir()
    (repository / "data" / "x").write_text("in the repository")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "data")
    (repository / "data").rename(tmp_path / "elsewhere")
    (repository / "data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "x").write_text("elsewhere")
    with laid_out(repository) as trees:
        assert trees.head["data"] == tmp_path / "elsewhere"
        assert trees.base["data/x"] == b"in the repository"
    assert (tmp_path / "elsewhere" / "x").read_text() == "elsewhere"


def test_a_nested_repository_and_the_temporary_directory_are_no_files_of_head(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "clone", "--quiet", ".", "nested")
    (repository / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(repository / "tmp"))
    with two_trees(repository, "HEAD"), laid_out(repository) as trees:
        assert set(trees.head) == set(trees.base)


HOOK = f"""#!/bin/sh
exec >> "$LOG" 2>&1
{shlex.quote(sys.executable)} - <<'END' || echo failed
from pathlib import Path
from bench.regress.trees import two_trees
with two_trees(Path(), "start") as trees:
    print(*((trees.tree(side) / "gan" / "step.py").read_text().strip() for side in ("base", "head")))
END
"""
EDIT = "echo 3 > gan/step.py"


@pytest.mark.parametrize(
    ("hook", "script"),
    [
        ("pre-commit", f"{EDIT}; git commit -qam edit"),
        ("pre-commit", f"{EDIT}; git add gan; echo later >> README.md; git commit -qm edit; git checkout -q ."),
        ("pre-commit", f"{EDIT}; git commit -qm edit gan/step.py"),
        ("pre-commit", f"git worktree add -q ../linked; cd ../linked; {EDIT}; git commit -qam edit"),
        ("post-commit", f"{EDIT}; git commit -qam edit"),
        ("pre-push", f"{EDIT}; git commit -qam edit; git init -q --bare ../bare; git push -q ../bare main"),
        ("", f'{EDIT}; git commit -qam edit; git rebase -q HEAD~1 -x "sh .git/hooks/none"'),
    ],
    ids=["commit -a", "add, commit", "commit of paths", "linked worktree", "post-commit", "pre-push", "rebase -x"],
)  # fmt: skip
def test_in_a_hook_the_user_s_commit_is_what_the_user_made(
    hook: str, script: str, repository: Path, tmp_path: Path
) -> None:
    git(repository, "tag", "start", "HEAD~1")
    path = repository / ".git" / "hooks" / (hook or "none")
    path.write_text(HOOK)
    path.chmod(0o755)
    log = tmp_path / "log"
    env = {**os.environ, "LOG": str(log), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=repository, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "1 3\n"
    tree = tmp_path / "linked" if "linked" in script else repository
    assert git(tree, "show", "--numstat", "--format=") == "1\t1\tgan/step.py\n"
    assert git(tree, "status", "--porcelain") == ""
    assert git(tree, "show", "HEAD:gan/step.py") == (tree / "gan" / "step.py").read_text() == "3\n"
    assert len(git(repository, "worktree", "list").splitlines()) == 1 + ("linked" in script)


def test_no_variable_of_another_repository_reaches_git(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    for name, value in (
        ("GIT_DIR", other / ".git"),
        ("GIT_WORK_TREE", other),
        ("GIT_INDEX_FILE", other / "index"),
        ("GIT_OBJECT_DIRECTORY", other / "objects"),
        ("GIT_COMMON_DIR", other / ".git"),
        ("GIT_PREFIX", "gan/"),
        ("GIT_CONFIG_PARAMETERS", f"'core.worktree'='{other}'"),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "core.worktree"),
        ("GIT_CONFIG_VALUE_0", other),
    ):
        monkeypatch.setenv(name, str(value))
    before = everything(repository, other)
    with laid_out(repository, "HEAD~1") as trees:
        assert (trees.base["gan/step.py"], trees.head["gan/step.py"]) == (b"1\n", b"2\n")
    assert everything(repository, other) == before


@pytest.mark.multiprocess
@pytest.mark.slow
def test_these_tests_run_in_a_hook_too(repository: Path, tmp_path: Path) -> None:
    before = everything(repository)
    variables = {
        "GIT_DIR": str(repository / ".git"),
        "GIT_WORK_TREE": str(repository),
        "GIT_INDEX_FILE": str(repository / ".git" / "index"),
        "PYTHONPATH": str(ROOT),
    }
    test = f"{Path(__file__)}::{test_base_is_the_revision_and_head_the_files_as_they_are.__name__}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", test]
    env = {**os.environ, **variables}
    done = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert everything(repository) == before


def test_no_hook_of_the_user_s_runs_and_no_setting_leaves_a_trace(repository: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "fsmonitor"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\nexit 1\n")
        (hooks / name).chmod(0o755)
    for name, value in (
        ("core.hooksPath", str(hooks)),
        ("core.fsmonitor", str(hooks / "fsmonitor")),
        ("core.splitIndex", "true"),
        ("core.untrackedCache", "true"),
        ("status.showUntrackedFiles", "no"),
        ("gc.auto", "1"),
    ):
        git(repository, "config", name, value)
    (repository / "gan" / "step.py").touch()  # git status would refresh the index
    before = everything(repository)
    with laid_out(repository) as trees:
        assert trees.head == trees.base
    assert everything(repository) == before
    assert not ran.exists()


def test_a_run_records_the_revision_of_its_own_code_only(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packages may lie, as files that git ignores, in somebody's repository."""
    monkeypatch.setattr("gan.files.environment.__file__", str(repository / "gan" / "files" / "environment.py"))
    (repository / "gan" / "__init__.py").touch()
    assert describe_environment()["git"] is None
    git(repository, "add", "gan")
    before = everything(repository)
    assert describe_environment()["git"] == {
        "revision": git(repository, "rev-parse", "HEAD").strip(),
        "dirty": True,
    }
    assert everything(repository) == before


def test_line_ends_and_filters_are_a_checkout_s(repository: Path) -> None:
    git(repository, "config", "core.autocrlf", "true")
    git(repository, "config", "filter.shout.smudge", "tr a-z A-Z")
    git(repository, "config", "filter.shout.clean", "tr A-Z a-z")
    (repository / ".gitattributes").write_text("*.txt filter=shout\n")
    (repository / "loud.txt").write_text("LOUD\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "filters")
    for path in repository.glob("*/*.py"):
        path.unlink()
    git(repository, "checkout", ".")
    with laid_out(repository) as trees:
        assert trees.base["gan/step.py"] == trees.head["gan/step.py"] == b"2\r\n"
        assert trees.base["loud.txt"] == b"LOUD\r\n"


def test_a_sparse_checkout_is_sparse_on_both_sides(repository: Path) -> None:
    (repository / "docs").mkdir()
    (repository / "docs" / "x").touch()
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "docs")
    git(repository, "sparse-checkout", "set", "gan", "bench")
    git(repository, "update-index", "--skip-worktree", "gan/step.py")
    (repository / "gan" / "step.py").write_text("3\n")
    before = everything(repository)
    with laid_out(repository) as trees:
        assert not (repository / "docs").exists()
        assert set(trees.head) == set(trees.base)
        assert "docs/x" not in trees.base
        assert trees.head["gan/step.py"] == b"3\n"
    assert everything(repository) == before


@pytest.mark.parametrize("how", [("--shared",), ("--depth", "1"), ()], ids=["alternates", "shallow", "plain"])
def test_clones_of_all_kinds(how: tuple[str, ...], repository: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", *how, f"file://{repository}" if how else str(repository), "clone")
    before = everything(tmp_path / "clone")
    with laid_out(tmp_path / "clone") as trees:
        assert trees.head == trees.base
    if "--depth" in how:
        with pytest.raises(UsageError, match=r"--base HEAD~1: no such revision .*git fetch --unshallow"):
            two_trees(tmp_path / "clone", "HEAD~1").__enter__()
    assert everything(tmp_path / "clone") == before


def test_git_s_whole_complaint_is_said_in_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"git rev-parse in .*: not a git repository \(or any"):
        two_trees(tmp_path, "HEAD").__enter__()
    git(tmp_path, "init", "--quiet", "empty")
    with pytest.raises(UsageError, match=r"empty: Needed a single revision"):
        two_trees(tmp_path / "empty", "HEAD").__enter__()
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
    with pytest.raises(UsageError, match="must be run in a work tree"):
        two_trees(tmp_path / "bare", "HEAD").__enter__()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UsageError) as caught:
        two_trees(repository, "HEAD").__enter__()
    assert str(caught.value) == (
        f"git rev-parse in {repository}: detected dubious ownership in repository at '{repository}'; "
        f"To add an exception for this directory, call: git config --global --add safe.directory {repository}"
    )
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="git: not found"):
        run_git(repository, "status")


def test_a_long_complaint_keeps_its_beginning_and_end() -> None:
    from gan.files.repository import _one_line

    said = _one_line(b"\n".join(b"error: line %d" % number for number in range(200)) + b"\nfatal: \xff")
    assert said.startswith("error: line 0; error: line 1")
    assert said.endswith("… 195 lines more …; fatal: �")


def test_a_live_check_s_trees_stay_and_a_killed_one_s_go(repository: Path, temporary: Path) -> None:
    with two_trees(repository, "HEAD") as first:
        killed = temporary / f"{TREES_PREFIX}killed_1"
        killed.mkdir()
        (killed / LOCK_NAME).touch()  # whose PID is alive: it means nothing
        (temporary / f"{TREES_PREFIX}empty123").mkdir()
        with two_trees(repository, "HEAD") as second:
            assert first.tree("base").exists()
            assert {first.root, second.root} == set(temporary.glob(f"{TREES_PREFIX}*"))
        assert first.tree("base").exists()
    assert not list(temporary.glob(f"{TREES_PREFIX}*"))


def test_what_is_not_surely_a_killed_check_s_stays(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / LOCK_NAME).touch()
    (temporary / f"{TREES_PREFIX}link").symlink_to(kept)
    (temporary / f"{TREES_PREFIX}file").touch()
    (temporary / f"{TREES_PREFIX}unlocked").mkdir()
    (temporary / f"{TREES_PREFIX}unlocked" / "x").touch()
    foreign = temporary / f"{TREES_PREFIX}foreign1"
    foreign.mkdir(mode=0o700)
    (foreign / LOCK_NAME).touch()
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: os.getuid() + 1)
        prune(TREES_PREFIX)
    assert everything(tmp_path) == before
    prune(TREES_PREFIX)
    assert set(before) - set(everything(tmp_path)) == {foreign, foreign / LOCK_NAME}


def test_another_check_that_prunes_between_making_and_locking_takes_no_tree(
    repository: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first directory is removed at once; the second is locked, as by one that is about to remove it."""
    made: list[Path] = []
    with contextlib.ExitStack() as stack:

        def make(prefix: str) -> str:
            made.append(temporary / f"{prefix}{len(made):08d}")
            made[-1].mkdir()
            if len(made) == 1:
                prune(TREES_PREFIX)
            if len(made) == 2:
                stack.enter_context(DirectoryLock(made[-1], LOCK_NAME))
            return str(made[-1])

        monkeypatch.setattr("tempfile.mkdtemp", make)
        with two_trees(repository, "HEAD") as trees:
            assert trees.root == made[2]
            assert not made[0].exists()


def test_a_full_or_missing_temporary_directory_is_said_in_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    with monkeypatch.context() as patch:
        patch.setattr("bench.regress.trees.shutil.copy2", full)
        with pytest.raises(UsageError, match="/somewhere: No space left on device; TMPDIR names another place"):
            two_trees(repository, "HEAD").__enter__()
    (repository / ".git" / "info" / "attributes").write_text("*.md filter=broken\n")
    git(repository, "config", "filter.broken.required", "true")
    git(repository, "config", "filter.broken.smudge", "false")
    before = everything(repository)
    with pytest.raises(UsageError, match=r"git read-tree in .*README\.md: smudge filter broken failed$"):
        two_trees(repository, "HEAD").__enter__()
    with monkeypatch.context() as patch:
        patch.setattr("bench.regress.trees.shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(UsageError, match=r"base: No space left on device; TMPDIR names another place"):
            two_trees(repository, "HEAD").__enter__()
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(UsageError, match=r"/nowhere.*: No such file or directory; TMPDIR"):
        two_trees(repository, "HEAD").__enter__()
    assert everything(repository) == before


def test_trees_that_are_removed_in_mid_check_are_said(repository: Path) -> None:
    def tidied_up() -> None:
        with two_trees(repository, "HEAD") as trees:
            shutil.rmtree(trees.root)
            (trees.code / "log").read_text()

    with pytest.raises(UsageError, match=r"gan-regress-.*: was removed during the check; TMPDIR"):
        tidied_up()
    with pytest.raises(OSError, match="another"), two_trees(repository, "HEAD"):
        raise OSError("another")


def test_a_lock_is_held_for_as_long_as_the_trees_are_there(repository: Path) -> None:
    with two_trees(repository, None) as trees, pytest.raises(UsageError, match="in use by process"):
        DirectoryLock(trees.root, LOCK_NAME)


def test_what_is_behind_a_link_to_a_directory_counts_as_changed(tmp_path: Path) -> None:
    trees = Trees(tmp_path, Both("", ""))
    for side in ("base", "head"):
        (trees.tree(side) / "gan").mkdir(parents=True)
        (trees.tree(side) / "gan" / "loop.py").write_text("a")
    assert alike(trees)
    for side in ("base", "head"):
        (trees.tree(side) / "gan" / "ops").symlink_to(tmp_path / side)
    assert not alike(trees)


def test_a_side_without_a_gan_of_its_own_is_refused(tmp_path: Path) -> None:
    surface_of(ROOT)
    with pytest.raises(RefusedError, match="would be measured instead"):
        surface_of(tmp_path)


@pytest.mark.multiprocess
def test_a_working_tree_that_does_not_import_is_no_regression(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "bench", tmp_path / "bench")
    (tmp_path / "gan").mkdir()
    (tmp_path / "gan" / "__init__.py").write_text("raise RuntimeError('broken')")
    command = [sys.executable, "-m", "bench", "regress"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: RuntimeError: broken; the working tree does not import: mend it\n"
