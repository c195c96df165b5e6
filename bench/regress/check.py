"""`python -m bench regress`: is HEAD slower than BASE, here and now? Launch pairs that take turns.

The verdict is a function of the record, which is what the JSON file holds: see bench/regress/record.py.
"""

import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.regress.pair import QUADS, LaunchPairs, PairError, ask_both, launched_together, processes, spec_of
from bench.regress.record import (
    EPOCH,
    MEMORY,
    SCHEMA,
    STEP,
    caveats_of,
    clock,
    complaint_of,
    figures,
    markdown_of,
    notes_of,
    plan_of,
    read_record,
    table_of,
    verdict_of,
    write_record,
)
from bench.regress.trees import SIDES, Trees, alike, two_trees
from bench.regress.verdict import (
    INCONCLUSIVE,
    LEAST_MEMORY_PAIRS,
    PASS,
    REGRESSION,
    decide,
)
from bench.results.checks import worst_checks
from bench.results.environment import session_environment
from bench.results.folder import results_folder, try_writing
from bench.suite.cases import AXES, Case, parse_axis
from bench.suite.machine import Machine, impossible
from bench.suite.workloads import NUM_DIGITS
from gan.display.tables import Printer
from gan.errors import Interrupted, UsageError, require_known
from gan.files.atomic import require_other_files, whole_file
from gan.files.text import in_markdown, printable
from gan.models.mlp import MLP
from gan.options import optional
from gan.process.script import in_one_line
from gan.process.signals import ending_signals
from gan.recipes import RECIPES

CONVOLUTION_BATCH = 8
DEFAULT_CASES = (
    "quickstart",
    "mlp",
    "dcgan",
    "quickstart,compile=inductor",
    "quickstart,workload=epoch",
)
WORKLOADS = ("step", "epoch")
CANARY = 0.05
MOST_INJECTED = 0.5
MOST_PAIRS, MOST_QUADS, MOST_PRODUCTS = 2_000, 10_000, 10**9
"""What regress_schema.json takes, and what a machine can do."""
MOST_FAILED = 0.05
"""Of the pairs, and one: more end the check."""


@dataclass(frozen=True)
class RegressOptions:
    """Is HEAD slower than BASE? Fresh processes of both take turns, until the answer is clear.

    Exit code 0: pass, or faster. 1: a regression, or faster and wrong. 2: refused, or invalid. 3: inconclusive.
    """

    base: str = "main"
    """The revision to compare with: branch, tag or commit."""
    head: Path = Path()
    """The working tree to judge, as its files are now."""
    case: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A recipe and axes, as in mlp,compile=inductor,batch_size=32 or mlp,workload=epoch; repeat for more."""
    tolerance: str = "5%"
    """A pass excludes a slowdown as large as this. Slower is what is slower by more than 1 %, surely."""
    budget: str = "10m"
    """Stop after so long, whatever is known then: s, m or h."""
    dropped: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Recipes that HEAD has no more, and is not to have."""
    semantics: bool = True
    """Also check that HEAD's step is still the algorithm's (tier T1 of docs/stability.md)."""
    output: Annotated[Path | None, optional(Path, "PATH", "a new one in results/regress/")] = None
    """File for every window."""
    markdown: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Also write the summary as Markdown."""
    wide: bool = False
    """Leave no column out of a narrow terminal."""
    self_test: bool = False
    """Canaries instead: HEAD against itself, and against itself with 5 % more work in each step."""
    replay: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Judge this file again instead of measuring."""
    pairs: Annotated[int | None, optional(int, "INT", "as many as the verdict takes")] = None
    """Measure so many launch pairs, whatever the verdict; for pools (python -m bench pool)."""
    quads: int = QUADS
    """Most quads of windows a case and pair."""
    inject: Annotated[str | None, optional(str, "TEXT", "0%")] = None
    """Do so much more work in each of HEAD's steps, or with a minus sign so much less than in BASE's; 0% measures
    even where both sides are the same."""
    products: Annotated[int | None, optional(int, "INT", "measured")] = None
    """How many products of small matrices --inject is, as an earlier check's file says."""
    seed: Annotated[int | None, optional(int, "INT", "drawn")] = None
    """Of the orders."""

    @property
    def cases(self) -> dict[str, Case]:
        """The cases asked for, by name."""
        device = Machine.here().devices[-1]
        cases = [parse_case(text, device) for text in self.case or DEFAULT_CASES]
        return {name_of(case): case for case in cases}


def parse_fraction(flag: str, text: str) -> float:
    """Return 0.05 of `5%` or `0.05`; raise UsageError."""
    found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(%?)", text)
    if not found:
        raise UsageError(f"{flag} {text}: must be a percentage, as in 5%")
    return float(found[1]) / (100 if found[2] else 1)


