"""A process of a launch pair that measures nothing, without PyTorch: it starts in a tenth of a second.

`gan/stub.json` of its tree says what it answers, and when it fails: see `Stub`.
"""

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.harness.world import World
from bench.turns import messages as m
from bench.turns.serve import serve

PRODUCT_SECONDS = 1e-5
"""Of extra work."""


@dataclass(frozen=True)
class Stub:
    """How a side behaves.

    Attributes:
        recipes: That it has.
        step_seconds: That a step is said to take.
        rank: The one that fails.
        fails_at: Name of the command at which it fails.
        exits: With this code; None to say nothing any more.
        losses: Of a subject's first steps, one after the other; the last one for good.
        runs: Python code that it runs at `Prepare`, as a subject's module does.
        images_per_step: Of a subject.
        num_parameters: Of its generator.
        threads: That it says to have.
    """

    recipes: tuple[str, ...] = ("mlp-compact", "mlp-dropout", "wgan")
    step_seconds: float = 0.004
    rank: int = 0
    fails_at: str = ""
    exits: int | None = None
    losses: tuple[dict[str, float], ...] = ()
    runs: str = ""
    images_per_step: int = 64
    num_parameters: int = 10
    threads: int = 2
    _read: list[int] = field(default_factory=list)
    _injected: list[float] = field(default_factory=list)

    def obey(self, command: m.SideCommand[Any]) -> Any:
        """Return a made-up answer."""
        if type(command).__name__ == self.fails_at and World.here().rank == self.rank:
            if self.exits is None:
                print("stalled", flush=True)
                time.sleep(600)
            os._exit(self.exits or 0)
        match command:
            case m.Hello():
                return m.Greeting(self.recipes, {"python": "3"})
            case m.Prepare():
                self._read.clear()
                exec(self.runs, {})
                configuration = {"processes": World.here().size, "images_per_step": self.images_per_step}
                configuration["threads"] = self.threads
                return m.Prepared(2.0, configuration, self.images_per_step, {"generator": self.num_parameters})
            case m.ReadLosses():
                self._read.append(1)
                return m.Losses(self.losses[min(len(self._read), len(self.losses)) - 1] if self.losses else None)
            case m.TakeWindow(num_steps):
                return m.Window(num_steps * (self.step_seconds + sum(self._injected)), 0)
            case m.Inject(products):
                self._injected.append(products * PRODUCT_SECONDS)
            case m.ReadMemory():
                return m.Memory(1000)
            case m.Calibrate():
                return m.Calibration(20, PRODUCT_SECONDS, self.step_seconds)
        return m.Done()


def build(start: m.Start) -> Any:
    """Import the tree's `gan`, and read how to behave."""
    if start.has_gan:
        importlib.import_module("gan")
    path = Path(start.tree, "gan", "stub.json")
    return Stub(**json.loads(path.read_text(encoding="utf-8"))).obey


if __name__ == "__main__":
    sys.exit(serve(build))
