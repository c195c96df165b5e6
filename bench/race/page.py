"""A race as one HTML page with a plot that opens offline."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from bench.race.record import FIRST, RaceRecord
from bench.race.standing import Standing
from bench.report.page import figure_in_page, list_in_page, table_in_page, whole_page
from bench.report.plots import COLOURS, GREY
from bench.results.environment import typed
from gan.display.tables import Table
from gan.files.text import in_page, in_plot

TITLE = "Race"
CAPTION = (
    "Time per image over that of the first contender. A dot is a launch pair, a line the 95 % interval; "
    "on the grey line both take the same time."
)


def race_page(
    record: RaceRecord,
    standings: Sequence[Standing],
    table: Table,
    sentences: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Return the page."""
    command = typed(record.environment.get("command", ()))
    parts = [
        f"<h1>{TITLE}</h1><p>{in_page(record.environment['time'])}</p><p><code>{in_page(command)}</code></p>",
        list_in_page(sentences),
        table_in_page(table),
        figure_in_page(CAPTION, ratios(record, standings)),
        f"<h3>Notes</h3>{list_in_page(notes)}",
    ]
    return whole_page(TITLE, parts)


def ratios(record: RaceRecord, standings: Sequence[Standing]) -> Figure:
    """Draw the ratio of each launch pair, and the interval of each contender."""
    others = [one for one in standings if one.ratio]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(others)), layout="constrained")
    axes = figure.add_subplot(xlabel=f"time per image over that of {in_plot(record.name(FIRST))}")
    axes.axvline(1, color=GREY, linewidth=0.8)
    for row, one in enumerate(others):
        assert one.ratio
        pairs = [math.exp(launch.log_ratio(one.letter)) for launch in record.launches]
        axes.plot(pairs, [row + 0.15] * len(pairs), "o", color=COLOURS[0], markersize=3, alpha=0.6)
        axes.plot([one.ratio.estimate], [row - 0.1], "D", color=COLOURS[1], markersize=5)
        if one.ratio.has_interval:
            axes.plot([one.ratio.low, one.ratio.high], [row - 0.1] * 2, color=COLOURS[1])
    axes.set_yticks(range(len(others)), [in_plot(one.name) for one in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    return figure
