"""What is measured for a prediction, in fresh processes: the step of rank 0, and sums between processes here."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.harness.host import child_environment
from bench.harness.messages import decode, encode
from bench.harness.processes import end, ending, last_lines, start
from bench.harness.world import worlds
from bench.predict.exchange import SAMPLES_NAME, Samples
from bench.predict.fit import Sample
from bench.predict.forks import ANSWER_NAME, Answer
from bench.predict.rehearsal import Order, Rehearsal
from bench.regress.progress import Say
from bench.suite.cases import Case
from gan.errors import UsageError
from gan.recipe_files import located

ROOT = Path(__file__).resolve().parents[2]
MEASURE_SECONDS = 2.0
STEP_TIMEOUT_SECONDS = 3600.0
SUMS_TIMEOUT_SECONDS = 600.0
"""These end what hangs. A process that fails ends the others at once, so what is only slow may take its time."""
POLL_SECONDS = 0.05


class MeasurementError(Exception):
    """What a prediction takes could not be measured, and why, in one line."""


def rehearsals(
    case: Case, sizes: Sequence[int], num_threads: int | None, folder: Path, say: Say
) -> dict[int, Rehearsal]:
    """Take the step of rank 0 of each number of processes, which PyTorch's fake process group pretends.

    Raises:
        UsageError: The case cannot be trained so.
        MeasurementError: The process died.
    """
    say(f"taking the step of {case.recipe} as rank 0 of {', '.join(f'{size:,}' for size in sizes)}")
    case = replace(case, recipe=located(case.recipe))  # the process works in another directory
    order = folder / "order.json"
    order.write_bytes(encode(Order(case, tuple(sizes), num_threads, MEASURE_SECONDS, os.getpid())))
    run_side_by_side([["bench.predict.forks", str(order)]], [{}], case.device, folder, STEP_TIMEOUT_SECONDS)
    answer = decode((folder / ANSWER_NAME).read_bytes(), Answer)
    if answer.refusal:
        raise UsageError(answer.refusal)
    if answer.failure:
        raise MeasurementError(answer.failure)
    return {rehearsal.num_processes: rehearsal for rehearsal in answer.rehearsals}


def sums_here(sizes: Sequence[int], folder: Path, say: Say) -> list[Sample]:
    """Measure sums between processes of this machine, through gloo; raise MeasurementError."""
    samples: list[Sample] = []
    for size in sizes:
        say(f"measuring sums between {size} processes")
        command = ["bench.predict.exchange", str(folder), str(os.getpid())]
        places = [world.variables for world in worlds(size)]
        run_side_by_side([command] * size, places, "cpu", folder, SUMS_TIMEOUT_SECONDS)
        samples += decode((folder / SAMPLES_NAME).read_bytes(), Samples).samples
    return samples


def run_side_by_side(
    commands: Sequence[Sequence[str]],
    places: Sequence[dict[str, str]],
    device: str,
    folder: Path,
    timeout_seconds: float,
) -> None:
    """Run modules side by side, and wait for them; raise MeasurementError if one fails or takes too long."""
    deadline = time.monotonic() + timeout_seconds
    started = []
    try:
        for rank, (command, place) in enumerate(zip(commands, places, strict=True)):
            log = folder / f"{rank}.log"
            environment = {**child_environment(device, ROOT), **place}
            process = start([sys.executable, "-m", *command], cwd=ROOT, environment=environment, log=log)
            started.append((process, log))
        running = started
        while running:
            if time.monotonic() > deadline:
                late = f"{commands[0][0]}: no answer in {timeout_seconds:.0f} s"
                raise MeasurementError(f"{late}; try again when the machine is less busy")
            for process, log in running:
                if code := process.poll():  # the others wait for this one
                    said = " ".join(last_lines(log, 1))
                    raise MeasurementError(f"{commands[0][0]}: {ending(code)}: {said}")
            running = [(process, log) for process, log in running if process.poll() is None]
            time.sleep(POLL_SECONDS)
    finally:
        end(*(process for process, _ in started))
