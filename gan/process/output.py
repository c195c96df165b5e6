"""Standard output and errors that outlive their reader."""

import contextlib
import errno
import io
import os
import select
import sys
from pathlib import Path
from typing import Any

from gan.files.text import LEGIBLE

NO_READER = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ESHUTDOWN, errno.EBADF)
"""Errors of writing to a pipe whose other end is closed, or to a terminal that is gone."""


class LastingOutput(io.RawIOBase):
    """A standard stream to which writing never fails.

    Attributes:
        failure: The first error of writing, such as a full disk; None also where merely nobody reads.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream  # if nobody held it, it would be deleted and close the file beneath it
        self._raw = getattr(stream.buffer, "raw", stream.buffer)
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int:
        """Write bytes, or drop them if that fails; return how many."""
        try:
            while (written := self._raw.write(data)) is None:  # the descriptor was made non-blocking
                select.select([], [self._raw], [])
        except OSError as error:
            if error.errno not in NO_READER:
                self.failure = self.failure or error
            return len(data)
        return int(written)


def lasting_streams() -> LastingOutput | None:
    """Replace standard output and errors by streams that outlive their reader and accept any character.

    They stay until the process ends, because its last flush can fail too.

    Returns:
        The raw stream of standard output, which knows whether writing failed; None if it was closed at the start.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed at the start; its descriptor must not go to a file that is opened later
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8", errors=LEGIBLE))  # noqa: SIM115
            continue
        if not hasattr(stream, "buffer") or _beneath(stream) is not None:
            continue
        with contextlib.suppress(OSError):
            stream.flush()
        raw = LastingOutput(stream)
        by_line = stream.line_buffering or stream.write_through
        lasting = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, LEGIBLE, line_buffering=by_line)
        setattr(sys, name, lasting)
    return _beneath(sys.stdout)


def _beneath(stream: Any) -> LastingOutput | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, LastingOutput) else None
