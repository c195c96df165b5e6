"""A process of a contender that measures nothing, without PyTorch: it starts in a tenth of a second.

The file that STUBS names says, by subject, how its processes behave: see `StubContender`.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.turns import messages as m
from bench.turns.serve import RefusedError, serve

STUBS = "GAN_TEST_STUBS"


@dataclass
class StubContender:
    """How a contender behaves.

    Attributes:
        step_seconds: That a step is said to take; a race measures few windows of slow steps.
        images_per_step: That it is said to take.
        losses: Of every step; None if it shows none.
        num_parameters: By network; None if it shows none.
        fails_at: Name of the command at which it fails.
        exits: With this code; None to say nothing any more.
        compiles_in: Number of the window in which a compiler runs.
        factors: Of the step's time, by a setting `name=value` of the case's options or environment.
        unfit: What fails in such a setting: `Prepare`, or the tier that it does not pass.
        unfit_processes: That a setting has to be judged in not to pass a tier; 0 if it never passes.
    """

    step_seconds: float = 0.5
    images_per_step: Any = 64
    losses: dict[str, float] | None = field(default_factory=lambda: {"loss_d": 0.5, "loss_g": 1.5})
    num_parameters: dict[str, int] | None = field(default_factory=lambda: {"G": 30, "D": 20})
    fails_at: str = ""
    exits: int | None = None
    compiles_in: int = -1
    factors: dict[str, float] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    unfit_processes: int = 0
    windows: int = 0

    def obey(self, command: m.SideCommand[Any]) -> Any:
        """Return a made-up answer."""
        if type(command).__name__ == self.fails_at:
            if self.exits is None:
                print("stalled", flush=True)
                time.sleep(600)
            os._exit(self.exits or 0)
        match command:
            case m.JudgeSemantics(case, precision):
                failing = [self.unfit[setting] for setting in settings_of(case) if setting in self.unfit]
                if self.unfit_processes not in (0, int(os.environ.get("WORLD_SIZE", "1"))):
                    failing = []
                tiers = ("T1", "T2") if precision else ("T1",)
                return m.Semantics(tuple(check_json(tier, tier in failing) for tier in tiers))
            case m.Prepare(case):
                for setting in settings_of(case):
                    self.step_seconds *= self.factors.get(setting, 1.0)
                    if self.unfit.get(setting) == "Prepare":
                        raise RefusedError(f"{setting} is not possible")
                configuration = {"device": "cpu", "precision": case.setup.get("precision", "fp32")}
                return m.Prepared(2.0, configuration, self.images_per_step, self.num_parameters)
            case m.TakeWindow(num_steps):
                self.windows += 1
                compiled = int(self.windows == self.compiles_in)
                return m.Window(num_steps * self.step_seconds, compiled)
            case m.ReadMemory():
                return m.Memory(2**28)
            case m.ReadLosses():
                return m.Losses(self.losses)
        return m.Done()


def settings_of(case: m.CaseSpec) -> list[str]:
    return [f"{name}={value}" for name, value in {**case.environment, **case.options}.items()]


def check_json(tier: str, fails: bool) -> dict[str, Any]:
    value = 2.0 if fails else 0.5
    members = {"tier": tier, "name": "gradients", "value": value, "limit": 1.0, "cause": "a stub"}
    return {**members, "reference": None, "undecided": False, "passed": not fails}


class Process:
    """One process, whose behaviour is known once it is told its subject."""

    def __init__(self) -> None:
        self.stub: StubContender | None = None

    def obey(self, command: m.SideCommand[Any]) -> Any:
        """Do what the subject's stub does."""
        if isinstance(command, m.Hello):
            return m.Greeting((), {"python": "3", "gpus": []})
        if isinstance(command, m.Spin):  # comes before the subject, too
            return m.Done()
        if isinstance(command, m.Prepare | m.JudgeSemantics):
            stubs = json.loads(Path(os.environ[STUBS]).read_text(encoding="utf-8"))
            self.stub = StubContender(**stubs[command.case.subject])
        assert self.stub
        return self.stub.obey(command)


if __name__ == "__main__":
    sys.exit(serve(lambda start: Process().obey))
