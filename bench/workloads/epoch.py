"""A whole epoch of `gan/train.py`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bench.harness.exchange import Report, reported
from bench.harness.windows import Arm
from bench.workloads.setup import CoreSetup, plain_arm, repeated
from gan.display.progress import Display
from gan.loop import train_until


def epoch(setup: CoreSetup) -> Iterator[Arm]:
    """A whole epoch of `gan/train.py`, log points included, against as many images of the plain loop."""
    run = replace(setup.run, display=_Reporting(setup.report))
    state = setup.state

    def one_epoch() -> None:
        train_until(run, state, state.progress.step + run.steps_per_epoch, recorded=False)

    yield Arm("epoch", repeated(one_epoch), len(run.dataset), steps_per_window=1)
    plain = plain_arm(setup.case)
    yield replace(
        plain, steps=reported(plain.steps, setup.report, "plain"), period=1, steps_per_window=run.steps_per_epoch
    )


class _Reporting(Display):
    """Reports what an epoch shows at its log points, so that the process is not taken to hang."""

    def __init__(self, report: Report) -> None:
        super().__init__(enabled=False, total_steps=0)
        self._report = report

    def step(self, step: int, description: str, metrics: Mapping[str, Any], seconds_left: float) -> None:
        super().step(step, description, metrics, seconds_left)
        self._report(f"{description}, step {step}")
