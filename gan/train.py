"""The script: `accelerate launch gan/train.py --recipe NAME`."""

import signal
import sys
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports, Ctrl-C has nothing to save
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from gan.loop import train
from gan.options import parse_train_options
from gan.process.script import exit_code_of
from gan.process.watch import reporting_failures
from gan.session.dry_run import dry_run


def main() -> None:
    """Train, or print what would be trained."""
    with reporting_failures():
        options = parse_train_options()
    if options.dry_run:
        dry_run(options)
    else:
        train(options)


def run() -> int:
    """Run `main` and return the exit code."""
    return exit_code_of(main)


if __name__ == "__main__":
    sys.exit(run())
