"""`python -m bench predict`: measure what a prediction takes, predict, and return the exit code."""

import sys
from dataclasses import asdict

from bench.predict.against import compared, comparisons_json
from bench.predict.measure import MeasurementError, rehearsals, sums_here
from bench.predict.options import PredictOptions, PredictSettings, settings_of
from bench.predict.prediction import (
    FITTED_TO,
    HELD_OUT,
    PREDICTION,
    FittedLink,
    predictions,
    rehearsed_case,
    sizes_rehearsed,
)
from bench.predict.summary import assumptions, show_predictions
from bench.regress.command import require_writable
from bench.regress.progress import ending_with_signals, progress_line
from bench.results.environment import session_environment
from bench.runner.leftovers import temporary_directory
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.environment import num_available_cores
from gan.files.json_files import write_json
from gan.files.text import printable
from gan.process.launcher import num_threads_asked
from gan.recipe_files import files_named

PREDICT_SCHEMA = "gan-predict/1"
PREFIX = "gan-predict-"


def predict(options: PredictOptions) -> int:
    """Predict; return 0, or 1 if what it takes could not be measured.

    Raises:
        UsageError: Bad input.
    """
    require_other_files({"--output": options.output}, [path for path in (options.step, options.against) if path])
    settings = settings_of(options)
    require_other_files({"--output": options.output}, files_named([settings.case.recipe]))
    require_writable({"--output": options.output})
    num_cores = num_available_cores()
    num_threads = _num_threads(settings, num_cores)
    link = None
    try:
        with ending_with_signals(), progress_line() as say, temporary_directory(PREFIX) as root:
            if settings.cluster is None:
                sizes = [size for size in (*FITTED_TO, *HELD_OUT) if size > 1]
                link = FittedLink.of(sums_here(sizes, root, say), num_cores)
            taken = rehearsals(rehearsed_case(settings), sizes_rehearsed(settings), num_threads, root, say)
    except MeasurementError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        raise UsageError(f"{error.filename}: {error.strerror}; TMPDIR names another place") from error
    outcomes = predictions(settings, taken, link)
    if options.output:
        record = {
            "schema": PREDICT_SCHEMA,
            "kind": PREDICTION,
            "case": settings.case.to_json(),
            "assumptions": assumptions(settings, taken, link),
            "predictions": [outcome.to_json() for outcome in outcomes],
            "against": comparisons_json(compared(outcomes, settings.measured)) if settings.measured else [],
            "fitted_link": link and asdict(link),
            "rehearsals": [asdict(rehearsal) for rehearsal in taken.values()],
            "environment": session_environment(),
        }
        write_json(options.output, record)
    show_predictions(settings, outcomes, taken, link, wide=options.wide)
    if options.output:
        print(printable(options.output))
    return 0


def _num_threads(settings: PredictSettings, num_cores: int) -> int | None:
    """Return the CPU threads of a rehearsal; None for all cores, as of a process with a machine to itself."""
    if settings.measured_threads is not None:
        return min(settings.measured_threads, num_cores)
    if asked := num_threads_asked():
        return asked[0]
    return max(1, num_cores // max(settings.sizes)) if settings.cluster is None else None
