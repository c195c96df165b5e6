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
"""How writing fails where the other end of a pipe is closed, or a terminal is gone."""


class LastingOutput(io.RawIOBase):
    """A standard stream to which writing never fails. What has no reader is dropped; another failure is kept."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream  # which would close what is beneath if nobody held it
        self._raw = getattr(stream.buffer, "raw", stream.buffer)
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def fileno(self) -> int:
        """Return the descriptor beneath."""
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        """Say whether it is a terminal."""
        return bool(self._raw.isatty())

    def write(self, data: Any) -> int:
        """Write, or drop, and return how many bytes."""
        try:
            while (written := self._raw.write(data)) is None:  # another program made it non-blocking
                select.select([], [self._raw], [])
        except OSError as error:
            if error.errno not in NO_READER:
                self.failure = self.failure or error
            return len(data)
        return int(written)


def lasting_streams() -> LastingOutput | None:
    """Let standard output and errors outlive their reader, and take any character; return what is under the first.

    That holds to the end of the process, whose last flush can fail too.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when we began: so that no file of ours is opened in its place
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
