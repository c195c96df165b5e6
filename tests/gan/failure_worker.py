"""Train, with a fault in one rank at one step: FAULT=rank:step:kind. What has been restarted has none.

TIGHT sets the time limit from the first step on: processes may take long to start on a busy machine.
LATE lets a process begin so many seconds later. DEVICE is what it says that it trains on.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

import gan.loop
import gan.session.run
from gan.options import TrainOptions
from gan.process.place import Alone
from gan.process.script import exit_code_of
from gan.process.watch import current_watch
from gan.session.alike import require_same_settings
from gan.session.inputs import epoch_inputs
from gan.train import main

num_steps = 0


def hang_without_python() -> None:
    """Hold the lock of the interpreter, so that no other thread of this process runs."""
    import ctypes

    ctypes.PyDLL(None).sleep(1000)


def fill_the_disk() -> None:
    raise OSError(28, "No space left on device", "run/checkpoints")


FAULTS = {
    "none": lambda: None,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": lambda: time.sleep(1000),
    "hang-without-python": hang_without_python,
    "full-disk": fill_the_disk,
}


def inputs_with_a_fault(*arguments: Any) -> Iterator[Any]:
    global num_steps
    rank, step, kind = os.environ["FAULT"].split(":")
    watch = current_watch()
    assert watch is not None
    for inputs in epoch_inputs(*arguments):
        num_steps += 1
        if num_steps == 2 and "TIGHT" in os.environ:
            watch.set_limit(float(os.environ["TIGHT"]))
        is_first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if is_first_start and (os.environ["RANK"], num_steps) == (rank, int(step)):
            print(f"fault at {time.time()}", flush=True)
            FAULTS[kind]()
        yield inputs


class OnDevice(Alone):
    """An Accelerator that names another device, as on a machine that has one."""

    def __init__(self, accelerator: Accelerator, device: str) -> None:
        super().__init__(accelerator)
        self.num_processes = accelerator.num_processes
        self.process_index = accelerator.process_index
        self.device = torch.device(device)


def require_same_settings_on_a_device(options: TrainOptions, accelerator: Accelerator) -> None:
    device = os.environ.get("DEVICE", accelerator.device.type)
    require_same_settings(options, OnDevice(accelerator, device))  # type: ignore[arg-type]


if __name__ == "__main__":
    time.sleep(float(os.environ.get("LATE", "0")))
    gan.session.run.require_same_settings = require_same_settings_on_a_device
    gan.loop.epoch_inputs = inputs_with_a_fault
    sys.exit(exit_code_of(main))
