"""Two trees side by side: BASE is a revision, HEAD the files of a working tree. Their paths are of equal length.

The user's repository is only read. BASE is no `git worktree`, which the repository would list: git lays it out
from a temporary index into a temporary directory, with the filters, line ends and sparse patterns of a checkout.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.regress.sides import SIDES, Both
from bench.results.folder import RESULTS
from bench.runner.leftovers import temporary_directory
from gan.errors import Interrupted, UsageError
from gan.files.repository import CODE, git, revision_of

TREES_PREFIX = "gan-regress-"
SUBMODULE = "160000"
LEAST_FREE_BYTES = 2**20
OF_SUBJECTS = (".", f":(exclude){RESULTS}/regress")
"""Where a change makes the working tree of a subject another revision."""


@dataclass(frozen=True)
class Trees:
    """Where the trees are.

    Attributes:
        root: A temporary directory that holds all of it.
        revisions: Each side's revision; HEAD's ends with `+` if what is compared differs from it.
        has_gan: Whether the trees' `gan` is measured; otherwise subjects are, whose trees may hold anything.
        working_tree: Whose revisions the trees are, where that matters to imports: for subjects.
    """

    root: Path
    revisions: Both[str]
    has_gan: bool = True
    working_tree: Path | None = None

    def tree(self, side: str) -> Path:
        """Return the directory of a side's files."""
        return self.root / side

    @property
    def code(self) -> Path:
        """The directory that holds HEAD's `bench` alone, which measures both sides."""
        return self.root / "code"

    def cache(self, side: str) -> Path:
        """Return the directory of a side's compiler cache."""
        return self.root / f"{side}-cache"


def alike(trees: Trees) -> bool:
    """Say whether both sides have the same files: in `gan` and `bench`, or anywhere if subjects are measured."""
    folders = ("gan", "bench") if trees.has_gan else (".",)

    def digests(side: str) -> dict[Path, bytes | None]:
        tree = trees.tree(side)
        stored = tree / RESULTS / "regress"  # which the checks before this one have written
        paths = [path for folder in folders for path in (tree / folder, *(tree / folder).rglob("*"))]
        return {
            path.relative_to(tree): _digest(path)
            for path in paths
            if path.is_file() and path.parent.name != "__pycache__" and stored not in path.parents
        } | {path.relative_to(tree): None for path in paths if path.is_symlink() and not path.is_file()}

    sides = Both.of(digests)
    return (
        sides.base == sides.head and None not in sides.base.values()
    )  # what is behind a link to a directory is not looked at


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def commit_of(repository: Path, name: str) -> str:
    """Return the commit a name stands for; raise UsageError."""
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except UsageError:
        shallow = git(repository, "rev-parse", "--is-shallow-repository") == "true"
        hint = "; this clone is shallow: see git fetch --unshallow" if shallow else ""
        raise UsageError(
            f"--base {name}: no such revision in {repository}; name a branch, tag or commit that has been fetched"
            f"{hint}"
        ) from None


def repository_of(head: Path) -> Path:
    """Return the root of the working tree that a directory is in; raise UsageError."""
    return Path(git(head, "rev-parse", "--show-toplevel"))


@contextmanager
def two_trees(head: Path, base: str | None, *, for_subject: bool = False) -> Iterator[Trees]:
    """Lay both trees out; they are gone afterwards, however it ends.

    What a run that was killed left behind is removed first.

    Args:
        head: In a git working tree; its files as they are, ignored ones left out.
        base: A revision; None for HEAD's files once more.
        for_subject: Whether a subject of the repository is measured, by the `bench` that runs here; otherwise its
            `gan` is, by its `bench`.

    Raises:
        UsageError: No such repository or revision, or no room for them.
    """
    repository = repository_of(head)
    head_revision = revision_of(repository, paths=OF_SUBJECTS if for_subject else CODE)
    revision = None if base is None else commit_of(repository, base)
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(temporary_directory(TREES_PREFIX))
            revisions = Both(revision or head_revision, head_revision)
            trees = Trees(root, revisions, not for_subject, repository if for_subject else None)
            if revision:
                _check_out(repository, revision, trees.tree("base"))
            for side in SIDES if revision is None else ("head",):
                _copy(repository, trees.tree(side))
            bench = Path(__file__).resolve().parent.parent if for_subject else trees.tree("head") / "bench"
            if not bench.is_dir():
                raise UsageError(f"--head {head}: has no bench/, which is to measure")
            shutil.copytree(bench, trees.code / "bench", ignore_dangling_symlinks=True)
        except OSError as error:
            where = f"{error.filename or tempfile.gettempdir()}: {error.strerror or error}"
            raise UsageError(f"{where}; TMPDIR names another place for the trees") from error
        try:
            yield trees
        except Exception as error:
            if isinstance(error, Interrupted) or trees.code.is_dir():
                raise
            raise UsageError(
                f"{root}: was removed during the check; TMPDIR names a place for it that nobody tidies up"
            ) from error


def _check_out(repository: Path, revision: str, to: Path) -> None:
    """Lay a revision out as a checkout would, but for submodules, which are empty directories."""
    to.mkdir()
    places = {
        "GIT_DIR": git(repository, "rev-parse", "--absolute-git-dir"),
        "GIT_WORK_TREE": str(to),
        "GIT_INDEX_FILE": f"{to}.index",
    }
    try:
        git(to, "read-tree", "-m", "-u", "--no-recurse-submodules", revision, variables=places)
    except UsageError as error:
        if shutil.disk_usage(to).free < LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to)) from error
        raise


def _copy(repository: Path, to: Path) -> None:
    """Copy the files that git has or would add. Links stay links, submodules become empty directories."""
    to.mkdir()
    staged = git(repository, "ls-files", "-z", "--stage").split("\0")
    modes = {name: entry.split()[0] for entry, _, name in (line.partition("\t") for line in staged) if name}
    untracked = ("--others", "--exclude-standard", f"--exclude={TREES_PREFIX}*/")
    others = git(repository, "ls-files", "-z", *untracked).split("\0")
    is_real = cache(lambda folder: folder.resolve() == folder)
    for name in (*modes, *filter(None, others)):
        source = repository / name
        target = to / name
        if not is_real(source.parent):
            continue  # a link has taken the place of a directory, and git does not look behind it
        if modes.get(name) == SUBMODULE:
            target.mkdir(parents=True, exist_ok=True)
        elif source.is_symlink() or source.is_file():  # neither deleted, nor another repository
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
