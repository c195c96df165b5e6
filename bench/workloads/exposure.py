"""The arm that tells where the time of a step in several processes goes, apart from the untouched step.

Other networks of the case take its steps: a hook of DDP cannot be taken away again. After a window the processes
tell one another when the slowest of them had the bytes of each message. One that waits before that waits for the
slowest process; one that waits after it waits for the link.
"""

import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import distributed

from bench.harness.clocks import Alignment, aligned, clock_is_shared
from bench.harness.windows import Arm
from bench.results.messages import COMPUTE, EXPLAINED, Message, exposed_part, waiting_part
from bench.workloads.exchanged import ExchangeRecorder, SeenMessage, SeenStep, exchange_period
from bench.workloads.setup import CoreSetup, another_state, steps_inside
from gan.surface import MeasuredRun

MOST_STEPS = 1000
"""Over whose latest the medians are."""


def explained_arm(setup: CoreSetup) -> Arm:
    """Return the case's step with its messages timed; its parts add up to it."""
    recorder = ExchangeRecorder(setup.device)
    with recorder.building() as finish:
        state = another_state(setup, setup.run.accelerator)
        finish(state)
    period = exchange_period(setup.run.recipe)
    ledger = Ledger(setup, recorder, period)
    steps = MeasuredRun(setup.run, state).steps()
    return Arm(
        EXPLAINED,
        steps_inside(lambda: recorder.step(state), steps),
        setup.images_per_step(),
        period,
        parts=ledger.parts,
        forget=ledger.forget,
    )


class Ledger:
    """Divides windows into their parts, and notes what is known of each message.

    Args:
        setup: Whose facts take the messages.
        recorder: Of the steps.
        period: Of what they exchange.
    """

    def __init__(self, setup: CoreSetup, recorder: ExchangeRecorder, period: int) -> None:
        self._device = setup.device
        self._facts = setup.facts
        self._period = period
        self._recorder = recorder
        self._has_one_clock = clock_is_shared()
        self._ready: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_STEPS))
        self._taken: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MOST_STEPS))
        self._facts["clock_error_seconds"] = 0.0

    def parts(self) -> dict[str, float]:
        """Return the seconds of each part of the steps since the last call. All processes have to call it."""
        steps = self._recorder.take()
        clock = Alignment() if self._has_one_clock else aligned(self._device)
        error_seconds = max(self._facts["clock_error_seconds"], clock.error_seconds)
        self._facts["clock_error_seconds"] = error_seconds
        ready = [message.ready_seconds for step in steps for message in step.messages]
        latest = torch.tensor(ready, dtype=torch.float64, device=self._device) + clock.offset_seconds
        distributed.all_reduce(latest, distributed.ReduceOp.MAX)
        of_all = iter((latest - clock.offset_seconds).tolist())
        latest_of_steps = [[next(of_all) for _ in step.messages] for step in steps]
        for step, latest_seconds in zip(steps, latest_of_steps, strict=True):
            self._note(step, latest_seconds)
        self._facts["messages"] = self._messages(steps[-self._period :])
        return divided(steps, latest_of_steps)

    def forget(self) -> None:
        """Leave out the steps since the last call of `parts`."""
        self._recorder.take()

    def _note(self, step: SeenStep, latest_seconds: Sequence[float]) -> None:
        """Keep when a step's messages were ready, and how long they took."""
        ready: dict[str, float] = {}
        taken: dict[str, float] = defaultdict(float)
        free_seconds = step.began_seconds
        for message, latest in zip(step.messages, latest_seconds, strict=True):
            ready.setdefault(message.name, latest - step.began_seconds)
            taken[message.name] += max(0.0, message.ended_seconds - max(latest, free_seconds))
            free_seconds = max(free_seconds, message.ended_seconds)
        for name, seconds in ready.items():
            self._ready[name].append(seconds)
        for name in self._taken.keys() | ready.keys():  # 0 of what is sent in other steps only
            self._taken[name].append(taken[name])

    def _messages(self, steps: Sequence[SeenStep]) -> list[dict[str, object]]:
        """Return what is known of each message of the steps of a period, in which some are sent more often."""
        by_name: dict[str, list[SeenMessage]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for step in steps:
            for message in step.messages:
                by_name[message.name].append(message)
            counts |= Counter(message.name for message in step.messages)
        return [
            asdict(
                Message(
                    name=name,
                    count=counts[name],
                    num_bytes=round(sum(message.num_bytes for message in messages) / len(steps)),
                    ready_seconds=max(0.0, statistics.median(self._ready[name])),
                    seconds=typical([*self._taken[name]], self._period),
                )
            )
            for name, messages in by_name.items()
        ]


def typical(values: Sequence[float], period: int) -> float:
    """Return the median over the latest whole periods of the mean of each.

    >>> typical([9.0, 1.0, 3.0, 1.0, 5.0, 1.0, 3.0], 2)
    2.0
    """
    if len(values) < period:
        return statistics.fmean(values)
    ends = range(len(values), period - 1, -period)
    return statistics.median(statistics.fmean(values[end - period : end]) for end in ends)


def divided(steps: Sequence[SeenStep], latest_of_steps: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the seconds of each part of steps that follow one another.

    Args:
        steps: As this process saw them.
        latest_of_steps: When the slowest process had the bytes of each message, on this process's clock.
    """
    parts = {COMPUTE: 0.0}
    for step, latest_seconds in zip(steps, latest_of_steps, strict=True):
        for message, latest in zip(step.messages, latest_seconds, strict=True):
            blocked = sum(end - begin for begin, end in message.blocked)
            waiting = sum(max(0.0, min(latest, end) - begin) for begin, end in message.blocked)
            for name, seconds in (
                (exposed_part(message.name), blocked - waiting),
                (waiting_part(message.name), waiting),
            ):
                parts[name] = parts.get(name, 0.0) + seconds
    whole = steps[-1].ended_seconds - steps[0].began_seconds
    parts[COMPUTE] = whole - sum(parts.values())
    return parts
