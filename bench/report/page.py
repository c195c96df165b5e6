"""Results as one HTML page with plots that opens offline, on a phone too, in light and dark."""

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from bench.report.drawing import drawing
from bench.report.notes import heading, notes, verdict_notes
from bench.report.overview import session_name, sessions, summary
from bench.report.plots import figures
from bench.report.tables import legend, tables
from bench.results.environment import typed
from bench.results.file import Results
from gan.display.tables import Table
from gan.files.text import in_page

TITLE = "GAN benchmark results"
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --code: #f3f5f7; --link: #0550ae; --blue: #0072b2; --red: #b34e00; --green: #007a58;
  font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back) }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --soft: #9aa4af; --line: #30363d;
  --code: #1c222b; --link: #6cb2ff; --blue: #58b4ee; --red: #f39a56; --green: #3fca9f } }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.6rem } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); font-size: 1.3rem }
h3 { margin: 1.6rem 0 .4rem; font-size: 1rem } a { color: var(--link) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
@media (max-width: 40rem) { th, td { padding: .2rem .35rem; font-size: .85rem } }
caption { margin: 1.6rem 0 .4rem; font-weight: 600; text-align: left }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } tbody th { font-weight: 400 } .label { text-align: left }
tr > .label:first-child { position: sticky; left: 0; background: var(--back) }
figure { margin: 1.5rem 0 } figcaption { color: var(--soft) }
figure svg { max-width: 100%; min-width: 40rem; height: auto; fill: currentColor }
figure svg text { font-family: "DejaVu Sans", Verdana, sans-serif }
code { background: var(--code); padding: .1rem .3rem; border-radius: 3px }
"""


def page(files: Sequence[Results]) -> str:
    """Return the page."""
    compared = list(sessions(files))
    shown: list[Table] = []
    links = [("summary", "Summary")]
    parts = ['<h2 id="summary">Summary</h2>', table_in_page(summary(files))]
    if compared:
        links.append(("sessions", "Sessions compared"))
        parts += ['<h2 id="sessions">Sessions compared</h2>', *map(table_in_page, compared)]
    for number, file in enumerate(files, start=1):
        name = f"s{number}"  # short, because it begins every id of the session's figures
        title = f"{session_name(file, files)}: {heading(file)}"
        links.append((name, title))
        parts.append(f'<h2 id="{name}">{in_page(title)}</h2>')
        file_tables = tables(file.cases)
        parts += _session(file, name, file_tables)
        shown += file_tables
    links.append(("columns", "Columns"))
    parts.append(f'<h2 id="columns">Columns</h2>{list_in_page(legend(shown))}')
    items = "".join(f'<li><a href="#{name}">{in_page(title)}</a></li>' for name, title in links)
    contents = f'<nav aria-label="Contents"><ul>{items}</ul></nav>'
    return whole_page(TITLE, [f"<h1>{TITLE}</h1>{contents}", *parts])


def _session(file: Results, name: str, file_tables: Sequence[Table]) -> Iterator[str]:
    yield f"<p>{in_page(file.environment.line)}</p><p><code>{in_page(typed(file.environment.command))}</code></p>"
    yield list_in_page(verdict_notes(file.cases, file.session))
    yield from map(table_in_page, file_tables)
    yield f"<h3>Notes</h3>{list_in_page(notes(file.cases))}"
    for number, (caption, figure) in enumerate(figures(file.cases), start=1):
        yield figure_in_page(caption, figure, f"{name}-{number}")


def whole_page(title: str, parts: Sequence[str]) -> str:
    """Return a page of these parts, which are HTML."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{in_page(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>{body}</body></html>\n"
    )


def list_in_page(lines: Sequence[str]) -> str:
    """Return lines as a list in HTML."""
    return f"<ul>{''.join(f'<li>{in_page(line)}</li>' for line in lines)}</ul>"


def table_in_page(table: Table) -> str:
    """Return a table in HTML, with its title as the caption. Labels are the heads of their row."""

    def row(cells: Sequence[str], scope: str) -> str:
        shown = []
        for index, cell in enumerate(cells):
            is_label = index < table.num_labels
            tag = f"th scope={scope}" if is_label or scope == "col" else "td"
            shown.append(f"<{tag}{' class=label' if is_label else ''}>{in_page(cell)}</{tag[:2]}>")
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row(cells, "row") for cells in table.rows)
    head = f"<caption>{in_page(table.title)}</caption><thead>{row(table.columns, 'col')}</thead>"
    return f"<div class=wide tabindex=0><table>{head}<tbody>{body}</tbody></table></div>"


def figure_in_page(caption: str, figure: Figure, name: str = "figure") -> str:
    """Return a figure and its caption in HTML; the name is unique on the page."""
    drawn = drawing(caption, figure, name)
    return f"<figure><div class=wide tabindex=0>{drawn}</div><figcaption>{in_page(caption)}</figcaption></figure>"
