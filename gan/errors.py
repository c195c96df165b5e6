"""Errors whose message is one line that tells the user what to do."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input. The message is one line: flag or file, value, what is allowed, how to fix it."""

    everywhere = False
    """True if all processes raise the same error, so that the main process prints it for all."""


class DivergedError(Exception):
    """A loss or a weight is not finite. The message names the step, the network and the last good checkpoint."""


class UnhealthyError(Exception):
    """A health alarm, in a run that was told to stop at one; it has saved itself. The message is the alarm's."""


class NotSavedError(Exception):
    """Rank 0 could not write what the run saves; raised on the other ranks. The message says why."""


class PeerError(Exception):
    """Another rank has ended, has failed or does not go on. The message names it, and what this rank did then."""


class Interrupted(Exception):  # noqa: N818 - no error
    """The run was told to stop and has saved itself; `exit_code` follows the shell's 128 + signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def require_known(flag: str, value: str, known: Iterable[str]) -> None:
    """Raise UsageError, with the nearest name, unless `value` is one of `known`."""
    if value not in known:
        hint = nearest(value, known) or ";"
        raise UsageError(f"{flag} {value}: unknown{hint} choose one of {', '.join(known)}")


def nearest(value: str, known: Iterable[str]) -> str:
    """Return the end of an error line that suggests the most similar known name; empty if none is similar.

    >>> nearest("wgan-pg", ["dcgan", "wgan-gp"])
    '; did you mean wgan-gp?'
    """
    close = difflib.get_close_matches(value, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
