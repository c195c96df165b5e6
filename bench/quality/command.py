"""`python -m bench time-to-quality`: seeds one after another, each kept when it is done, and a table."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.quality.course import judge_for, reach_target
from bench.quality.options import PRECISIONS, QualityOptions
from bench.quality.rules import Rules
from bench.quality.submission import Submission, read_submission, write_submission
from bench.quality.summary import show
from bench.quality.trainees import TRAINEES, Trainee
from bench.regress.command import require_writable, require_writable_folder
from bench.regress.progress import ending_with_signals, progress_line
from bench.results.environment import SessionEnvironment, session_environment
from bench.subjects.process import accelerate_variables, forget_accelerator
from gan.errors import Interrupted, UsageError
from gan.files.locks import DirectoryLock, LockedError
from gan.files.text import printable
from gan.process.script import in_one_line
from gan.quality.judge import Judge
from gan.recipe_files import full_name
from gan.session.strategy import configure_backends

Say = Callable[[str], None]


def time_to_quality(options: QualityOptions) -> int:
    """Train the seeds that are missing, and show how all of them fared; return 0, or 1 if one failed.

    Raises:
        UsageError: Bad input, or a file that is not to be written over.
    """
    options.validate()
    against = [read_submission(options.against)] if options.against else []
    kept = _kept(options)
    holding: AbstractContextManager[None] = nullcontext()  # a complete file is only shown
    if kept is None or _missing_seeds(options, kept):
        require_writable({"--output": options.output})
        if not options.output:
            require_writable_folder(options.path.parent)
        holding = _holding(options.path)
    os.environ.update(_environment(options))
    forget_accelerator()
    try:
        with holding, ending_with_signals(), progress_line() as say:
            submission = _train(options, _kept(options), say)
    except Interrupted as stop:
        raise Interrupted(f"terminated; {_what_is_kept(options.path)}", stop.exit_code) from stop
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; {_what_is_kept(options.path)}", 128 + signal.SIGINT) from stop
    except OSError as error:
        raise UsageError(in_one_line(error, _what_is_kept(options.path), "--set batch_size")) from error
    show([submission, *against], wide=options.wide)
    print(printable(options.path))
    return 1 if submission.num_failed else 0


def _what_is_kept(path: Path) -> str:
    """Say what a command that was stopped leaves behind: a seed is written as soon as it is done."""
    if not path.exists():
        return "no seed was done, so nothing was written"
    count = len(read_submission(path).seeds)
    return f"{count} {'seed is' if count == 1 else 'seeds are'} done and kept in {path}; --continue goes on"


@contextmanager
def _holding(path: Path) -> Iterator[None]:
    """Keep other runs off a file until this one is done; raise UsageError where one of them holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = DirectoryLock(path.parent, f".{path.name}.lock")
    except LockedError as error:
        raise UsageError(f"{path.name} in {error}; wait for it, or name another --output") from error
    with lock:
        yield


def _kept(options: QualityOptions) -> Submission | None:
    """Return the submission to go on with, or None; raise UsageError where the file has one already."""
    if options.go_on and options.path.exists():
        return read_submission(options.path)
    if options.path.exists():
        raise UsageError(f"{options.path}: exists; go on with it by --continue, or name another --output")
    return None


def _environment(options: QualityOptions) -> dict[str, str]:
    """Return what Accelerate is told of device, precision and compiler."""
    variables = accelerate_variables(PRECISIONS[options.precision], options.compile)
    return {"ACCELERATE_USE_CPU": str(options.device == "cpu"), **variables}


def _train(options: QualityOptions, kept: Submission | None, say: Say) -> Submission:
    """Train each seed that is missing, and write the file after each."""
    torch.set_flush_denormal(True)  # for both loops, before the first parallel region
    configure_backends(options.train_options(0))
    rules = Rules.of(options.dataset, options.most_images)
    environment = session_environment()
    submission = _begun(options, rules, kept, environment)
    revision = _revision(environment)
    judge: Judge | None = None
    for seed in _missing_seeds(options, submission):
        if options.compile != "no":
            torch.compiler.reset()  # each seed pays for its compiler
            torch._inductor.config.force_disable_caches = True
        trainee = _trainee(options, seed)
        if trainee.place.world_size > 1:
            raise UsageError("time-to-quality: trains in one process; start it without a launcher")
        if (device := trainee.place.device.type) != options.device:
            raise UsageError(f"--device {options.device}: there is none here, and training would run on {device}")
        judge = judge or judge_for(trainee, rules)
        done = reach_target(trainee, judge, rules, seed, say)
        submission = submission.with_seed(replace(done, revision=revision))
        write_submission(options.path, submission)
    return submission


def _trainee(options: QualityOptions, seed: int) -> Trainee:
    """Return what trains a seed; raise UsageError, which names the options of this command."""
    try:
        return TRAINEES[options.subject](options.train_options(seed))
    except UsageError as error:
        raise UsageError(str(error).replace("--batch-size ", "--set batch_size=")) from error


def _missing_seeds(options: QualityOptions, submission: Submission) -> list[int]:
    """Return the seeds that are still to be trained, in order."""
    return sorted(set(range(options.seeds)) - {done.seed for done in submission.seeds})


def _asked(options: QualityOptions) -> dict[str, Any]:
    """Return the settings that the command line names."""
    return {"device": options.device, "precision": options.precision, "compile": options.compile}


def _revision(environment: Mapping[str, Any]) -> str:
    """Return the revision of the code, with `+` if files differ from it; empty outside a git checkout."""
    session = SessionEnvironment.of(environment)
    return f"{session.revision or ''}{'+' if session.dirty else ''}"


def _begun(
    options: QualityOptions, rules: Rules, kept: Submission | None, environment: Mapping[str, Any]
) -> Submission:
    """Return a submission without seeds, or the one to go on with; raise UsageError if that is another."""
    settings = {**_asked(options), "threads": torch.get_num_threads()}
    options_of_seed = options.train_options(0)
    begun = Submission(
        recipe=full_name(options.recipe),
        row=options_of_seed.row.to_json(),
        batch_size=options_of_seed.row.batch_size,
        subject=options.subject,
        settings=settings,
        rules=rules,
        seeds=(),
        environment=environment,
    )
    if kept is None:
        return begun
    if not _missing_seeds(options, kept):  # it is only shown, on whatever machine
        begun = replace(begun, environment=kept.environment, settings={**kept.settings, **_asked(options)})
    identities = [SessionEnvironment.of(one.environment).identity for one in (begun, kept)]
    differences = [
        name
        for name in ("recipe", "row", "batch_size", "subject", "settings", "rules")
        if getattr(begun, name) != getattr(kept, name)
    ]
    differences += [name for name in identities[0] if identities[0][name] != identities[1][name]]
    if differences:
        raise UsageError(
            f"--continue: {options.path} was begun with another {', '.join(differences)}; name another --output"
        )
    return kept
