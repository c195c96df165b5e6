"""What is said of a tuning: the recommendation first, then its command, a table and notes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.race.standing import LEAST_PAIRS, Ratio, failures_of, outcome_of, standings_of
from bench.race.summary import sentences_of
from bench.regress.summary import clock
from bench.report.cells import NONE, number
from bench.report.markdown import markdown_list, markdown_table
from bench.report.means import mean_notes
from bench.tune.record import FINAL_RACE, RecordedTrial, TuneRecord
from bench.tune.search import HOPELESS, LEAST_GAIN
from gan.display.tables import Printer, Table
from gan.files.atomic import whole_file
from gan.files.text import in_markdown, printable


@dataclass(frozen=True)
class Decision:
    """What a tuning recommends.

    Attributes:
        setting: The default or the finalist.
        ratio: Of the finalist's time per image to the default's; None without a race.
        sentence: What was decided, and why.
    """

    setting: RecordedTrial
    ratio: Ratio | None
    sentence: str


def decision_of(record: TuneRecord) -> Decision:
    """Return what a record recommends: the finalist if its interval lies below 1 and it is better by over 1 %."""
    default = record.default
    keep = f"keep the default, {default.name}"
    if record.race is None:
        why = "no other setting could be measured"
        if any(trial.heats for trial in record.trials):
            why = "no other setting that may be used was faster"
        if lost := [trial for trial in record.trials if trial.dropped.startswith(FINAL_RACE)]:
            why = f"{lost[0].name} was the fastest, but failed in the final race"
        return Decision(default, None, f"{keep}: {why}")
    ratio = standings_of(record.race)[1].ratio
    assert ratio
    finalist = next(trial for trial in record.trials if trial.name == record.finalist)
    if failures := failures_of(record.race):
        why = f"{finalist.name} was the fastest, but in the final race {'; '.join(failures)}"
        return Decision(default, ratio, f"{keep}: {why}")
    interval = f"({ratio.low:.3f} to {ratio.high:.3f})"
    shown = f"{finalist.name} takes {ratio.estimate:.3f} × its time per image {interval}"
    if not ratio.has_interval:
        too_few = f"{len(record.race.launches)} of {LEAST_PAIRS} launch pairs that an interval takes"
        why = f"there was time for {too_few}; {finalist.name} may be faster: raise --budget"
        return Decision(default, ratio, f"{keep}: {why}")
    if ratio.high < 1 and ratio.estimate < 1 / (1 + LEAST_GAIN):
        took = f"it takes {ratio.estimate:.3f} × the time of the default, {default.name}, per image"
        return Decision(finalist, ratio, f"use {finalist.name}: {took} {interval}")
    if ratio.low > 1 / (1 + LEAST_GAIN):
        return Decision(default, ratio, f"{keep}: the best other setting is not better by 1 %; {shown}")
    return Decision(default, ratio, f"{keep}: whether another one is better is open; {shown}: raise --budget")


def outcome_of_tuning(record: TuneRecord) -> dict[str, Any]:
    """Return what follows from a record, JSON-ready."""
    decision = decision_of(record)
    return {
        "setting": decision.setting.name,
        "command": decision.setting.command,
        "sentence": decision.sentence,
        "race": outcome_of(record.race) if record.race else None,
    }


def show_tuning(
    record: TuneRecord, *, wide: bool = False, markdown: Path | None = None, path: Path | None = None
) -> None:
    """Print what to know of a tuning, its file, and the command to train with.

    Args:
        record: The tuning.
        wide: Show all columns.
        markdown: Also write it here.
        path: The file that was just written.
    """
    decision = decision_of(record)
    printer = Printer(wide=wide, advice="--wide shows them")
    table = table_of(record)
    notes = notes_of(record)
    printer.line(decision.sentence)
    printer.table(table)
    for note in notes:
        printer.note(note)
    if path:
        print(printable(path))
    printer.line("")
    print(decision.setting.command)  # in one line, to be copied
    if markdown:
        parts = [f"### {in_markdown(table.title)}", in_markdown(decision.sentence)]
        parts += [f"```sh\n{decision.setting.command}\n```", markdown_table(table), markdown_list(notes), ""]
        with whole_file(markdown) as file:
            file.write("\n\n".join(parts).encode())


def table_of(record: TuneRecord) -> Table:
    """Return a row for each setting that was measured, the fastest first."""
    columns = ["setting", "× default", "T1, T2", "heats", "quads", "outcome"]
    measured = sorted((one for one in record.trials if one.heats), key=lambda one: one.heats[-1].log_ratio)
    rows = [[f"{record.default.name} (default)", "1", NONE, NONE, NONE, ""]]
    for one in measured:
        quads = sum(heat.num_quads for heat in one.heats)
        cells = [one.name, number(one.ratio, "{:.3f}"), _verdict(one), str(len(one.heats)), str(quads)]
        rows.append([*cells, _outcome(record, one)])
    title = f"time per image over that of the default: {record.what}"
    return Table(title, columns, 1, rows, ("quads", "heats", "outcome", "T1, T2"))


def _verdict(trial: RecordedTrial) -> str:
    if trial.checks is None:
        return NONE
    return "FAIL" if any(check.failed for check in trial.checks) else "pass"


def _outcome(record: TuneRecord, trial: RecordedTrial) -> str:
    if trial.name == record.finalist:
        return "finalist"
    if trial.dropped:
        return "dropped"
    return "slower" if trial.heats[-1].log_ratio > HOPELESS else "not the best"


def notes_of(record: TuneRecord) -> list[str]:
    """Return what to know beside the table, a line each."""
    notes = []
    if record.race:
        standings = standings_of(record.race)
        notes += [f"final race: {sentence}" for sentence in sentences_of(standings)]
        notes += mean_notes({one.name: one.entry.period for one in standings})
    dropped: dict[str, list[str]] = {}
    for trial in record.trials:
        if trial.dropped and not _tried_elsewhere(record, trial):
            dropped.setdefault(trial.dropped, []).append(trial.name)
    for reason, names in dropped.items():
        measured = any(trial.heats for trial in record.trials if trial.name in names)
        notes.append(f"{'dropped' if measured else 'not possible'}: {', '.join(names)}: {reason}")
    notes.append("× default of a setting is from its last heat, one launch; only the final race has an interval")
    notes.append(f"the search ended: {record.ended}; {clock(record.seconds)} of {clock(record.budget_seconds)}")
    notes.append(record.machine)
    return notes


def _tried_elsewhere(record: TuneRecord, trial: RecordedTrial) -> bool:
    """Say whether what makes a setting impossible beside the default was measured beside something else."""
    change = {name: value for name, value in trial.axes.items() if record.default.axes.get(name) != value}
    others = [one for one in record.trials if one.heats]
    return not trial.heats and any(change.items() <= one.axes.items() for one in others)
