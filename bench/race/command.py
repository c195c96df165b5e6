"""`python -m bench race`: measure or replay, print what came out, and return the exit code."""

import sys

from bench.race.measure import ContenderError, measure_race
from bench.race.options import RaceOptions, settings_of
from bench.race.places import places
from bench.race.record import races_folder, read_race, write_race
from bench.race.standing import outcome_of
from bench.race.summary import show_race
from bench.regress.command import kept_in, require_replay_alone, require_writable, require_writable_folder
from bench.regress.progress import ending_with_signals, progress_line
from bench.results.folder import stamped
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.text import printable
from gan.recipe_files import files_named


def race(options: RaceOptions) -> int:
    """Measure, or replay; return 0, or 1 if a contender failed.

    Raises:
        UsageError: Bad input, or what cannot be compared.
    """
    outputs = {"--output": options.output, "--markdown": options.markdown, "--html": options.html}
    require_other_files(outputs, [options.replay] if options.replay else [])
    views = {"markdown": options.markdown, "html": options.html}
    if options.replay:
        if options.contenders:
            names = " ".join(options.contenders)
            raise UsageError(f"{names}: --replay measures nothing anew; leave one of them out")
        require_replay_alone(options, "html", "contenders")
        return show_race(read_race(options.replay), wide=options.wide, **views)
    settings = settings_of(options)
    cases = [contender.case for contender in settings.contenders.values()]
    require_other_files(outputs, files_named(name for case in cases for name in (case.subject, case.recipe)))
    require_writable(outputs)
    if not options.output:
        require_writable_folder(races_folder())
    try:
        with ending_with_signals(), progress_line() as say, places(settings.contenders) as where:
            record = measure_race(settings, where, say)
    except ContenderError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 1
    path = options.output or stamped(races_folder(), "race")
    write_race(path, record, outcome_of(record))
    with kept_in(path):
        code = show_race(record, wide=options.wide, **views)
    print(printable(path))
    return code
