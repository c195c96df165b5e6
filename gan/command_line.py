"""Command lines from dataclasses, by tyro: how an option is shown, and errors in one line."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from gan.errors import UsageError, nearest

Options = TypeVar("Options")
MOST_COUNT = 10**15
"""The most that an option which counts may be: thousands of years of steps. Larger ones are mistakes, and do not
fit into the numbers of libraries."""


def optional(kind: type, metavar: str, default: str, **settings: Any) -> Any:
    """Return what tyro shows of an option that is None where it is left out."""
    return tyro.conf.arg(constructor=kind, metavar=metavar, help_behavior_hint=f"(default: {default})", **settings)


def parse(kind: type[Options], prog: str, arguments: Sequence[str], default: Options | None = None) -> Options:
    """Parse a command line into options; those left out keep their value in `default`.

    Raises:
        UsageError: The command line does not parse; in one line.
        SystemExit: After printing the help.
    """
    if "" in arguments or any(argument.startswith("--") and argument.endswith("=") for argument in arguments):
        raise UsageError(f"{prog}: an option's value is empty; is a variable of the shell unset?")
    complaint = io.StringIO()
    settings: dict[str, Any] = {} if default is None else {"default": default}
    options: Options
    try:
        with contextlib.redirect_stderr(complaint):
            options, unknown = tyro.cli(
                kind, prog=prog, args=list(arguments), return_unknown_args=True, **settings
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{_first_paragraph(complaint.getvalue())} (see {prog} --help)") from None
    if unknown:
        flags = ["--" + field.name.replace("_", "-") for field in fields(kind)]  # type: ignore[arg-type]
        raise UsageError(f"{unknown[0]}: no such option{nearest(unknown[0], flags)} (see {prog} --help)")
    return options


def _first_paragraph(box: str) -> str:
    """Return the first paragraph inside the box that tyro draws around an error, as one line.

    Where the output takes ASCII alone, there is no box: the title stands in a line above a rule.
    """
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│ ").strip()
        if line.startswith(("╭", "╰")):
            continue
        if not text or set(text) <= {"─", "-"}:
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    first, *others = [paragraph for paragraph in paragraphs if paragraph] or [[]]
    return " ".join(first if box.startswith("╭") or not others else others[0])


def require_at_least(name: str, value: int | None, least: int) -> None:
    """Raise UsageError if an option has a value below the least one."""
    if value is not None and value < least:
        raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


def require_at_most(name: str, value: int | None, most: int = MOST_COUNT) -> None:
    """Raise UsageError if an option has a value above the most."""
    if value is not None and value > most:
        raise UsageError(f"--{name.replace('_', '-')} {value}: must be at most {most}")
