"""A process that measures ends with the one that asked for it."""

import os
import threading
import time

import psutil


def end_with(owner: int) -> None:
    """End this process, from now on, when process `owner` is gone, however it went."""

    def watch() -> None:
        while psutil.pid_exists(owner):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
