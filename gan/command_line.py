"""Command lines from dataclasses, by tyro: how an option is shown, and errors in one line."""

import ast
import contextlib
import inspect
import io
import itertools
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from gan.errors import UsageError, nearest

Options = TypeVar("Options")
MOST_COUNT = 10**15
"""The most that an option which counts may be: thousands of years of steps. Larger ones are mistakes, and do not
fit into the numbers of libraries."""
MIN_COLUMNS = 40


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
    if {"-h", "--help"} & set(arguments):
        _show_help(kind, prog, default)
    complaint = io.StringIO()
    settings: dict[str, Any] = {} if default is None else {"default": default}
    options: Options
    try:
        with contextlib.redirect_stderr(complaint):
            options, unknown = tyro.cli(
                kind, prog=prog, args=list(arguments), return_unknown_args=True, **settings
            )
    except SystemExit:
        raise UsageError(f"{_first_paragraph(complaint.getvalue())} (see {prog} --help)") from None
    if unknown:
        flags = ["--" + field.name.replace("_", "-") for field in fields(kind)]  # type: ignore[arg-type]
        raise UsageError(f"{unknown[0]}: no such option{nearest(unknown[0], flags)} (see {prog} --help)")
    return options


def _show_help(kind: type, prog: str, default: Any) -> None:
    """Print the help, and raise SystemExit. tyro breaks lines where the source does, and lets some be too long.

    Args:
        kind: The class of the options.
        prog: What the program is called.
        default: Options whose values are the defaults; None for those of the class.
    """
    hints = get_type_hints(kind, include_extras=True)
    texts = dict(itertools.chain.from_iterable(map(_texts_of_fields, reversed(kind.__mro__))))
    shown = []
    for option in fields(kind):
        hint = hints[option.name]
        if option.name in texts:
            hint = Annotated[hint, tyro.conf.arg(help=texts[option.name])]
        value = option.default if default is None else getattr(default, option.name)
        shown.append((option.name, hint, field(default=value)))
    like = make_dataclass(kind.__name__, shown, namespace={"__doc__": kind.__doc__})
    screen = _Screen(io.BytesIO(), encoding=sys.stdout.encoding, errors="backslashreplace", write_through=True)
    width = max(MIN_COLUMNS, shutil.get_terminal_size().columns)
    try:
        with contextlib.redirect_stdout(screen):
            tyro.cli(like, prog=prog, args=["--help"])
    finally:
        screen.seek(0)
        for line in screen.read().splitlines():
            indent = "  " if line.startswith("usage") else ""
            wrapped = textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
            print("\n".join(wrapped) if len(line) > width else line)


class _Screen(io.TextIOWrapper):
    """Takes what is written to standard output, and says of itself what that says."""

    def isatty(self) -> bool:
        stdout = sys.__stdout__
        return stdout is not None and stdout.isatty()


def _texts_of_fields(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the names of a class's fields, and the docstring below each as one line."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):  # a built-in class, or one that is made
        return
    for statement, below in itertools.pairwise(body.body if isinstance(body, ast.ClassDef) else []):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())


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


def require_alone(options: Any, used: Collection[str], reason: str) -> None:
    """Raise UsageError for an option that was given and has no effect.

    Args:
        options: What was parsed.
        used: Names of the options that have an effect.
        reason: Why the others have none.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if option.name in used or value == option.default:
            continue
        flag = option.name.replace("_", "-")
        if isinstance(value, bool):
            shown = f"--{flag}" if value else f"--no-{flag}"
        else:
            shown = f"--{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        raise UsageError(f"{shown}: {reason}; leave one of them out")
