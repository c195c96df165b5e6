"""`python -m bench regress`: is HEAD slower than BASE, here and now?"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.regress.record import (
    EPOCH,
    STEP,
    markdown_of,
    notes_of,
    read_record,
    table_of,
    verdict_of,
    write_record,
)
from bench.regress.trees import SIDES, Trees, alike, two_trees
from bench.regress.verdict import (
    INCONCLUSIVE,
    PASS,
    REGRESSION,
)
from bench.results.folder import results_folder, try_writing
from gan.display.terminal import Printer
from gan.errors import Interrupted, UsageError, require_known
from gan.files.records import require_other_files, whole_file
from gan.files.text import in_markdown, printable
from gan.process.script import in_one_line
from gan.recipes import RECIPES

CANARY = 0.05


def checks_folder() -> Path:
    """Return where checks are stored, relative to the working directory."""
    return results_folder() / "regress"


def regress(options: RegressOptions) -> int:
    """Measure, or replay, and judge; return an exit code, of which 1 means a regression and nothing else.

    Raises:
        UsageError: Bad input, what cannot be compared, or whatever else went wrong, which is no regression.
    """
    try:
        return _regress(options)
    except (UsageError, Interrupted):
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{where}{error.strerror or error}; there is no verdict") from error
    except Exception as error:
        line = in_one_line(error, "", "the batch_size of --case")
        raise UsageError(f"{line}; there is no verdict") from error


def _regress(options: RegressOptions) -> int:
    outputs = {"--output": options.output, "--markdown": options.markdown}
    require_other_files(outputs, [options.replay] if options.replay else [])
    if options.replay:
        if options.output:
            raise UsageError(f"--output {options.output}: --replay measures nothing anew; leave out one of them")
        record = read_record(options.replay)
        return _show(record, options)
    settings_of(options)  # what is wrong with them is said before anything begins
    _refuse_where_nothing_can_be_written(options)
    with _terminable(), _progress() as say:
        if options.self_test:
            return _self_test(options, say)
        with two_trees(options.head, options.base) as trees:
            if options.inject is None and options.pairs is None and alike(trees):
                for case in options.cases.values():
                    require_known("--case", case.recipe, RECIPES)
                return _show_nothing(options, trees)
            record = measure(options, trees, say)
    path = options.output or _free_path(record)
    write_record(path, record)
    code = _show(record, options)
    print(printable(path))
    return code


def _refuse_where_nothing_can_be_written(options: RegressOptions) -> None:
    for flag, path in (("--output", options.output), ("--markdown", options.markdown)):
        if path and path.is_dir():
            raise UsageError(f"{flag} {path}: is a directory; name a file")
    folders = {
        f"{flag} {path}: {path.parent} is no directory that can be written to": path.parent
        for flag, path in (("--output", options.output), ("--markdown", options.markdown))
        if path
    }
    if not options.output and not options.self_test:
        wanted = checks_folder()
        existing = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
        folders[f"{wanted}: {existing} is no directory that can be written to; give --output FILE"] = existing
    for line, folder in folders.items():
        try:
            try_writing(folder)
        except OSError:
            raise UsageError(line) from None


def _free_path(record: Mapping[str, Any]) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return checks_folder() / f"regress-{now}-{record['revisions']['head'][:10]}.json"


def _show_nothing(options: RegressOptions, trees: Trees) -> int:
    """Say that no change is there to judge, which is no regression; without a figure, so that none can pass."""
    base, head = (trees.revisions[side][:10] for side in SIDES)
    line = (
        f"nothing to compare: gan and bench are the same in HEAD ({head}) and {options.base} ({base}); "
        "--inject 0% measures all the same"
    )
    print(printable(line))
    if options.markdown:
        with whole_file(options.markdown) as file:
            file.write(f"{in_markdown(line)}\n".encode())
    return 0


def _show(record: Mapping[str, Any], options: RegressOptions) -> int:
    verdict = verdict_of(record)
    printer = Printer(wide=options.wide, advice="--wide shows them")
    printer.table(table_of(record, verdict))
    for note in notes_of(record, verdict):
        printer.note(note)
    if options.markdown:
        with whole_file(options.markdown) as file:
            file.write(markdown_of(record, verdict).encode())
    return verdict.exit_code


def _self_test(options: RegressOptions, say: Say) -> int:
    """Let the gate see its canaries: HEAD against itself, and with real work added."""
    options = replace(options, case=options.case or DEFAULT_CASES[:1], semantics=False, pairs=None)
    found = {}
    for dose, expected in (("0%", PASS), (f"{CANARY:.0%}", REGRESSION)):
        with two_trees(options.head, None) as trees:
            record = measure(replace(options, base="itself", inject=dose), trees, say)
        judgements = verdict_of(record).judgements
        found[dose] = [(case, judgement.word) for case, what, judgement in judgements if what in (STEP, EPOCH)]
        _show(record, replace(options, markdown=None))
        for case, word in found[dose]:
            if (word == REGRESSION) != (expected == REGRESSION) or word == INCONCLUSIVE:
                raise UsageError(
                    f"the gate is blind: {case} with {dose} injected is {word}, not {expected}; "
                    "use a quieter machine, or raise --budget"
                )
    print("the gate sees its canaries")
    return 0
