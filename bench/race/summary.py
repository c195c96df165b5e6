"""What is said of a race: its sentences, its table and its notes, in a terminal, in Markdown and as a page."""

import math
from collections.abc import Sequence
from pathlib import Path

from bench.race.contenders import label_of_subject
from bench.race.options import MOST_PAIRS
from bench.race.page import race_page
from bench.race.record import FIRST, MOST_FAILED, RaceRecord, RecordedContender
from bench.race.standing import LEAST_PAIRS, Ratio, Standing, failures_of, standings_of
from bench.regress.summary import clock
from bench.report.cells import NONE, mebibytes, milliseconds, number
from bench.report.markdown import markdown_list, markdown_table
from bench.report.means import mean_notes
from bench.results.finite import if_finite
from bench.results.warnings import OTHERS_LIMIT, STOLEN_LIMIT
from gan.display.tables import Printer, Table
from gan.files.atomic import whole_file
from gan.files.text import counted, in_markdown

WIDE_INTERVAL = 0.02
"""Half of an interval, as a fraction of the ratio, above which a line says what would narrow it."""
MOST_DECIMALS = 9
"""Of a ratio."""
MOST_LOSSES = 4
"""Columns of losses in the table; the record has all of them."""
GROWN = 1.1
GROWN_BYTES = 2**26
"""Memory that has grown by both while windows were taken is a leak."""


def show_race(
    record: RaceRecord, *, wide: bool = False, markdown: Path | None = None, html: Path | None = None
) -> int:
    """Print what to know of a race, and write it where paths are given; return the exit code."""
    standings = standings_of(record)
    printer = Printer(wide=wide, advice="--wide shows them")
    table = table_of(record, standings)
    sentences = sentences_of(standings)
    notes = notes_of(record, standings)
    for line in sentences:
        printer.line(line)
    printer.table(table)
    for note in notes:
        printer.note(note)
    if markdown:
        parts = [f"### {in_markdown(table.title)}", markdown_list(sentences), markdown_table(table)]
        with whole_file(markdown) as file:
            file.write("\n\n".join([*parts, markdown_list(notes), ""]).encode())
    if html:
        with whole_file(html) as file:
            file.write(race_page(record, standings, table, sentences, notes).encode())
    return 1 if failures_of(record) else 0


def table_of(record: RaceRecord, standings: Sequence[Standing]) -> Table:
    """Return a row for each contender."""
    step = standings[0].entry.early_losses.step
    losses = list(dict.fromkeys(name for one in standings for name in one.entry.early_losses.values or {}))
    shown = losses[:MOST_LOSSES]
    first = record.name(FIRST)
    times_first = f"× {first}"
    columns = ["contender", times_first, "95 % interval", "ms/step", "images/s", "peak MiB", "parameters"]
    columns += ["start-up s", *(f"{name}, step {step}" for name in shown)]
    rows = [_row(one, shown) for one in standings]
    expendable = ["start-up s", "parameters", *columns[:7:-1], "peak MiB", "images/s"]
    title = f"time per image over that of {first}: {record.settings}"
    return Table(title, columns, 1, rows, expendable)


def _row(standing: Standing, losses: Sequence[str]) -> list[str]:
    ratio = standing.ratio
    cells = [standing.name, "1" if ratio is None else f"{ratio.estimate:.{_decimals(ratio)}f}"]
    if ratio is None:
        cells.append(NONE)
    else:
        cells.append(_interval(ratio) if ratio.has_interval else "too few pairs")
    cells += [milliseconds(standing.step_seconds), f"{standing.images_per_second:,.0f}"]
    cells.append(mebibytes(standing.peak_bytes))
    cells.append(NONE if standing.num_parameters is None else f"{standing.num_parameters:,}")
    cells.append(number(standing.startup_seconds, "{:.1f}"))
    values = standing.entry.early_losses.values or {}
    for name in losses:
        cells.append(if_finite(values[name], "{:.4f}".format) if name in values else NONE)
    return cells


def _decimals(ratio: Ratio) -> int:
    """Return how many decimals of a ratio mean something: those above the first digit of its interval's half."""
    zeros = max(0, -1 - math.floor(math.log10(ratio.estimate)))  # behind the point: 0 for 0.1, and 1 for 0.05
    if not ratio.has_interval:
        return min(MOST_DECIMALS, 2 + zeros)
    half = max((ratio.high - ratio.low) / 2, 1e-9)
    return min(MOST_DECIMALS, 3 if not zeros else 4 + zeros, max(2 + zeros, -math.floor(math.log10(half))))


def _interval(ratio: Ratio) -> str:
    decimals = _decimals(ratio)
    return f"{ratio.low:.{decimals}f} to {ratio.high:.{decimals}f}"


def sentences_of(standings: Sequence[Standing]) -> list[str]:
    """Return a plain sentence for each contender but the first."""
    first, *others = standings
    return [_sentence(first, one, one.ratio) for one in others if one.ratio]


