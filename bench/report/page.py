"""Results as one HTML page with plots that opens offline."""

import io
import warnings
from collections.abc import Sequence

from matplotlib.figure import Figure

from bench.report.notes import heading, notes, verdict_notes
from bench.report.plots import figures
from bench.report.tables import legend, tables
from bench.results.file import Results
from gan.display.tables import Table
from gan.files.text import in_page

STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { margin-top: 3rem; border-bottom: 1px solid #d0d7de; font-size: 1.3rem }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #eaeef2 }
th { font-weight: 600; border-bottom: 1px solid #8c959f } .label { text-align: left }
figure { margin: 1.5rem 0 } figure svg { max-width: 100%; height: auto } figcaption { color: #57606a }
code { background: #f3f5f7; padding: .1rem .3rem; border-radius: 3px }
"""


def page(files: Sequence[Results]) -> str:
    """Return the page."""
    parts = ["<h1>GAN benchmark results</h1>"]
    shown: list[Table] = []
    for file in files:
        parts.append(f"<h2>{in_page(heading(file))}</h2><p>{in_page(file.environment.line)}</p>")
        parts.append(f"<p><code>{in_page(' '.join(file.environment.command))}</code></p>")
        parts.append(list_in_page(verdict_notes(file.cases, file.session)))
        parts += [figure_in_page(caption, figure) for caption, figure in figures(file.cases)]
        file_tables = tables(file.cases)
        parts += map(table_in_page, file_tables)
        parts.append(f"<h3>Notes</h3>{list_in_page(notes(file.cases))}")
        shown += file_tables
    parts.append(f"<h2>Columns</h2>{list_in_page(legend(shown))}")
    return whole_page("GAN benchmark results", parts)


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Return a page of these parts, which are HTML."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{in_page(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def list_in_page(lines: Sequence[str]) -> str:
    """Return lines as a list in HTML."""
    return f"<ul>{''.join(f'<li>{in_page(line)}</li>' for line in lines)}</ul>"


def table_in_page(table: Table) -> str:
    """Return a table in HTML, below its title."""

    def row(cells: Sequence[str], tag: str) -> str:
        shown = (
            f"<{tag}{' class=label' if index < table.num_labels else ''}>{in_page(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "td") for cells in table.rows)
    head = row(table.columns, "th")
    return f"<h3>{in_page(table.title)}</h3><div class=wide><table>{head}{body}</table></div>"


def figure_in_page(caption: str, figure: Figure) -> str:
    """Return a figure and its caption in HTML."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the page's reader may have its font
        figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawn = file.getvalue()
    return f"<figure>{drawn[drawn.index('<svg') :]}<figcaption>{in_page(caption)}</figcaption></figure>"
