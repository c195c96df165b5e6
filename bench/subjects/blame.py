"""What a subject raised, in one line that names its file and the line in it."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.subjects.subject import SubjectError

MOST_LETTERS = 300
"""Of the text of an exception: PyTorch's may have pages."""
_HARNESS = Path(__file__).resolve().parent.parent
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()
_INSTALLED = ("site-packages", "dist-packages")


def one_line(error: BaseException) -> str:
    """Return the kind and the text of an exception on one line.

    >>> one_line(ValueError(" no    more "))
    'ValueError: no more'
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException, place: Path) -> str:
    """Return FILE:LINE where an exception was raised, relative to a directory if it is below it; empty if unknown.

    The innermost line counts that is not Python's, an installed package's or the harness's; without one, that of a
    package.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    outside = [frame for frame in frames if not Path(frame.filename).resolve().is_relative_to(_HARNESS)]
    installed = [frame for frame in outside if any(part in frame.filename for part in _INSTALLED)]
    written = [
        frame
        for frame in outside
        if frame not in installed and not Path(frame.filename).resolve().is_relative_to(_PYTHON)
    ]
    if not (chosen := written or installed):
        return ""
    frame = chosen[-1]
    path = Path(frame.filename)
    shown = path.relative_to(place.resolve()) if path.is_relative_to(place.resolve()) else path
    return f"{shown}:{frame.lineno}"


@contextmanager
def blamed(spec: str, part: str, place: Path) -> Iterator[None]:
    """Turn whatever a part of a subject raises into a SubjectError; a SubjectError stays as it is.

    Args:
        spec: Of the subject.
        part: What is called, as `step()`.
        place: The directory that files are named relative to.
    """
    try:
        yield
    except SubjectError:
        raise
    except (Exception, SystemExit) as error:
        where = place_of(error, place)
        at = f" at {where}" if where else ""
        traceback.print_exc(file=sys.stderr)  # the log of a measuring process keeps all of it
        raise SubjectError(f"{spec}: {part} raised{at}: {one_line(error)}") from error
