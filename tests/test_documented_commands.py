"""Commands in documents, help texts and docstrings: run where that is quick, parsed where it takes minutes."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench_command
from bench.measure import measure
from bench.predict.options import PredictOptions
from bench.predict.options import settings_of as settings_of_prediction
from bench.quality.options import QualityOptions
from bench.race.options import RaceOptions
from bench.race.options import settings_of as settings_of_race
from bench.regress.options import RegressOptions, settings_of
from bench.subjects.load import ENTRY_POINTS
from bench.tune.options import TuneOptions
from bench.tune.options import settings_of as settings_of_tuning
from gan.recipes import RECIPES
from tests.conftest import ROOT
from tests.documents import DOCUMENTS, Command, blocks_of, commands

WRITTEN_BEFORE = ("before.json", "after.json")
TESTED = re.compile(
    r"accelerate launch |python gan/|python -m gan\.|gan-(?:train|sample|evaluate|bench) |python -m bench "
    r"|pytest bench |pytest docs/examples/test_my_step|pytest-benchmark |python train\.py$"
)
RUN_BY_CI = re.compile(r"export [A-Z_]+=1$|pip install -e |pre-commit |ruff (?:check|format)|mypy$|pytest$")


def copy_results(to: Path, words: Sequence[str]) -> None:
    """Copy the stored results, and make the files that `--benchmark-json` has written in the lines before."""
    shutil.copytree(ROOT / "results", to / "results")
    (stored,) = (to / "results").glob("*/[0-9]*.json")
    for word in words:
        if word in WRITTEN_BEFORE:
            shutil.copy(stored, to / word)


def _expanded(words: Sequence[str]) -> list[str]:
    """Replace patterns by the files they stand for, as a shell does."""
    return [
        name
        for word in words
        for name in (sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]) or [word]
    ]


OF_BENCH = [*commands("python", "-m", "bench"), *commands("gan-bench")]


def after_program(documented: Command) -> list[str]:
    """Return the words after `python -m bench` or `gan-bench`."""
    return list(documented.words[1 if documented.words[0] == "gan-bench" else 3 :])


MEASURE = [documented for documented in OF_BENCH if after_program(documented)[0] == "measure"]


@pytest.mark.parametrize("documented", [command for command in OF_BENCH if command not in MEASURE], ids=str)
def test_commands_of_bench(
    documented: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    """`report` and `compare` really run; the others are read to the point where they would measure."""
    words = after_program(documented)
    assert words[0] in bench_command.COMMANDS
    if len(words) == 1 and documented.document.endswith(".py"):
        return  # a docstring that names the command, and shows no use of it
    copy_results(tmp_path, documented.words)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "my_gan.py").symlink_to(ROOT / "docs" / "examples" / "my_gan.py")
    monkeypatch.chdir(tmp_path)
    name, *arguments = _expanded(words)
    asked: list[Any] = []
    if name not in ("report", "compare"):
        kind, _ = bench_command.COMMANDS[name]
        monkeypatch.setitem(bench_command.COMMANDS, name, (kind, asked.append))
    code, _, errors = command(name, *arguments)
    assert code == 0, errors
    for options in asked:
        read(options)


def read(options: Any) -> None:
    """Read options as their command does before it measures; raise UsageError."""
    match options:
        case RegressOptions():
            assert settings_of(options).cases
        case PredictOptions():
            assert settings_of_prediction(options).sizes
        case RaceOptions(replay=None):
            assert len(settings_of_race(options).contenders) == len(options.contenders)
        case TuneOptions(replay=None):
            assert settings_of_tuning(options).values
        case QualityOptions():
            options.validate()


@pytest.mark.parametrize("documented", [*commands("pytest", "bench"), *MEASURE], ids=str)
@pytest.mark.slow
def test_benchmarks_are_there(
    documented: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = ("--collect-only", "-q", "--benchmark-storage", f"file://{tmp_path}", "-p", "no:cacheprovider")
    if documented in MEASURE:
        code = measure([*after_program(documented)[1:], *words])
    else:
        code = pytest.main([*documented.words[1:], *words])
    said = capsys.readouterr()
    assert code == 0, said
    assert ("--suite=" if "--help" in documented.words else "bench/test_") in said.out


@pytest.mark.parametrize("documented", commands("pytest-benchmark"), ids=str)
@pytest.mark.multiprocess
def test_commands_of_pytest_benchmark(documented: Command, tmp_path: Path) -> None:
    copy_results(tmp_path, documented.words)
    command = [sys.executable, "-m", "pytest_benchmark", *documented.words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "test_step[mlp-cpu-fp32-eager-b64-p1]" in done.stdout


@pytest.mark.parametrize(
    "documented", [command for command in commands("pytest") if command.words[1] in ("-m", "-k")], ids=str
)
def test_commands_of_pytest_name_marks_and_tests_that_there_are(
    documented: Command, pytestconfig: pytest.Config
) -> None:
    options = dict(zip(documented.words, documented.words[1:], strict=False))
    marks = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert set(re.findall(r"\w+", options.get("-m", ""))) - {"and", "not", "or"} <= marks
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    names = [*RECIPES, *(name for text in texts for name in re.findall(r"def (test_\w+)", text))]
    assert any(options.get("-k", "") in name for name in names)


def test_the_documented_entry_point_is_found_and_is_one_of_a_subject() -> None:
    (block,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "benchmarks.md").read_text(), re.DOTALL | re.M)
    assert list(tomllib.loads(block)["project"]["entry-points"]) == [ENTRY_POINTS]


@pytest.mark.parametrize("name", bench_command.COMMANDS)
def test_help_says_what_an_option_is_that_is_left_out(
    name: str, capsys: pytest.CaptureFixture[str], command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        command(name, "--help")
    assert not end.value.code
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    shown = " ".join(shown.replace("│", " ").split())
    assert f"python -m bench {name}" in shown
    assert "None" not in shown
    assert "(default: )" not in shown
    values = re.findall(r"(?:no, yes|yes, no): [^(]*\((?:default|tried by default): ([^;)]*)", shown)
    assert {word for value in values for word in value.split(", ")} <= {"no", "yes"}, "not as they are given"
    assert len(values) == {"race": 3, "tune": 3}.get(name, 0)


@pytest.mark.parametrize("name", bench_command.COMMANDS)
def test_help_names_the_program_of_an_option_that_is_of_another(
    name: str, capsys: pytest.CaptureFixture[str], command
) -> None:
    with pytest.raises(SystemExit):
        command(name, "--help")
    shown = capsys.readouterr().out
    option = re.compile(r"(?<![\w-])--[a-z][\w-]*")
    own = {found for line in re.findall(r"^[│ ]{0,2}(-.*)", shown, re.MULTILINE) for found in option.findall(line)}
    assert "--help" in own
    shown = " ".join(re.split(r"[│\s]+", shown))
    own_text = re.sub(r"(?:accelerate launch|gan/train\.py|pytest bench) --\S+", "", shown)
    assert set(option.findall(own_text)) <= own


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_command_and_says_what_it_does_in_80_columns(
    arguments: tuple[str, ...], command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = command(*arguments)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80
    for name, (kind, _) in bench_command.COMMANDS.items():
        assert f"{name} {kind.__doc__.splitlines()[0]}" in " ".join(shown.split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_of_kinds_that_tests_or_ci_run(document: Path) -> None:
    for line in blocks_of(document):
        for part in line.partition("#")[0].split("&&"):
            assert not part.strip() or TESTED.match(part.strip()) or RUN_BY_CI.match(part.strip()), part
