"""JSON and JSON-lines files: written whole, checked when they are read."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan.errors import UsageError
from gan.files.atomic import naming_file, require_regular, whole_file

MOST_JSON_BYTES = 256 * 2**20
"""A larger file is refused, not read into memory."""


def write_json(path: Path, data: Any, *, parents: bool = True) -> None:
    """Write `data` as an indented JSON file, whole or not at all; `parents` as in `whole_file`."""
    with whole_file(path, parents=parents) as file:
        file.write(_utf8(json.dumps(data, indent=2, ensure_ascii=False)) + b"\n")


def _utf8(text: str) -> bytes:
    r"""Encode JSON as UTF-8.

    Python represents the bytes of a file name that is not UTF-8 by lone surrogates, which UTF-8 cannot encode.
    They become escapes such as `\udcff`, which JSON reads back as the same characters.
    """
    return text.encode(errors="backslashreplace")


def read_json(path: Path, *, nonfinite: bool = False, missing: str = "", mend: str = "") -> Any:
    """Return the contents of a JSON file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        nonfinite: Accept NaN, Infinity, and numbers too large to be finite.
        missing: How to come by the file; ends the error if it does not exist.
        mend: How to mend the file; ends any other error.

    Raises:
        UsageError: The file is missing, unreadable, too large or damaged; the line names it.
    """
    try:
        require_regular(path)
        num_bytes = path.stat().st_size
        if num_bytes > MOST_JSON_BYTES:
            raise UsageError(f"{path}: has {num_bytes:,} bytes; at most {MOST_JSON_BYTES:,} are read")
        return parse_json(path.read_bytes(), str(path), nonfinite=nonfinite)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: not found{missing and f'; {missing}'}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}{mend and f'; {mend}'}") from error
    except UsageError as error:
        raise UsageError(f"{error}{mend and f'; {mend}'}") from error


def parse_json(data: bytes, name: str, *, nonfinite: bool = False) -> Any:
    """Return the contents of JSON in UTF-8.

    Args:
        data: The bytes.
        name: Begins the error.
        nonfinite: As in `read_json`.

    Raises:
        UsageError: It is damaged.
    """
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
    except ValueError as error:  # from a hook, or a whole number of more digits than Python converts
        raise UsageError(f"{name}: damaged ({str(error).split(';')[0]})") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant}, where numbers must be finite")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits[:40])


def append_json_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append `data` as one line to a file, and flush it to disk.

    Raises:
        OSError: The file does not exist, or cannot be written.
    """
    with naming_file(path), path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(_utf8(json.dumps(data, ensure_ascii=False)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file, one a line; without the last one if a kill has cut it short.

    Raises:
        UsageError: Another line is damaged.
    """
    require_regular(path)
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_json(line, f"{path}: line {number}", nonfinite=True)
        if not isinstance(record, dict):
            raise UsageError(f"{path}: line {number}: damaged (not an object)")
        records.append(record)
    with contextlib.suppress(UsageError):
        if isinstance(record := parse_json(rest, "", nonfinite=True), dict):
            records.append(record)  # a line that lacks only its line break
    return records


def write_json_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file, whole or not at all."""
    with whole_file(path, parents=False) as file:
        file.writelines(_utf8(json.dumps(line, ensure_ascii=False)) + b"\n" for line in lines)
