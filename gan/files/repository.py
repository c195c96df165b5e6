"""The one place that runs git. It sees the repository that it is given, and changes nothing in it.

A git hook inherits `GIT_DIR`, `GIT_INDEX_FILE` and others from the git that called it. With them, git commands
would act on that repository and its index. So every variable that `git rev-parse --local-env-vars` lists is
dropped. That includes

- the configuration of `git -c` and `GIT_CONFIG_COUNT`, though it may be the user's: it can name another work tree;
- the object directories of a pre-receive hook's quarantine: they belong to a repository without a work tree.

Variables that say how git works anywhere stay: `GIT_CONFIG_GLOBAL`, `GIT_CEILING_DIRECTORIES`, `GIT_SSH_COMMAND`.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from gan.errors import UsageError

CODE = ("gan", "bench")
"""The packages of this project."""
MOST_LINES = 6
"""Lines of git's complaint that are repeated. It may have one for each file."""
SETTINGS = (
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.fsmonitor=false"),  # it is a hook, or a daemon that would outlive us
    *("-c", "core.splitIndex=false"),  # a temporary index would leave its shared half in the repository
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
)


@cache
def local_variables() -> frozenset[str]:
    """Return the names of the variables that tie git to one repository."""
    printed = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, check=True).stdout
    return frozenset(printed.decode().split())


def git(
    directory: Path, *arguments: str, variables: Mapping[str, str] | None = None, timeout: float | None = None
) -> str:
    """Run git, without hooks and optional locks, and return what it prints but for the last line break.

    File names may hold any bytes. They are decoded by `os.fsdecode`, and `os.fsencode` gives the bytes back.

    Args:
        directory: Where git runs.
        arguments: Git's command and its arguments.
        variables: Added to its environment, such as the `GIT_INDEX_FILE` that it is to use.
        timeout: Seconds; None waits for ever.

    Raises:
        UsageError: Git is not installed, takes too long, or fails; the line has its whole complaint.
    """
    try:
        inherited = {name: value for name, value in os.environ.items() if name not in local_variables()}
        done = subprocess.run(
            ["git", "-C", str(directory), *SETTINGS, *arguments],
            env={**inherited, "GIT_OPTIONAL_LOCKS": "0", **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError("git: not found; install it, or add it to PATH") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"git {arguments[0]} in {directory}: {error}") from error
    if done.returncode:
        raise UsageError(f"git {arguments[0]} in {directory}: {_one_line(done.stderr or done.stdout)}")
    return os.fsdecode(done.stdout).removesuffix("\n")


def _one_line(complaint: bytes) -> str:
    """Return git's complaint in one line."""
    lines = [line for line in complaint.decode(errors="replace").splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"… {len(lines) - MOST_LINES} lines more …", lines[-1]]
    joined = re.sub(r"(?<![.:,;]) *\n\s*", "; ", "\n".join(lines).removeprefix("fatal: "))
    return " ".join(joined.split()) or "failed"


def revision_of(directory: Path, timeout: float | None = None, paths: Sequence[str] = CODE) -> str:
    """Return the commit that is checked out; it ends with `+` if files differ from it.

    Args:
        directory: In the working tree.
        timeout: Seconds; None waits for ever.
        paths: Which files count, as git's pathspecs.

    Raises:
        UsageError: The directory is in no repository, or in one without a commit.
    """
    revision = git(directory, "rev-parse", "--verify", "HEAD", timeout=timeout)
    changed = ("status", "--porcelain", "--untracked-files=normal", "--", *paths)
    return revision + ("+" if git(directory, *changed, timeout=timeout) else "")
