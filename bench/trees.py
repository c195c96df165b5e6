"""Two trees side by side: BASE as a git worktree, HEAD as a copy of its files, under paths of equal length."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from gan.errors import UsageError

PREFIX = "gan-regress-"
SIDES = ("base", "head")


@dataclass(frozen=True)
class Trees:
    """Where the trees are.

    Attributes:
        root: A temporary directory that holds all of it.
        revisions: Each side's revision; HEAD's ends with `+` where `gan` or `bench` differ from it.
    """

    root: Path
    revisions: dict[str, str]

    def tree(self, side: str) -> Path:
        """One side's files."""
        return self.root / side

    @property
    def code(self) -> Path:
        """What holds HEAD's `bench` alone, which measures both."""
        return self.root / "code"

    def cache(self, side: str) -> Path:
        """One side's compiler cache."""
        return self.root / f"{side}-cache"


def git(repository: Path, *arguments: str) -> str:
    """Return what git prints; raise UsageError with its complaint."""
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("git: not found; the check compares revisions and needs it") from None
    if done.returncode:
        complaint = " ".join((done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[-1:])
        raise UsageError(f"git {arguments[0]} in {repository}: {complaint.removeprefix('fatal: ')}")
    return done.stdout.strip()


def revision_of(repository: Path, name: str) -> str:
    """Return the commit a name stands for; raise UsageError."""
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except UsageError:
        raise UsageError(
            f"--base {name}: no such revision in {repository}; name a branch, tag or commit that has been fetched"
        ) from None


@contextmanager
def two_trees(head: Path, base: str | None) -> Iterator[Trees]:
    """Lay both trees out; they are gone afterwards, however it ends.

    What a run that was killed left behind is removed first.

    Args:
        head: In a git working tree; its files as they are, ignored ones left out.
        base: A revision; None for HEAD's files once more.

    Raises:
        UsageError: No such repository or revision.
    """
    repository = Path(git(head, "rev-parse", "--show-toplevel"))
    prune(repository)
    own = git(repository, "rev-parse", "HEAD") + (
        "+" if git(repository, "status", "--porcelain", "--", "gan", "bench") else ""
    )
    revision = None if base is None else revision_of(repository, base)
    root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        trees = Trees(root, {"base": revision or own, "head": own})
        if revision:
            git(repository, "worktree", "add", "--detach", "--quiet", str(trees.tree("base")), revision)
        for side in SIDES if revision is None else ("head",):
            _copy(repository, trees.tree(side))
        if not (trees.tree("head") / "bench").is_dir():
            raise UsageError(f"--head {head}: has no bench/, which is to measure")
        shutil.copytree(trees.tree("head") / "bench", trees.code / "bench")
        yield trees
    finally:
        _remove(repository, root)


def _copy(repository: Path, to: Path) -> None:
    listed = git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, dict.fromkeys(listed.split("\0"))):
        source, target = repository / name, to / name
        if source.is_file():  # neither deleted, nor a submodule
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def _remove(repository: Path, root: Path) -> None:
    with contextlib.suppress(UsageError):
        git(repository, "worktree", "remove", "--force", str(root / "base"))
    shutil.rmtree(root, ignore_errors=True)


def prune(repository: Path) -> None:
    """Remove what runs over this repository that were killed left behind."""
    git(repository, "worktree", "prune")
    listed = git(repository, "worktree", "list", "--porcelain").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
    roots = [tree.parent for tree in trees if tree.parent.name.startswith(PREFIX)]
    roots += [
        root for root in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if not (root / "base" / ".git").exists()
    ]
    for root in roots:
        owner = root.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            _remove(repository, root)
