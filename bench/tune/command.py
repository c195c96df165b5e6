"""`python -m bench tune`: measure or replay, say which setting to use, and return the exit code."""

import sys

from bench.race.measure import ContenderError
from bench.regress.command import kept_in, require_replay_alone, require_writable, require_writable_folder
from bench.regress.progress import ending_with_signals, progress_line
from bench.results.folder import stamped
from bench.tune.measure import tune_recipe, tuning_directory
from bench.tune.options import TuneOptions, settings_of
from bench.tune.record import read_tuning, tunings_folder, write_tuning
from bench.tune.summary import outcome_of_tuning, show_tuning
from gan.files.atomic import require_other_files
from gan.files.text import printable
from gan.recipe_files import files_named


def tune(options: TuneOptions) -> int:
    """Measure, or replay; return 0, or 1 if the default setting failed.

    Raises:
        UsageError: Bad input, or what cannot be compared.
    """
    outputs = {"--output": options.output, "--markdown": options.markdown}
    require_other_files(outputs, [options.replay] if options.replay else [])
    if options.replay:
        require_replay_alone(options)
        show_tuning(read_tuning(options.replay), wide=options.wide, markdown=options.markdown)
        return 0
    settings = settings_of(options)
    require_other_files(outputs, files_named([settings.default.recipe]))
    require_writable(outputs)
    if not options.output:
        require_writable_folder(tunings_folder())
    try:
        with ending_with_signals(), progress_line() as say, tuning_directory() as root:
            record = tune_recipe(settings, root, say)
    except ContenderError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    path = options.output or stamped(tunings_folder(), "tune")
    write_tuning(path, record, outcome_of_tuning(record))
    with kept_in(path):
        show_tuning(record, wide=options.wide, markdown=options.markdown, path=path)
    return 0
