"""`python -m bench regress`: measure or replay, print what came out, and return the exit code."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.regress.check import measure_check
from bench.regress.judge import EPOCH, STEP, verdict_of
from bench.regress.options import DEFAULT_CASES, RegressOptions, settings_of
from bench.regress.progress import Say, ending_with_signals, progress_line
from bench.regress.record import checks_folder, read_record, write_record
from bench.regress.settings import CheckSettings
from bench.regress.sides import SIDES
from bench.regress.subject_case import require_file, subject_in
from bench.regress.summary import show_check
from bench.regress.trees import Trees, alike, repository_of, two_trees
from bench.regress.verdict import INCONCLUSIVE, PASS, REGRESSION
from bench.results.folder import stamped, try_writing
from bench.suite.cases import Case
from gan.command_line import require_alone
from gan.errors import Interrupted, UsageError
from gan.files.atomic import require_other_files, whole_file
from gan.files.text import in_markdown, printable
from gan.process.script import in_one_line
from gan.recipe_files import files_named
from gan.recipes_small import require_row

CANARY_DOSE = 0.05
USED_BY_SELF_TEST = ("self_test", "head", "case", "subject", "tolerance", "budget", "wide")


def regress(options: RegressOptions) -> int:
    """Measure, or replay, and judge; return an exit code, of which 1 means a regression and nothing else.

    Raises:
        UsageError: Bad input, what cannot be compared, or whatever else went wrong, which is no regression.
    """
    try:
        return _regress(options)
    except (UsageError, Interrupted):
        raise
    except Exception as error:
        line = in_one_line(error, "", "the batch_size of --case")
        raise UsageError(f"{line}; there is no verdict") from error


def _regress(options: RegressOptions) -> int:
    outputs = {"--output": options.output, "--markdown": options.markdown}
    require_other_files(outputs, [options.replay] if options.replay else [])
    if options.replay:
        require_replay_alone(options)
        return show_check(read_record(options.replay), wide=options.wide, markdown=options.markdown).exit_code
    if options.self_test:
        require_alone(options, USED_BY_SELF_TEST, "--self-test compares HEAD with itself, and writes no file")
    if options.subject:
        repository = repository_of(options.head)
        subject = subject_in(repository, options.subject)
        require_other_files(outputs, [repository / path for path in files_named([subject])])
        options = replace(options, subject=subject)
    settings = settings_of(options)
    require_writable(outputs)
    if not options.output and not options.self_test:
        require_writable_folder(checks_folder())
    with ending_with_signals(), progress_line() as say:
        if options.self_test:
            return _self_test(options, say)
        with two_trees(options.head, options.base, for_subject=bool(options.subject)) as trees:
            if options.subject:
                require_file(trees, options.subject, options.base)
            if options.inject is None and alike(trees):
                for case in settings.cases.values():
                    if isinstance(case, Case):
                        require_row("--case", case.recipe, takes_settings=False)
                return _show_nothing(options, trees)
            record = measure_check(settings, trees, say)
    path = options.output or stamped(checks_folder(), "regress", record.revisions.head[:10])
    write_record(path, record, verdict_of(record).to_json())
    with kept_in(path):
        verdict = show_check(record, wide=options.wide, markdown=options.markdown)
    print(printable(path))
    return verdict.exit_code


def require_replay_alone(options: Any, *others: str) -> None:
    """Raise UsageError for options of measuring beside --replay.

    Args:
        options: Of a command that measures, or shows what was measured.
        others: Names of options that have an effect on what is shown, besides those of all such commands.
    """
    require_alone(options, ("replay", "markdown", "wide", *others), "--replay measures nothing anew")


def require_writable(outputs: Mapping[str, Path | None]) -> None:
    """Refuse options' files that could not be written, before anything is measured; raise UsageError."""
    paths = {flag: path for flag, path in outputs.items() if path}
    for flag, path in paths.items():
        if path.is_dir():
            raise UsageError(f"{flag} {path}: is a directory; name a file")
    for flag, path in paths.items():
        _try_writing(path.parent, f"{flag} {path}: {path.parent} is no directory that can be written to")


def require_writable_folder(folder: Path, advice: str = "give --output FILE") -> None:
    """Refuse a folder for records that could not be written to, or made; raise UsageError with advice."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    _try_writing(existing, f"{folder}: {existing} is no directory that can be written to; {advice}")


def _try_writing(folder: Path, complaint: str) -> None:
    try:
        try_writing(folder)
    except OSError:
        raise UsageError(complaint) from None


@contextmanager
def kept_in(record: Path) -> Iterator[None]:
    """Say where a record is, if what follows it cannot be written; raise UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(in_one_line(error, f"what was measured is in {record}", "")) from error


def _show_nothing(options: RegressOptions, trees: Trees) -> int:
    """Say that no change is there to judge, which is no regression; without a figure, so that none can pass."""
    base, head = (trees.revisions[side][:10] for side in SIDES)
    what = "gan and bench are" if trees.has_gan else "every file is"
    line = (
        f"nothing to compare: {what} the same in HEAD ({head}) and {options.base} ({base}); "
        "--inject 0% measures all the same"
    )
    print(printable(line))
    if options.markdown:
        with whole_file(options.markdown) as file:
            file.write(f"{in_markdown(line)}\n".encode())
    return 0


def _self_test(options: RegressOptions, say: Say) -> int:
    """Let the check judge its two canaries: HEAD against itself, and against itself with more work."""
    cases = options.case or (() if options.subject else DEFAULT_CASES[:1])
    options = replace(options, base="itself", case=cases, semantics=False)
    settings = settings_of(options)
    for dose, expected in ((0.0, PASS), (CANARY_DOSE, REGRESSION)):
        injected = replace(settings, options=replace(settings.options, inject=dose))
        _judge_canary(options, injected, expected, say)
    print("the gate sees its canaries")
    return 0


def _judge_canary(options: RegressOptions, settings: CheckSettings, expected: str, say: Say) -> None:
    """Measure HEAD against itself; raise UsageError if the verdict is not the expected one."""
    with two_trees(options.head, None, for_subject=bool(options.subject)) as trees:
        verdict = show_check(measure_check(settings, trees, say), wide=options.wide)
    for figure, judgement in verdict.judgements:
        if figure.what not in (STEP, EPOCH):
            continue
        is_as_expected = (judgement.word == REGRESSION) == (expected == REGRESSION)
        if not is_as_expected or judgement.word == INCONCLUSIVE:
            raise UsageError(
                f"the gate is blind: {figure.case} with {settings.options.inject:.0%} injected is "
                f"{judgement.word}, not {expected}; use a quieter machine, or raise --budget"
            )
