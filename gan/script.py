"""How a script ends: one line for what went wrong, and an exit code."""

import os
import sys
import time
from collections.abc import Callable

import torch

from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError

SECONDS_FOR_MAIN = 3.0


def exit_code_of(
    main: Callable[[], object],
    *,
    advice: str = "what was saved before is whole: mend this and --resume",
    interrupted: str = "interrupted before training began; nothing to save",
) -> int:
    """Run `main` and return its exit code: 0, 2 for bad input, 1 for a failure, 128 + the signal that stopped it.

    The main process says why at once. The others wait before they do, and the launcher will have ended them where
    all have the same to say. What is not foreseen keeps its traceback.

    Args:
        main: Does the work; where it returns a whole number, that is the exit code.
        advice: Follows an error of the operating system.
        interrupted: Said on Ctrl-C where `main` did not handle it.
    """
    try:
        code = main()
        return code if isinstance(code, int) else 0
    except UsageError as error:
        return _end(f"error: {error}", 2)
    except (DivergedError, UnhealthyError) as error:
        return _end(f"error: {error}", 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(f"error: {where}{error.strerror or error}; {advice}", 1)
    except Interrupted as stop:
        return _end(str(stop), stop.exit_code) if _is_main_process() else stop.exit_code
    except KeyboardInterrupt:
        return _end(interrupted, 130)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _end(message: str, code: int) -> int:
    if not _is_main_process():
        time.sleep(SECONDS_FOR_MAIN)
    print(message, file=sys.stderr, flush=True)
    return code
