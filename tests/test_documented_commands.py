"""Commands in the documents: run as they stand where that is quick, and parsed where it would take minutes."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench_command
from bench.regress.options import RegressOptions
from tests.conftest import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "accelerate_configs/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
SH_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
WRITTEN_BEFORE = ("before.json", "after.json")
PLACEHOLDERS = {"NAME": "mlp", "--inject=DOSE": "--inject=3%", "REVISION": "HEAD"}


@dataclass(frozen=True)
class Command:
    """Words of a command, and the document that has it."""

    words: tuple[str, ...]
    document: str

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def commands(*beginning: str) -> list[Command]:
    """Return the documented commands that begin so, each once."""
    begin = len(beginning)
    chosen = {command.words: command for command in _commands() if command.words[:begin] == beginning}
    return [command for words, command in chosen.items() if words[begin:]]  # not where only its name is meant


def _commands() -> Iterator[Command]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        lines = [line for block in SH_BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        # in the text, a name in capitals or an ellipsis stands for what a reader puts there
        lines += [" ".join(code.split()) for code in CODE.findall(BLOCK.sub("", text)) if "…" not in code]
        for line in lines:
            for part in re.split(r"&&|\|", line):
                try:
                    words = shlex.split(part, comments=True)
                except ValueError:  # not of a shell
                    continue
                yield Command(tuple(PLACEHOLDERS.get(word, word) for word in words), document.name)


def copy_results(to: Path, words: Sequence[str]) -> None:
    """Copy the stored results, and make the files that `--benchmark-json` has written in the lines before."""
    shutil.copytree(ROOT / "results", to / "results")
    (stored,) = (to / "results").glob("*/[0-9]*.json")
    for word in words:
        if word in WRITTEN_BEFORE:
            shutil.copy(stored, to / word)


def _expanded(words: tuple[str, ...]) -> list[str]:
    """Replace patterns by the files they stand for, as a shell does."""
    return [
        name
        for word in words
        for name in (sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]) or [word]
    ]


@pytest.mark.parametrize("documented", [*commands("python", "-m", "bench")], ids=str)
def test_commands_of_bench(
    documented: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    """`report` and `compare` really run; the others are parsed, and would measure what exists."""
    copy_results(tmp_path, documented.words)
    monkeypatch.chdir(tmp_path)
    name, *arguments = _expanded(documented.words[3:])
    asked: list[Any] = []
    if name not in ("report", "compare"):
        kind, _ = bench_command.COMMANDS[name]
        monkeypatch.setitem(bench_command.COMMANDS, name, (kind, asked.append))
    code, _, errors = command(name, *arguments)
    assert code == 0, errors
    for options in asked:
        if isinstance(options, RegressOptions):
            assert options.cases


@pytest.mark.parametrize("documented", commands("pytest", "bench"), ids=str)
def test_benchmarks_are_there(
    documented: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    storage = ("--benchmark-storage", f"file://{tmp_path}")
    code = pytest.main([*documented.words[1:], "--collect-only", "-q", *storage, "-p", "no:cacheprovider"])
    said = capsys.readouterr()
    assert code == 0, said
    assert "bench/test_" in said.out


@pytest.mark.parametrize("documented", commands("pytest-benchmark"), ids=str)
def test_commands_of_pytest_benchmark(documented: Command, tmp_path: Path) -> None:
    copy_results(tmp_path, documented.words)
    command = [sys.executable, "-m", "pytest_benchmark", *documented.words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "test_step[mlp-cpu-fp32-eager-b64-p1]" in done.stdout


@pytest.mark.parametrize("name", bench_command.COMMANDS)
def test_help_says_what_an_option_is_that_is_left_out(
    name: str, capsys: pytest.CaptureFixture[str], command
) -> None:
    with pytest.raises(SystemExit) as end:
        command(name, "--help")
    assert not end.value.code
    shown = capsys.readouterr().out
    assert f"python -m bench {name}" in shown
    assert "None" not in shown
    assert "(default: )" not in shown