def _sentence(first: Standing, other: Standing, ratio: Ratio) -> str:
    estimate = f"{ratio.estimate:.{_decimals(ratio)}f}"
    if not ratio.has_interval:
        return (
            f"{other.name} took {estimate} × the time of {first.name} per image; "
            f"without an interval, which takes {LEAST_PAIRS} launch pairs, that may be noise"
        )
    takes = f"{other.name} takes {estimate} × the time of {first.name} per image ({_interval(ratio)})"
    if ratio.is_different:
        return takes
    most = max(ratio.high - 1, 1 - ratio.low)
    return f"no difference larger than ±{most:.1%} is there: {takes}"


def notes_of(record: RaceRecord, standings: Sequence[Standing]) -> list[str]:
    """Return what to know beside the table, a line each; failures first."""
    notes = failures_of(record)
    notes += [f"{one.name} is {one.subject}" for one in record.contenders.values() if _is_shortened(one)]
    notes += _notes_on_images(standings)
    notes += mean_notes({one.name: one.entry.period for one in standings})
    notes += _notes_on_noise(record, standings)
    notes += _notes_on_offers(standings)
    for one in standings:
        before = one.entry.peak_bytes
        after = one.entry.last_peak_bytes
        if after > GROWN * before + GROWN_BYTES:
            grown = f"from {mebibytes(before)} to {mebibytes(after)} MiB"
            notes.append(f"{one.name}: its memory grew {grown} while windows were taken")
    again = record.failed_launches[:MOST_FAILED]
    notes += [f"a launch pair failed and was measured again: {reason}" for reason in again]
    pairs = counted(len(record.launches), "launch pair")
    notes.append(f"{pairs} in {clock(record.seconds)}; {_memory_kind(standings)}")
    notes.append(record.machine)
    return notes


def _is_shortened(contender: RecordedContender) -> bool:
    """Say whether the name of a contender leaves a part of its subject's path out."""
    return contender.subject != label_of_subject(contender.subject)


def _memory_kind(standings: Sequence[Standing]) -> str:
    devices = {str(one.entry.configuration.get("device")) for one in standings}
    if devices == {"cpu"}:
        return "peak MiB is resident memory"
    if devices == {"cuda"}:
        return "peak MiB is memory allocated on the GPU"
    return "peak MiB is allocated on a GPU and resident on a CPU: not comparable"


def _notes_on_images(standings: Sequence[Standing]) -> list[str]:
    images = {one.images_per_step for one in standings}
    if len(images) == 1:
        return [f"a step takes {images.pop():,} images of all contenders: ratios are per step, too"]
    counts = ", ".join(f"{one.name} {one.images_per_step:,}" for one in standings)
    return [f"images of a step differ ({counts}): ratios are of the time per image, and not per step"]


def _notes_on_noise(record: RaceRecord, standings: Sequence[Standing]) -> list[str]:
    """Say how wide the intervals are, and what would narrow them."""
    notes = []
    num_pairs = len(record.launches)
    ratios = [one.ratio for one in standings if one.ratio and one.ratio.has_interval]
    if num_pairs < record.num_pairs and not record.has_failed:
        notes.append(f"--budget ended the race after {num_pairs} of {record.num_pairs} launch pairs: raise it")
    if ratios:
        widest = max(ratios, key=lambda ratio: ratio.half_width)
        line = f"the widest interval is ±{widest.half_width:.1%} of its ratio; launch pairs differ by "
        line += f"{widest.spread:.1%} (SD)"
        if widest.half_width > WIDE_INTERVAL and 4 * num_pairs <= MOST_PAIRS:
            line += f": --pairs {4 * num_pairs} would about halve the interval, and so might a quieter machine"
        elif widest.half_width > WIDE_INTERVAL:
            line += ": a quieter machine might narrow the interval"
        notes.append(line)
    busy_cores = max(launch.busy_cores for launch in record.launches)
    if busy_cores > OTHERS_LIMIT:
        notes.append(f"other processes kept up to {busy_cores:.1f} cores busy: stop them, then repeat")
    stolen_cores = max(launch.stolen_cores for launch in record.launches)
    if stolen_cores > STOLEN_LIMIT:
        notes.append(f"the host took up to {stolen_cores:.1f} cores away: trust the ratios, not the times")
    return notes


def _notes_on_offers(standings: Sequence[Standing]) -> list[str]:
    """Say what contenders do not offer, and what is left out because of it."""
    lacking = {
        "networks": [one.name for one in standings if one.num_parameters is None],
        "losses": [one.name for one in standings if one.entry.early_losses.values is None],
    }
    left_out = {"networks": "its parameters are not counted", "losses": "its losses are not compared"}
    return [f"{name} has no {offer}(): {left_out[offer]}" for offer, names in lacking.items() for name in names]
