"""`python -m bench reference --submission FILE`: by the rules, and like the reference points?"""

import math
from dataclasses import replace
from pathlib import Path

from bench.quality.reference_points import CONSISTENT, UNDECIDED, Comparison, compare
from bench.quality.rules import LEAST_SEEDS, SUBMITTED_SEEDS, Rules
from bench.quality.submission import Submission, read_submission, write_submission
from bench.quality.summary import show
from bench.stability.references import references_folder, stored
from gan.display.tables import Printer
from gan.errors import UsageError
from gan.files.text import printable, significant
from gan.recipes import RECIPES


def check_submission(path: Path, *, make: bool, wide: bool = False) -> int:
    """Compare a submission with the reference points of its recipe, or keep it as those; return an exit code.

    Returns:
        0 if it is consistent, 1 if it took fewer or more images, 3 if too few seeds decide nothing.

    Raises:
        UsageError: It is not by the rules, or there are no reference points.
    """
    submission = read_submission(path)
    _require_rules(path, submission)
    target = _reference_path(submission)
    if make:
        _require_reference(path, submission)
        write_submission(target, submission)
        print(printable(target))
        return 0
    show([submission], wide=wide)
    printer = Printer()
    if len(submission.seeds) < SUBMITTED_SEEDS:
        printer.note(f"incomplete: {len(submission.seeds)} of {SUBMITTED_SEEDS} seeds; go on with --continue")
    if _is_own_recipe(submission):
        printer.note(f"{submission.recipe}: by the rules; a recipe of its own, which has no reference points")
        return 0
    target = stored(target)
    if not target.exists():
        raise UsageError(f"{path}: {target} does not exist; make it of ten seeds of the core with --make")
    reference = read_submission(target)
    if submission.terms != reference.terms:
        raise UsageError(f"{target}: made of an earlier row or by earlier rules; make it again with --make")
    result = compare(submission, reference)
    printer.note(_sentence(result))
    return {CONSISTENT: 0, UNDECIDED: 3}.get(result.word, 1)


def _sentence(result: Comparison) -> str:
    """Say what a comparison shows, without the numbers that its seeds do not give."""
    ratio = "no seed met the target"
    if math.isfinite(result.ratio):
        ratio = f"{significant(result.ratio, 3)} times the images of the reference"
    details = []
    if math.isfinite(result.low):
        details.append(f"95 %: {significant(result.low, 3)} to {significant(result.high, 3)}")
    if result.word == UNDECIDED:
        details.append(f"with fewer than {LEAST_SEEDS} seeds nothing is compared")
    else:
        details.append(f"p = {result.p:.2g}")
    return f"{result.word}: {ratio} ({'; '.join(details)})"


def _is_own_recipe(submission: Submission) -> bool:
    """Say whether a submission is of a recipe file, or of a row with other values."""
    if submission.recipe not in RECIPES:
        return True
    row = replace(RECIPES[submission.recipe], dataset=submission.rules.dataset)
    return (submission.row, submission.batch_size) != (row.to_json(), row.batch_size)


def _require_rules(path: Path, submission: Submission) -> None:
    """Raise UsageError if a submission is a trial, leaves seeds out, or was evaluated when it should not be."""
    if submission.rules != Rules.of(submission.rules.dataset):
        raise UsageError(f"{path}: not by the rules, but a trial ({submission.rules})")
    seeds = sorted(seed.seed for seed in submission.seeds)
    if seeds != list(range(len(seeds))):
        raise UsageError(f"{path}: has seeds {', '.join(map(str, seeds))}; none of 0, 1, 2, ... may be left out")
    if len(seeds) > SUBMITTED_SEEDS:
        raise UsageError(f"{path}: has {len(seeds)} seeds; by the rules there are {SUBMITTED_SEEDS}")
    for seed in submission.seeds:
        seen = 0
        for point in seed.course:
            due = submission.rules.next_evaluation(seen)
            seen = point.images
            if not due <= seen < due + submission.images_per_step:  # the first step that reaches it
                raise UsageError(
                    f"{path}: seed {seed.seed}: evaluated after {seen:,} images; by the rules it is after {due:,}"
                )


def _require_reference(path: Path, submission: Submission) -> None:
    """Raise UsageError if a submission cannot be a reference."""
    wanted = {"precision": "fp32", "compile": "no"}
    if _is_own_recipe(submission) or submission.subject != "core":
        raise UsageError(f"{path}: a reference is a row of gan/recipes.py, unchanged, trained by the core")
    if any(submission.settings.get(name) != value for name, value in wanted.items()):
        raise UsageError(f"{path}: a reference is in fp32 without a compiler")
    if len(submission.seeds) < SUBMITTED_SEEDS:
        raise UsageError(f"{path}: has {len(submission.seeds)} seeds; a reference has {SUBMITTED_SEEDS}")
    if not submission.reached:
        raise UsageError(f"{path}: no seed met the target, so no submission could be compared with it")


def _reference_path(submission: Submission) -> Path:
    return references_folder() / "time-to-quality" / f"{submission.recipe}-{submission.rules.dataset}.json"