def parse_seconds(flag: str, text: str) -> float:
    """Return 600.0 of `10m`; raise UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise UsageError(f"{flag} {text}: must be a time, as in 90s, 10m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def parse_case(text: str, device: str) -> Case:
    """Return the case of `recipe,axis=value,…`. Whether there is such a recipe, the trees know.

    Raises:
        UsageError: No such axis or value, or it cannot be compared.
    """
    recipe, *settings = text.split(",")
    given: dict[str, Any] = {"recipe": recipe, "device": device}
    known = [name for name in ("workload", *AXES) if name != "recipe"]
    for setting in settings:
        name, _, value = setting.partition("=")
        require_known(f"--case {text}: axis", name, known)
        if name == "workload":
            require_known(f"--case {text}: workload", value, WORKLOADS)
        given[name] = value if name == "workload" else parse_axis(name, [value])[0]
    if "batch_size" not in given and recipe in RECIPES:
        own = RECIPES[recipe].batch_size
        small = given["device"] == "cpu" and not isinstance(RECIPES[recipe].discriminator, MLP)
        given["batch_size"] = min(CONVOLUTION_BATCH, own) if small else own
    case = Case(**given)
    if recipe in RECIPES and (reason := impossible(case, Machine.here())):
        raise UsageError(f"--case {text}: {reason}")
    return case


def name_of(case: Case) -> str:
    """Return what tables and records call a case."""
    return case.id if case.workload == "step" else f"{case.workload} {case.id}"


def checks_folder() -> Path:
    """Return where checks are stored, relative to the working directory."""
    return results_folder() / "regress"


Say = Callable[[str], None]


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


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and a terminal that is closed end the check as Ctrl-C does: with no process and no tree left."""

    def end(number: int, _: Any) -> None:
        raise Interrupted("terminated; nothing was written", 128 + number)

    before = {number: signal.signal(number, end) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress() -> Iterator[Say]:
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda line: print(printable(line), file=sys.stderr, flush=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda line: progress.update(task, description=escape(printable(line)))


@dataclass(frozen=True)
class Settings:
    """What some options say.

    Attributes:
        tolerance: A slowdown that a pass excludes, as a fraction.
        budget_seconds: For all of it.
        dose: Of extra work in HEAD's steps, as a fraction; below 0 in BASE's.
        cases: By name, all of one device.
    """

    tolerance: float
    budget_seconds: float
    dose: float
    cases: dict[str, Case]


def settings_of(options: RegressOptions) -> Settings:
    """Read the options that need no tree; raise UsageError."""
    tolerance = parse_fraction("--tolerance", options.tolerance)
    if not 0.01 < tolerance < 1:
        raise UsageError(f"--tolerance {options.tolerance}: must be more than 1% and less than 100%")
    for flag, value, most in (
        ("--pairs", options.pairs, MOST_PAIRS),
        ("--quads", options.quads, MOST_QUADS),
        ("--products", options.products, MOST_PRODUCTS),
    ):
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"{flag} {value}: must be from 1 to {most:,}")
    dose = parse_fraction("--inject", options.inject or "0%")
    if abs(dose) > MOST_INJECTED:
        raise UsageError(f"--inject {options.inject}: must be from -{MOST_INJECTED:.0%} to {MOST_INJECTED:.0%}")
    cases = options.cases
    if len({case.device for case in cases.values()}) > 1:
        raise UsageError("--case: one device a check; give cpu and cuda in two checks")
    return Settings(tolerance, parse_seconds("--budget", options.budget), dose, cases)


def measure(options: RegressOptions, trees: Trees, say: Say) -> dict[str, Any]:
    """Measure until the answer is clear or the budget is over; return the record, JSON-ready.

    Raises:
        UsageError: What cannot be compared.
    """
    settings = settings_of(options)
    tolerance, cases = settings.tolerance, settings.cases
    began = time.monotonic()
    deadline = began + settings.budget_seconds
    say("BASE and HEAD: importing")
    survey = _survey(trees, cases, options, next(iter(cases.values())).device)
    in_head = {
        name: case
        for name, case in cases.items()
        if name not in survey["missing"]["head"] and name not in survey["dropped"]
    }
    measured = {name: case for name, case in in_head.items() if name not in survey["missing"]["base"]}
    semantics = _semantics(trees, in_head if options.semantics else {}, say)
    for side in SIDES:  # so that both compile in the first pair
        shutil.rmtree(trees.cache(side), ignore_errors=True)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "options": {
            "base": options.base,
            "tolerance": tolerance,
            "budget_seconds": settings.budget_seconds,
            "pairs": options.pairs,
            "inject": settings.dose,
        },
        "environment": {**session_environment(), "command": ["regress", *sys.argv[2:]]},
        "revisions": trees.revisions,
        "cases": {name: case.to_json() for name, case in measured.items()},
        **survey,
        **semantics,
        "failed_pairs": [],
        "pairs": [],
    }
    if not measured:
        raise UsageError(f"nothing to compare: {'; '.join(caveats_of(record))}")
    dose = settings.dose
    injected = {"head": dose} if dose > 0 else {"base": 1 / (1 + dose) - 1} if dose < 0 else {}
    pairs = LaunchPairs(trees, random.Random(options.seed), options.quads, injected, options.products)
    while True:
        waiting = _waiting(record)
        done = len(record["pairs"]) >= options.pairs if options.pairs else not waiting
        if done:
            break
        open_cases = list(measured) if options.pairs else [name for name in measured if name in waiting]
        last = record["pairs"][-1]["seconds"] if record["pairs"] else 0.0
        left = deadline - time.monotonic()
        too_little = left < _seconds_to_first_look(record, options.pairs)
        if record["pairs"] and (last > left or (too_little and len(record["pairs"]) >= LEAST_MEMORY_PAIRS)):
            break
        heading = _estimate(record, waiting, options.pairs, left)
        if too_little:
            heading += f"; --budget ends before the first look, after {plan_of(record)[0].pairs} pairs: raise it"
        if not sys.stderr.isatty():
            say(heading)
        else:
            pairs.say = lambda what, heading=heading: say(f"{heading} · {what}")  # type: ignore[misc]
        _add_pair(pairs, record, measured, open_cases)
    record["seconds"] = round(time.monotonic() - began, 1)
    record["verdict"] = verdict_of(record).to_json()
    return record


