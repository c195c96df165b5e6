"""The one place that runs git: it sees the repository it is told of, and changes nothing of it.

A git hook inherits `GIT_DIR`, `GIT_INDEX_FILE` and others from the git that called it. With them, commands of ours
would act on that repository and its index. So all that `git rev-parse --local-env-vars` lists is dropped, also

- the configuration of `git -c` and `GIT_CONFIG_COUNT`, though it may be the user's: it can name another work tree;
- the object directories of a pre-receive hook's quarantine: they belong to a repository without a work tree.

What says how git works anywhere stays, as `GIT_CONFIG_GLOBAL`, `GIT_CEILING_DIRECTORIES` and `GIT_SSH_COMMAND`.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from gan.errors import UsageError

MOST_LINES = 6
"""Of git's complaint that are repeated: it may have one for each file."""
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
    """Return what git prints, without the last line's end. User hooks do not run, and no lock is taken for speed.

    Names of files may hold any bytes: here they are as in `os.fsdecode`, and `os.fsencode` makes bytes of them.

    Args:
        directory: Where it runs.
        arguments: Of git.
        variables: Of its environment, such as the `GIT_INDEX_FILE` that it is to use.
        timeout: Seconds.

    Raises:
        UsageError: Git is not installed, takes too long, or complains; its whole complaint, in one line.
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


def revision_of(directory: Path, timeout: float | None = None) -> str:
    """Return the commit that is checked out; it ends with `+` where files in `gan` or `bench` differ from it.

    Raises:
        UsageError: No repository, or none that has a commit.
    """
    revision = git(directory, "rev-parse", "--verify", "HEAD", timeout=timeout)
    changed = ("status", "--porcelain", "--untracked-files=normal", "--", "gan", "bench")
    return revision + ("+" if git(directory, *changed, timeout=timeout) else "")
