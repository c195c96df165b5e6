"""The documents, the scripts and the texts of the code: which commands they show."""

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md", "accelerate_configs/README.md")),
    *(ROOT / name for name in ("results/README.md", "docs/examples/gate/README.md")),
    *sorted(ROOT.glob("docs/*.md")),
]
MODULES = sorted(path for top in ("gan", "bench") for path in (ROOT / top).rglob("*.py"))
SCRIPTS = [
    *sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    *(ROOT / name for name in (".ci/run", "docs/examples/pre-push", "docs/examples/track.yml")),
    *sorted(ROOT.glob("docs/examples/**/*.py")),
]
IN_SCRIPT = re.compile(
    r"^ *((?:python -m bench|python gan/|accelerate launch|pytest bench)[^<>|]*?)(?: \d?[<>|].*)?$", re.MULTILINE
)
SH_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
IN_MESSAGE = re.compile(r"(?:with|in|by|pictures): ?((?:python|pytest|accelerate) [^`;]*\S)$")
PLACEHOLDERS = {
    "NAME": "mlp",
    "--inject=DOSE": "--inject=3%",
    "REVISION": "HEAD",
    "$(gan-bench configs cpu_ddp)": "accelerate_configs/cpu_ddp.yaml",
    "$base": "HEAD",
    "node0,node1": "127.0.0.1,127.0.0.2",
    "$TMP/run": "runs/first",  # of scripts
}


@dataclass(frozen=True)
class Command:
    """Words of a command, and the document or module that shows it."""

    words: tuple[str, ...]
    document: str

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"


def commands(*beginning: str) -> list[Command]:
    """Return the commands shown anywhere that begin so, each once."""
    begin = len(beginning)
    chosen = {command.words: command for command in _commands() if command.words[:begin] == beginning}
    return [command for words, command in chosen.items() if words[begin:]]  # not where only its name is meant


@cache
def _commands() -> list[Command]:
    """Return all of them. Parsing every module takes a third of a second, and many tests ask."""
    shown = []
    lines = [(line, document.name) for document in DOCUMENTS for line in _lines_of(document)]
    lines += [
        (line, script.name) for script in SCRIPTS for line in IN_SCRIPT.findall(script.read_text(encoding="utf-8"))
    ]
    lines += [(line, str(module.relative_to(ROOT))) for module in MODULES for line in texts_of(module)]
    for line, source in lines:
        for part in re.split(r"&&|\|", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # not of a shell
                continue
            shown.append(Command(tuple(PLACEHOLDERS.get(word, word) for word in words), source))
    return shown


def _lines_of(document: Path) -> list[str]:
    return blocks_of(document) + _code_in(BLOCK.sub("", document.read_text(encoding="utf-8")))


def blocks_of(document: Path) -> list[str]:
    """Return the lines of a document's shell blocks, continued lines as one."""
    blocks = SH_BLOCK.findall(document.read_text(encoding="utf-8"))
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def programs_of(document: Path) -> list[str]:
    """Return a document's Python blocks."""
    return PYTHON_BLOCK.findall(document.read_text(encoding="utf-8"))


def texts_of(module: Path) -> list[str]:
    """Return what docstrings, help texts and messages of a module show as code or after 'make some with:'."""
    lines = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines += [re.sub(r"\[(\w+)\|.*?\]", r"\1", code) for code in _code_in(node.value)]
            lines += IN_MESSAGE.findall(node.value)
    return lines


def _code_in(text: str) -> list[str]:
    """Return what is between backticks; an ellipsis stands for what a reader puts there."""
    return [" ".join(code.split()) for code in CODE.findall(text) if "…" not in code]
