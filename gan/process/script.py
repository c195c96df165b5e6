"""How a script ends: one line for what went wrong, and an exit code. And how what it prints reaches its reader."""

import contextlib
import errno
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import torch

from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError
from gan.files.text import printable
from gan.process.output import lasting_streams

SECONDS_FOR_MAIN = 3.0
OUT_OF_MEMORY = re.compile(
    r"out of memory|memory allocation|(can.?t|cannot|unable to|could not|failed to) (m?alloc|mmap)\w*"
    r"|not enough memory|insufficient memory|bad.?alloc|alloc_failed|pointer is null"
    r"|storage size calculation overflowed",
    re.IGNORECASE,
)
ASKED = re.compile(r"allocate (\d[\d.]*) ?(\w+)")
PEER_GONE = re.compile(r"(closed|reset) by peer|broken pipe|gloo/", re.IGNORECASE)


def exit_code_of(
    main: Callable[[], object],
    *,
    advice: str = "what was saved before is whole: mend this and --resume",
    interrupted: str = "interrupted before training began; nothing to save",
    lower: str = "--batch-size or --image-shape",
) -> int:
    """Run `main` and return its exit code: 0, 2 for bad input, 1 for a failure, 128 + the signal that stopped it.

    The main process says why at once. The others wait before they do, and the launcher will have ended them where
    all have the same to say. What is not foreseen takes one line too, and its traceback goes to a file.

    What is printed from here on may lose its reader (a closed pipe); its encoding may lack a character. Neither is
    a failure. A full disk behind it is one, which is said at the end.

    Args:
        main: Does the work; where it returns a whole number, that is the exit code.
        advice: Follows an error of the operating system.
        interrupted: Said on Ctrl-C where `main` did not handle it.
        lower: What takes less memory.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    output = lasting_streams()
    code = _code_of(main, advice, interrupted, lower)
    if output is not None and output.failure is not None:
        return _end(f"error: standard output: {output.failure.strerror}; what was printed is not whole", code or 2)
    return code


def _code_of(main: Callable[[], object], advice: str, interrupted: str, lower: str) -> int:
    try:
        code = main()
        return code if isinstance(code, int) else 0
    except UsageError as error:
        return _end("" if error.everywhere and not _is_main_process() else f"error: {error}", 2)
    except (DivergedError, UnhealthyError) as error:
        return _end(f"error: {error}", 1)
    except Interrupted as stop:
        return _end(str(stop), stop.exit_code) if _is_main_process() else stop.exit_code
    except KeyboardInterrupt:
        return _end(interrupted, 130)
    except SystemExit:
        raise
    except BaseException as error:  # also a panic of safetensors, which is no Exception
        return _end(f"error: {in_one_line(error, advice, lower)}", 1, patient=_is_of_a_peer(error))
    finally:
        sys.stdout.flush()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def in_one_line(error: BaseException, advice: str, lower: str) -> str:
    """Return one line that says what is wrong and, where it was not foreseen, which file has the traceback.

    Args:
        error: What ended the work.
        advice: Follows an error of the operating system.
        lower: What takes less memory.
    """
    if _is_out_of_memory(error):
        asked = ASKED.search(str(error))
        amount = f" ({_amount(*asked.groups())} asked for at once)" if asked else ""
        return f"out of memory{amount}: lower {lower}{_traceback_file(error)}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; {advice}"
    if _is_of_a_peer(error):
        return f"another process of this run is gone, or cannot be reached{_traceback_file(error)}"
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}{': ' if message else ''}{message}{_traceback_file(error)}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    of_a_library = isinstance(error, RuntimeError) or not isinstance(error, Exception)
    return of_a_library and OUT_OF_MEMORY.search(str(error)) is not None


def _amount(number: str, unit: str) -> str:
    return f"{int(number) / 2**30:,.1f} GiB" if unit == "bytes" else f"{number} {unit}"


def _is_of_a_peer(error: BaseException) -> bool:
    """Say whether this process ends because another one did, which has the better reason to give."""
    if isinstance(error, torch.distributed.DistError):
        return True
    distributed = torch.distributed.is_initialized()
    return distributed and isinstance(error, RuntimeError) and PEER_GONE.search(str(error)) is not None


def _traceback_file(error: BaseException) -> str:
    """Write the traceback into a file of its own and return how to name it; nothing where it cannot be written."""
    try:
        text = "".join(traceback.format_exception(error))
        descriptor, path = tempfile.mkstemp(prefix="gan-traceback-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{sys.argv}\n{text}")
    except (OSError, MemoryError, RecursionError):
        return ""
    return f"; the traceback is in {path}"


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _end(message: str, code: int, *, patient: bool = False) -> int:
    if patient or not _is_main_process():
        time.sleep(SECONDS_FOR_MAIN)
    if message:
        print(printable(message), file=sys.stderr, flush=True)
    return code
