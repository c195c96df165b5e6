"""A process that measures ends with the one that asked for it."""

import os
import threading
import time

import psutil


def end_with(owner: int) -> None:
    """End this process, from now on, when process `owner` is gone, however it went.

    One that is stopped cannot: `bench.runner.leftovers.prune` ends it in a later session.
    """
    try:
        process = psutil.Process(owner)
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while _lives(process):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(process: psutil.Process) -> bool:
    """Say whether it is the same process still: not a zombie, nor another that was given its number."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
