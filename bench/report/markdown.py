"""Results as Markdown, for a pull request or a README."""

from collections.abc import Sequence

from bench.report.notes import heading, notes, verdict_notes
from bench.report.tables import legend, tables
from bench.results.environment import typed
from bench.results.file import Results
from gan.display.tables import Table
from gan.files.text import in_markdown, printable


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    rules = ["---" if index < table.num_labels else "---:" for index in range(len(table.columns))]
    rows = (table.columns, rules, *table.rows)
    return "\n".join("| " + " | ".join(map(in_markdown, row)) + " |" for row in rows)


def markdown_list(lines: Sequence[str]) -> str:
    """Return lines as a list in Markdown."""
    return "\n".join(f"- {in_markdown(line)}" for line in lines)


def markdown(files: Sequence[Results]) -> str:
    """Return files as one document, with the meaning of the columns at its end."""
    parts = ["# Results", "Made by `python -m bench report --format markdown`."]
    shown = []
    for file in files:
        command = printable(typed(file.environment.command)).replace("`", "'")
        parts += [f"## {in_markdown(heading(file))}", f"{in_markdown(file.environment.line)}.", f"`{command}`"]
        parts.append(markdown_list(verdict_notes(file.cases, file.session)))
        for table in tables(file.cases):
            parts += [f"### {in_markdown(table.title)}", markdown_table(table)]
            shown.append(table)
        parts.append(markdown_list(notes(file.cases)))
    if lines := legend(shown):
        parts += ["## Columns", markdown_list(lines)]
    return "\n\n".join(filter(None, parts)) + "\n"
