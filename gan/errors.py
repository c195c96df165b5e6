"""What a user can fix, said in one line."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input. The message is one line: flag or file, value given, what is allowed, how to fix it."""

    everywhere = False
    """Whether all processes raise the same, so that the main one speaks for all."""


class DivergedError(Exception):
    """A loss or a weight is not finite. The message names the step, the network and the last good checkpoint."""


class UnhealthyError(Exception):
    """The run is sick, and was told to stop if it should be; it has saved itself. The message says of what."""


class Interrupted(Exception):  # noqa: N818 - no error
    """The run was told to stop and has saved itself; `exit_code` follows the shell's 128 + signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def require_known(flag: str, given: str, known: Iterable[str]) -> None:
    """Raise UsageError, with the nearest name, where `given` is none of `known`."""
    if given not in known:
        hint = nearest(given, known) or ";"
        raise UsageError(f"{flag} {given}: unknown{hint} choose one of {', '.join(known)}")


def nearest(given: str, known: Iterable[str]) -> str:
    """Return the end of a complaint: the known name that is most like `given`, or nothing."""
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
