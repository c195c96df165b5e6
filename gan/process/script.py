"""How a script ends: with one line for what went wrong, and an exit code."""

import contextlib
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import torch

from gan.errors import DivergedError, Interrupted, NotSavedError, PeerError, UnhealthyError, UsageError
from gan.files.text import first_line
from gan.process.ending import print_on_error
from gan.process.memory import gibibytes, held_by_others, is_out_of_memory
from gan.process.output import lasting_streams
from gan.process.peers import is_of_a_peer
from gan.process.place import launched_as_first_here, launched_as_main
from gan.process.signals import script_around

SECONDS_FOR_MAIN = 3.0
"""Other processes wait for so long, so that the main process speaks first and the launcher ends them."""
REQUESTED_MEMORY = re.compile(r"allocate (\d[\d.]*) ?(\w+)")


def exit_code_of(
    main: Callable[[], object],
    *,
    advice: str = "what was saved before is whole: mend this and --resume",
    interrupted: str = "interrupted before training began; nothing to save",
    lower: str = "--batch-size or --image-shape",
) -> int:
    """Run `main` and return an exit code: 0, 2 for bad input, 1 for a failure, 128 + the signal that stopped it.

    Of several processes, the main one prints its line at once and the others wait. If all fail alike, the launcher
    ends the others before they print. Unforeseen errors take one line too; their traceback goes to a file.

    It is no failure if nobody reads what is printed (a closed pipe), or if an encoding lacks a character. A full
    disk behind standard output is one; it is reported at the end.

    Args:
        main: Does the work; if it returns a whole number, that is the exit code.
        advice: What to do about an error of the operating system; ends its line.
        interrupted: The line for a Ctrl-C that `main` did not handle.
        lower: The options that take less memory if they are lowered.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    output = lasting_streams()
    with script_around():
        code = _code_of(main, advice, interrupted, lower)
    if output is not None and output.failure is not None:
        return _end(f"error: standard output: {output.failure.strerror}; what was printed is not whole", code or 2)
    return code


def _code_of(main: Callable[[], object], advice: str, interrupted: str, lower: str) -> int:
    try:
        code = main()
        return code if isinstance(code, int) else 0
    except UsageError as error:
        return _end("" if error.everywhere and not launched_as_main() else f"error: {error}", 2)
    except (DivergedError, UnhealthyError) as error:
        return _end(f"error: {error}", 1)
    except NotSavedError as error:  # on its host rank 0 says why
        return _end(f"error: {error}" if launched_as_first_here() else "", 1)
    except PeerError as error:  # at once, because the launcher ends the processes of a failed run
        print_on_error(f"error: {error}")
        return 1
    except Interrupted as stop:
        return _end(str(stop), stop.exit_code) if launched_as_main() else stop.exit_code
    except KeyboardInterrupt:
        return _end(interrupted, 130)
    except SystemExit:
        raise
    except BaseException as error:  # also a panic of safetensors, which is no Exception
        return _end(f"error: {in_one_line(error, advice, lower)}", 1, patient=is_of_a_peer(error))
    finally:
        sys.stdout.flush()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def in_one_line(error: BaseException, advice: str, lower: str) -> str:
    """Return one line that says what is wrong and, for unforeseen errors, which file has the traceback.

    Args:
        error: The error that ended the work.
        advice: As in `exit_code_of`; empty for none.
        lower: As in `exit_code_of`.
    """
    if is_out_of_memory(error):
        requested = REQUESTED_MEMORY.search(str(error))
        amount = f" ({_amount(*requested.groups())} asked for at once)" if requested else ""
        others = held_by_others() if "CUDA" in str(error) else ""
        end_others = f", or end other processes, which hold {others}" if others else ""
        return f"out of memory{amount}: lower {lower}{end_others}{_traceback_file(error)}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return "; ".join(filter(None, (f"{where}{error.strerror or error}", advice)))
    if is_of_a_peer(error):
        return f"another process of this run is gone, or cannot be reached{_traceback_file(error)}"
    message = first_line(error)
    return f"{type(error).__name__}{': ' if message else ''}{message}{_traceback_file(error)}"


def _amount(number: str, unit: str) -> str:
    return f"{gibibytes(int(number))} GiB" if unit == "bytes" else f"{number} {unit}"


def _traceback_file(error: BaseException) -> str:
    """Write the traceback to a new file, and return the end of a line that names it; empty if that fails."""
    try:
        text = "".join(traceback.format_exception(error))
        descriptor, path = tempfile.mkstemp(prefix="gan-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\n{text}")
    except (OSError, MemoryError, RecursionError):
        return ""
    return f"; the traceback is in {path}"


def _end(message: str, code: int, *, patient: bool = False) -> int:
    """Print a message, unless it is empty, and return `code`; wait for the main process first if `patient`."""
    if patient or not launched_as_main():
        time.sleep(SECONDS_FOR_MAIN)
    if message:
        print_on_error(message)
    return code
