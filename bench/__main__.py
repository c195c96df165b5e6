"""The commands of `python -m bench`."""

import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.path[0] == str(Path.cwd()) != str(Path(__file__).resolve().parent.parent):
    del sys.path[0]  # `python -m` puts the working directory first, and a `gan` or `bench` there is not ours
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
try:
    from bench.configs import ConfigsOptions, show_configs
    from bench.measure import SUMMARY, measure
    from bench.predict.command import predict
    from bench.predict.options import PREDICT_OPTIONS
    from bench.quality.command import time_to_quality
    from bench.quality.options import QualityOptions
    from bench.race.command import race
    from bench.race.options import RACE_OPTIONS
    from bench.reference import ReferenceOptions, reference
    from bench.regress.command import regress
    from bench.regress.history import HistoryOptions, history
    from bench.regress.options import RegressOptions
    from bench.regress.study.pairs import PairsOptions, pairs
    from bench.regress.study.pool import PoolOptions, pool
    from bench.report.commands import CompareOptions, ReportOptions, compare_files, show_results
    from bench.tune.command import tune
    from bench.tune.options import TUNE_OPTIONS
    from gan.command_line import parse
    from gan.errors import require_known
    from gan.process.program import command_of
    from gan.process.script import exit_code_of
except Exception as error:  # the working tree's code; with a traceback, the exit code would say REGRESSION
    print(f"error: {type(error).__name__}: {error}; the working tree does not import: mend it", file=sys.stderr)
    sys.exit(2)

MEASURE = "measure"
"""The command whose options are those of pytest."""
COMMAND_COLUMNS = 17
MIN_COLUMNS = 40
COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "report": (ReportOptions, show_results),
    "compare": (CompareOptions, compare_files),
    "reference": (ReferenceOptions, reference),
    "time-to-quality": (QualityOptions, time_to_quality),
    "race": (RACE_OPTIONS, race),
    "tune": (TUNE_OPTIONS, tune),
    "predict": (PREDICT_OPTIONS, predict),
    "regress": (RegressOptions, regress),
    "history": (HistoryOptions, history),
    "pairs": (PairsOptions, pairs),
    "pool": (PoolOptions, pool),
    "configs": (ConfigsOptions, show_configs),
}


def main() -> int:
    """Run the command that is named first, and return its exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_help()
        return 0
    command, *rest = arguments
    if command == MEASURE:
        return measure(rest)
    program = command_of("bench")
    require_known(program, command, [MEASURE, *COMMANDS])
    kind, act = COMMANDS[command]
    return act(parse(kind, f"{program} {command}", rest)) or 0


def _print_help() -> None:
    """Print each command with the first line of its help."""
    program = command_of("bench")
    width = max(MIN_COLUMNS, shutil.get_terminal_size().columns)
    print(f"usage: {program} COMMAND ...\n")
    summaries = {name: (kind.__doc__ or "").splitlines()[0] for name, (kind, _) in COMMANDS.items()}
    for name, summary in {MEASURE: SUMMARY, **summaries}.items():
        text = f"  {name:<{COMMAND_COLUMNS}}{summary}"
        print(textwrap.fill(text, width, subsequent_indent=" " * (COMMAND_COLUMNS + 2), break_on_hyphens=False))
    print(f"\n`{program} COMMAND --help` shows the options of a command.")


def run() -> int:
    """Run `main` and return the exit code."""
    return exit_code_of(main, advice="nothing was written", interrupted="interrupted", lower="the batch_size")


if __name__ == "__main__":
    sys.exit(run())
