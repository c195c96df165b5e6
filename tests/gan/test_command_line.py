"""Help texts: as wide as the terminal, without the line breaks of the source."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import tyro

from gan.command_line import optional, parse
from gan.data.prepare import parse_prepare_options
from gan.options import parse_train_options
from gan.run_options import parse_evaluate_options, parse_sample_options


@dataclass(frozen=True)
class Options:
    """Do something that takes a summary of more than eighty columns, because there is much to say about it."""

    count: int = 3
    """The number of things that are counted, whose text the source breaks
    here."""
    name: Annotated[str | None, optional(str, "NAME", "that of the file")] = None
    """Of a thing; a class below may say it
    anew."""
    needed: Annotated[int, tyro.conf.arg(metavar="N", help="From elsewhere.")] = 0


@dataclass(frozen=True)
class FurtherOptions(Options):
    """Do more."""

    name: Annotated[str | None, optional(str, "NAME", "that of the folder")] = None
    """Of another thing,
    said anew."""


@pytest.fixture
def help_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[Sequence[str]], object], int], str]:
    """Return the help that a parser shows in a terminal of so many columns."""

    def show(parser: Callable[[Sequence[str]], object], columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as end:
            parser(["--help"])
        assert not end.value.code
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize(
    "parser", [parse_train_options, parse_sample_options, parse_evaluate_options, parse_prepare_options]
)
def test_help_is_no_wider_than_the_terminal(parser, columns: int, help_of) -> None:
    assert max(map(len, help_of(parser, columns).splitlines())) <= columns


def test_texts_are_broken_where_the_terminal_ends_and_not_where_the_source_does(help_of) -> None:
    lines = help_of(lambda arguments: parse(FurtherOptions, "program", arguments), 120).splitlines()
    texts = [" ".join(line.strip("│").split()) for line in lines]
    assert texts[:3] == ["usage: program [-h] [--count INT] [--name NAME] [--needed N]", "", "Do more."]
    counted = "The number of things that are counted, whose text the source breaks here. (default: 3)"
    assert f"--count INT {counted}" in texts
    assert "--name NAME Of another thing, said anew. (default: that of the folder)" in texts
    assert "--needed N From elsewhere. (default: 0)" in texts


def test_a_long_summary_is_broken_between_words(help_of) -> None:
    shown = help_of(lambda arguments: parse(Options, "program", arguments), 50)
    assert str(Options.__doc__) in " ".join(shown.split())
    assert str(Options.__doc__) not in shown


def test_defaults_of_a_run_are_shown(help_of) -> None:
    begun: Any = Options(count=7)
    assert "(default: 7)" in help_of(lambda arguments: parse(Options, "program", arguments, default=begun), 80)
