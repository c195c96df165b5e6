"""JSON and JSON-lines files: written whole, checked when they are read."""

import contextlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan.errors import UsageError
from gan.files.atomic import naming_file, require_regular, whole_file

MOST_JSON_BYTES = 256 << 20


def write_json(path: Path, data: Any, *, parents: bool = True) -> None:
    """Write `data` as an indented JSON file, whole or not at all; `parents` as for `whole_file`."""
    with whole_file(path, parents=parents) as file:
        file.write(_utf8(json.dumps(data, indent=2, ensure_ascii=False)) + b"\n")


def _utf8(text: str) -> bytes:
    """Encode JSON; what stands for the bytes of a file name that is not UTF-8 becomes JSON's own escape."""
    return text.encode(errors="backslashreplace")


def read_json(path: Path, *, nonfinite: bool = False, missing: str = "", mend: str = "") -> Any:
    """Return what a JSON file says, UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        nonfinite: Take NaN, Infinity, and numbers too large to be finite.
        missing: Ends the complaint about a file that is not there: how to come by it.
        mend: Ends the complaint about one that is.

    Raises:
        UsageError: It is missing, unreadable, too large or damaged; in one line that names it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: not a file")
        if status.st_size > MOST_JSON_BYTES:
            raise UsageError(f"{path}: has {status.st_size:,} bytes; at most {MOST_JSON_BYTES:,} are read")
        return parse_json(path.read_bytes(), str(path), nonfinite=nonfinite)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: not found{missing and f'; {missing}'}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}{mend and f'; {mend}'}") from error
    except UsageError as error:
        raise UsageError(f"{error}{mend and f'; {mend}'}") from error


def parse_json(data: bytes, name: str, *, nonfinite: bool = False) -> Any:
    """Return what JSON in UTF-8 says; raise UsageError, which begins with `name`, as `read_json` does."""
    hooks: dict[str, Any] = {} if nonfinite else {"parse_constant": _refuse_constant, "parse_float": _finite}
    try:
        return json.loads(data.decode("utf-8-sig"), **hooks)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: damaged (byte {error.start} is not UTF-8)") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{name}: damaged (not JSON: {error.msg} in {where})") from error
    except RecursionError as error:
        raise UsageError(f"{name}: damaged (nested too deeply)") from error
    except ValueError as error:  # a hook's, or a whole number of more digits than Python reads
        raise UsageError(f"{name}: damaged ({str(error).split(';')[0]})") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant}, where numbers must be finite")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits[:40])


def append_json_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append `data` as one line to a file that exists, and flush it to disk."""
    with naming_file(path), path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(_utf8(json.dumps(data, ensure_ascii=False)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON-lines file; a last line cut short by a kill is left out.

    Raises:
        UsageError: Another line is damaged.
    """
    require_regular(path)
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_json(line, f"{path}: line {number}", nonfinite=True)
        if not isinstance(record, dict):
            raise UsageError(f"{path}: line {number}: damaged (not an object)")
        records.append(record)
    with contextlib.suppress(UsageError):
        if isinstance(record := parse_json(last, "", nonfinite=True), dict):
            records.append(record)  # all but the line break was written
    return records


def write_json_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file, whole or not at all."""
    with whole_file(path, parents=False) as file:
        file.writelines(_utf8(json.dumps(line, ensure_ascii=False)) + b"\n" for line in lines)