def _seconds_to_first_look(record: Mapping[str, Any], asked: int | None) -> float:
    """Return the time to the first look where each pair is as quick as the quickest so far; 0 if unknown."""
    times = [pair["seconds"] for pair in record["pairs"]]
    more = 0 if asked else plan_of(record)[0].pairs - len(times)
    return max(0, more) * min(times, default=0.0)


def _add_pair(
    pairs: LaunchPairs, record: dict[str, Any], cases: Mapping[str, Case], open_cases: Sequence[str]
) -> None:
    try:
        record["pairs"].append(pairs.measure(cases, open_cases))
    except PairError as error:
        record["failed_pairs"].append(str(error))
        if len(record["failed_pairs"]) > 1 + MOST_FAILED * len(record["pairs"]) or not record["pairs"]:
            raise UsageError(f"{error}; mend it, or choose another --case") from error
    if complaint := complaint_of(record):
        raise UsageError(complaint)


def _survey(trees: Trees, cases: Mapping[str, Case], options: RegressOptions, device: str) -> dict[str, Any]:
    """Find out which recipes both sides have."""
    with _refusing(), processes(trees, SIDES, device) as sides:
        known = {side: answers[0]["recipes"] for side, answers in ask_both(sides, "hello").items()}
    for case in cases.values():
        require_known("--case", case.recipe, dict.fromkeys((*known["head"], *known["base"])))
    lacking = {side: [name for name, case in cases.items() if case.recipe not in known[side]] for side in SIDES}
    dropped = [name for name in lacking["head"] if cases[name].recipe in options.dropped]
    return {
        "missing": {**lacking, "head": [name for name in lacking["head"] if name not in dropped]},
        "dropped": dropped,
        "gone": [name for name in known["base"] if name not in (*known["head"], *options.dropped)],
    }


def _semantics(trees: Trees, cases: Mapping[str, Case], say: Say) -> dict[str, Any]:
    """Find out whether HEAD's step is still the algorithm's; an epoch is judged by its step."""
    steps: dict[str, str] = {}
    for name, case in cases.items():
        steps.setdefault(case.id, name)
    judged = {name: cases[name] for name in steps.values() if _on_digits(cases[name])}
    semantics: dict[str, Any] = {}
    with _refusing():
        for together in launched_together(judged):
            case = judged[together[0]]
            with processes(trees, ("head",), case.device, case.num_processes) as sides:
                for name in together:
                    say(f"{name}: is it still the algorithm?")
                    semantics[name] = worst_checks(sides["head"].ask("semantics", spec_of(judged[name])))
    return {"semantics": semantics, "unjudged": [name for name in steps.values() if name not in judged]}


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except PairError as error:
        hint = (
            "choose a --base whose gan has what bench/regress/side.py needs" if error.side == "base" else "mend it"
        )
        raise UsageError(f"{error}; {hint}") from error


def _on_digits(case: Case) -> bool:
    """Say whether a case's step is judged by `bench.stability.tiers`, which has so many images."""
    recipe = RECIPES.get(case.recipe)
    return case.global_batch_size * (recipe.discriminator_steps if recipe else 1) <= NUM_DIGITS


def _waiting(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what has no verdict yet, and after how many pairs its next step is."""
    plan, tolerance = plan_of(record), record["options"]["tolerance"]
    found = {}
    for figure in figures(record):
        if figure.what != MEMORY:
            decision = decide(figure.values, plan, tolerance * figure.times)
            if decision.word is None:
                found[figure.case] = decision.pairs - len(figure.values)
    return found


def _estimate(record: Mapping[str, Any], waiting: Mapping[str, int], asked: int | None, left: float) -> str:
    """Say how many pairs there are, and how long it will be to the next look."""
    have = len(record["pairs"])
    more = asked - have if asked else max(waiting.values())
    heading = f"pair {have + 1} of {have + more}"
    if not have:
        return heading
    times = [pair["seconds"] for pair in record["pairs"]]
    seconds = sorted(times)[len(times) // 2] * more
    until = "the end" if asked else "the next look"
    return f"{heading}, about {clock(min(seconds, left))} to {until}, at most {clock(left)} in all"


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
