"""The documents: short lines, links and paths that lead somewhere, and plain words."""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from bench.__main__ import COMMANDS
from bench.results.damage import SCHEMA_FILE
from bench.suite.cases import AXES
from bench.suite.workloads import WORKLOADS
from gan.command_line import parse
from gan.data.prepare import parse_prepare_options
from gan.options import parse_train_options
from gan.recipes import RECIPES
from gan.run_options import parse_evaluate_options, parse_sample_options
from tests.conftest import ROOT
from tests.documents import BLOCK, CODE, DOCUMENTS, MODULES

COLUMNS = 110
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:gan|bench|tests|docs|accelerate_configs|\.github)/[\w./-]*")
OPTION = re.compile(r"(?<![\w-])--(?!benchmark-)[a-zA-Z][\w-]*")  # those of pytest-benchmark are tested elsewhere
OF_OTHERS = {
    *(
        "--extra-index-url",
        "--check",
        "--exec",
        "--storage",
        "--adapter",
    ),  # pip, ruff, git, pytest-benchmark, Bencher
    *("--config_file", "--cpu", "--machine_rank", "--main_process_ip", "--main_process_port"),  # accelerate
    *("--max_restarts", "--rdzv_backend", "--rdzv_conf", "--log_dir"),  # accelerate, for torchrun
}
# Phrases that readers stumbled over, and what to write instead.
RIDDLES = {
    r"so manieth": "every Nth, or the sequence number",
    r"can be spoken of": "say what is undefined, and why",
    r"(?:seeds?|recipe|they) comes? to\b": "the outcome",
    r"used up": "say what ends, and when",
    r"undecided (?:D\b|discriminator|one)": "at chance level",
    r"\bin floors\b": "as a multiple of the floor",
    r"in (?:the|its|their) stead\b": "instead of",
}
PROSE = [*DOCUMENTS, ROOT / "CHANGELOG.md"]


def columns(line: str) -> int:
    """Return how many columns of a terminal a line takes: Korean letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


def anchors(path: Path) -> set[str]:
    """Return what GitHub lets a link to a heading of this document end with."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(path: Path) -> None:
    """Tables, code blocks, formulas and links cannot be broken."""
    text = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), path.read_text(encoding="utf-8"))
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(("|", "$$", "![")):
            assert columns(line) <= COLUMNS, f"{path.name}:{number}: {columns(line)} columns"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for text, target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name}: {target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{path.name}: {target}: there is no such heading"
        shown = text.strip("`")
        if PATH.fullmatch(shown):
            assert (ROOT / shown).resolve() in (linked, linked.parent), f"{path.name}: {shown} leads to {target}"


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_the_repository_exist(path: Path) -> None:
    named = {code for code in CODE.findall(path.read_text(encoding="utf-8")) if PATH.fullmatch(code)}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"{path.name}: {', '.join(missing)}"


def test_the_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    for top in ("gan", "bench"):
        for package in sorted(path.parent.name for path in (ROOT / top).glob("*/__init__.py")):
            assert f"`{top}/{package}`" in text, f"docs/architecture.md lacks {top}/{package}"
            assert f">{package}<" in picture, f"docs/images/architecture.svg lacks {top}/{package}"


def test_no_riddles() -> None:
    for path in [*PROSE, *MODULES]:
        text = " ".join(path.read_text(encoding="utf-8").split())
        for riddle, instead in RIDDLES.items():
            met = re.search(riddle, text)
            assert met is None, f"{path.relative_to(ROOT)}: '{met[0]}': write {instead}"


def tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Return the heads and rows of Markdown tables, without marks and without spaces before a percent sign."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    split = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks
    ]
    cleaned = [[[cell.strip("`").replace(" %", "%") for cell in row] for row in table] for table in split]
    return [(head, rows) for head, _, *rows in cleaned]


def test_the_tutorial_quotes_the_stored_session(command: Callable[..., tuple[int, str, str]]) -> None:
    code, report, _ = command("report", str(ROOT / "results"), "--format", "markdown")
    assert code == 0
    quoted = 0
    for head, rows in tables((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        for reported, values in tables(report):
            if len(head) > 5 and set(head) <= set(reported):
                shown = [[row[reported.index(column)] for column in head] for row in values]
                assert [row for row in rows if row not in shown] == []
                quoted += len(rows)
    assert quoted == 4


def test_options_in_the_documents_exist(capsys: pytest.CaptureFixture[str]) -> None:
    parsers = [parse_train_options, parse_sample_options, parse_evaluate_options, parse_prepare_options]
    parsers += [partial(parse, kind, name) for name, (kind, _) in COMMANDS.items()]
    for parse_help in parsers:
        with pytest.raises(SystemExit):
            parse_help(["--help"])
    texts = [capsys.readouterr().out, launch_command_parser().format_help()]
    texts.append((ROOT / "bench" / "conftest.py").read_text(encoding="utf-8"))
    known = {option for text in texts for option in OPTION.findall(text)} | OF_OTHERS
    known |= {"--" + name.replace("_", "-") for name in AXES}
    for path in DOCUMENTS:
        unknown = set(OPTION.findall(path.read_text(encoding="utf-8"))) - known
        assert not unknown or path.name == "log.md", (
            f"{path.name}: {unknown}"
        )  # the log tells of earlier ones, too


def test_the_architecture_names_every_module_beside_the_packages() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "gan").glob("*.py")} - {"__init__.py"}
    assert sorted(name for name in modules if f"`{name}`" not in text) == []


def test_documents_name_every_recipe_axis_and_workload() -> None:
    """Whoever adds one is told of the tables and sentences that list them."""
    for name in ("README.md", "docs/recipes.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not [recipe for recipe in RECIPES if f"`{recipe}`" not in text], f"{name} lacks them"
    assert len(RECIPES) == 24, "README.md and README.ko.md say twenty-four"
    benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    rows = [*(f"--{axis.replace('_', '-')}" for axis in AXES), *(f"test_{workload}" for workload in WORKLOADS)]
    assert not [row for row in rows if f"| `{row}` |" not in benchmarks], "docs/benchmarks.md lacks rows"
    case = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))["$defs"]["record"]["properties"]["case"]
    assert {*AXES, "workload"} == set(case["properties"]), "bench/results/schema.json lists the axes"
