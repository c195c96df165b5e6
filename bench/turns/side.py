"""One process of a launch pair: it takes steps of its tree's `gan`, or of a subject, and says how long they take.

Run as `python -m bench.turns.side START`. BASE and HEAD both run this file, each over its own `gan`; BASE may be
an old revision. So nothing of `bench` is imported that imports `gan`, and of `gan` only `gan.surface`. The tree of
a subject needs no `gan`. Times are those of the monotonic clock, which all processes of a machine share and nobody
sets.
"""

import gc
import importlib
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from bench.harness.device import (
    device_waiter,
    num_compilations,
    peak_device_bytes,
    peak_resident_bytes,
    reset_peaks,
)
from bench.harness.spinning import Spinning
from bench.harness.windows import time_window
from bench.harness.world import World
from bench.subjects.imports import imported_from_a_copy, imported_from_elsewhere
from bench.subjects.load import CORE, measured_subject
from bench.subjects.measured import MeasuredSubject
from bench.subjects.process import forget_accelerator, settle
from bench.subjects.subject import Setup, SubjectError
from bench.turns import messages as m
from bench.turns.serve import RefusedError, serve

SURFACE_VERSION = 1
"""Of gan/surface.py, whose names this file uses."""
COMPARED_PACKAGES = ("torch", "torchvision", "accelerate", "numpy")
EPOCH_STEPS = 4
"""Steps of the epochs that are measured from end to end; they have two log points."""
PRODUCT_SIZE = 32
"""Rows and columns of the matrices whose products are extra work."""


def surface_of(tree: Path) -> ModuleType:
    """Import a tree's `gan.surface`.

    Raises:
        RefusedError: Another `gan` would be imported, or the tree's has no surface of this version.
    """
    imported = Path(importlib.import_module("gan").__file__ or "").resolve()
    if tree.resolve() not in imported.parents:
        raise RefusedError(
            f"its tree has no gan that can be imported; {imported.parent} would be measured instead"
        )
    try:
        surface = importlib.import_module("gan.surface")
    except ModuleNotFoundError as error:
        if error.name != "gan.surface":
            raise
        raise RefusedError(
            "its tree has no gan/surface.py, and revisions from before that file cannot be measured"
        ) from error
    if surface.VERSION != SURFACE_VERSION:
        raise RefusedError(
            f"its gan/surface.py is version {surface.VERSION}, and this check measures version {SURFACE_VERSION}"
        )
    return surface


class MeasuredSide:
    """Answers the commands with a tree's `gan`, or with a subject."""

    def __init__(self, start: m.Start) -> None:
        self._tree = Path(start.tree)
        self._working_tree = Path(start.working_tree) if start.working_tree else None
        self._surface = surface_of(self._tree) if start.has_gan else None
        self._spinning = Spinning(Path(start.spinning) if start.spinning else None)
        self._steps: Iterator[object] = iter(())
        self._wait: Callable[[], None] = lambda: None
        self._measured: Any = None
        self._device = torch.device("cpu")
        self._period = 1
        self._import_seconds = time.monotonic() - start.started_seconds

    def obey(self, command: m.SideCommand[Any]) -> Any:
        """Do what a command says, and return the answer; raise RefusedError where the subject fails."""
        try:
            return self._answer(command)
        except SubjectError as error:
            raise RefusedError(str(error)) from error

    def _answer(self, command: m.SideCommand[Any]) -> Any:
        match command:
            case m.Hello():
                names = self._surface.recipe_names() if self._surface else ()
                return m.Greeting(tuple(names), machine_facts())
            case m.Prepare(case):
                return self.prepare(case)
            case m.TakeWindow(num_steps):
                return self.run(num_steps)
            case m.ReadMemory():
                allocated = peak_device_bytes(self._device)
                return m.Memory(peak_resident_bytes() if allocated is None else allocated)
            case m.ReadLosses():
                return m.Losses(self.losses())
            case m.Calibrate(fraction, num_quads):
                return self.calibrate(fraction, num_quads)
            case m.Inject(products):
                self._steps = with_products(self._steps, products, self._device)
            case m.Spin(less):
                self._spinning.set(less)
            case m.JudgeSemantics(case, precision):
                return self.semantics(case, precision)
            case m.Drop():
                self.drop()
        return m.Done()

    def prepare(self, case: m.CaseSpec) -> m.Prepared:
        """Build a case and take its first step."""
        began = time.monotonic()
        self._build(case)
        next(self._steps)
        self._wait()
        gc.collect()
        gc.disable()
        startup_seconds = self._import_seconds + time.monotonic() - began
        return m.Prepared(
            startup_seconds,
            {**self._measured.configuration(), **numerical_settings(), "spinning": self._spinning.label},
            getattr(self._measured, "images_per_step", 0),
            self.num_parameters(),
            self._period,
        )

    def _build(self, case: m.CaseSpec) -> None:
        """Build a case, and take no step."""
        os.environ.update(case.environment)
        reset_peaks()
        steps_per_turn = 1
        if case.subject != CORE:
            self._measured = self._subject(case)
            self._steps = self._measured.steps()
        elif self._surface is None:
            raise RefusedError("core: this tree's gan is not measured")
        elif case.workload == "epoch":
            options = {**case.options, "log_every": EPOCH_STEPS // 2}
            self._measured = self._surface.prepare(options, EPOCH_STEPS)
            self._steps = self._measured.epochs()
            steps_per_turn = EPOCH_STEPS
        else:
            self._measured = self._surface.prepare(case.options)
            self._steps = self._measured.steps()
        period = getattr(self._measured, "period", 1)  # old revisions have none
        self._period = period // math.gcd(period, steps_per_turn)
        self._device = self._measured.device
        self._wait = device_waiter(self._device)

    def _subject(self, case: m.CaseSpec) -> MeasuredSubject:
        world = World.here()
        fields = {**case.setup, "rank": world.rank, "world_size": world.size}
        if "image_shape" in fields:
            fields["image_shape"] = tuple(fields["image_shape"])  # JSON has lists
        setup = Setup(**fields)
        num_threads = case.options.get("num_threads")
        settle(case.subject, setup, self._tree, self._working_tree, num_threads, local_rank=world.local_rank)
        measured = measured_subject(case.subject, setup, self._tree)
        if self._working_tree and (line := imported_from_elsewhere(self._tree, self._working_tree)):
            raise RefusedError(f"{case.subject}: {line}, so both sides would run the working tree; uninstall it")
        if self._working_tree and (line := imported_from_a_copy(self._tree, self._working_tree)):
            raise RefusedError(
                f"{case.subject}: {line}, an installed copy that both sides would run; install with pip install -e"
            )
        return measured

    def num_parameters(self) -> dict[str, int] | None:
        """Return the number of each network's parameters, or None if the networks are not shown."""
        networks = getattr(self._measured, "networks", lambda: None)()  # old revisions have none
        if networks is None:
            return None
        return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}

    def losses(self) -> dict[str, float] | None:
        """Return the last step's losses, or None if they are not shown."""
        losses = getattr(self._measured, "losses", lambda: None)()  # old revisions have none
        return None if losses is None else {name: float(value) for name, value in losses.items()}

    def run(self, num_steps: int) -> m.Window:
        """Take a window."""
        before = num_compilations()
        waited_before = self._spinning.waited_seconds()
        seconds = self._seconds(self._steps, num_steps)
        waited_seconds = (self._spinning.waited_seconds() - waited_before) / torch.get_num_threads()
        if isinstance(self._measured, MeasuredSubject):
            gc.collect(0)  # the collector is off; the core leaves nothing to it, other code may
        return m.Window(round(seconds, 8), num_compilations() - before, round(max(0.0, waited_seconds), 8))

    def _seconds(self, steps: Iterator[object], num_steps: int) -> float:
        return time_window(steps, num_steps, self._wait)

    def calibrate(self, fraction: float, num_quads: int) -> m.Calibration:
        """Return how many products of small matrices are a fraction of a step's work.

        Measured in place, first with about half as much work more. Each of a few products takes longer than each
        of many, so the number that this gives is measured, too, and corrected. Several ranks have to be told as
        many quads.
        """
        products = small_products(self._device)
        alone_seconds = min(self._seconds(products, 50) for _ in range(num_quads)) / 50
        quickest_step = min(self._seconds(self._steps, self._period) for _ in range(3)) / self._period
        many = max(1, round(quickest_step / (2 * alone_seconds)))
        step_seconds, seconds_of_many = self._seconds_of(many, num_quads)
        # What holds up the steps without them may seem to make them free, and then they would have no end.
        product_seconds = max(seconds_of_many / many, alone_seconds / 4)
        few = max(1, round(fraction * step_seconds / product_seconds))
        step_seconds, seconds_of_few = self._seconds_of(few, num_quads)
        excess = round((seconds_of_few - fraction * step_seconds) / product_seconds)
        num_products = min(max(few - excess, -(-few // 2)), 2 * few)
        return m.Calibration(num_products, seconds_of_few / few, step_seconds)

    def _seconds_of(self, count: int, num_quads: int) -> tuple[float, float]:
        """Return the seconds of a step, and those that so many products add to it.

        Steps with them take turns with steps as they are, ABBA. The median of their ratios counts, as in a pair.
        """
        arms = (self._steps, with_products(self._steps, count, self._device))
        period = self._period  # of its windows, in which steps are unlike one another
        quads = [[self._seconds(arms[arm], period) / period for arm in (0, 1, 1, 0)] for _ in range(num_quads)]
        step_seconds = statistics.median(seconds for quad in quads for seconds in (quad[0], quad[3]))
        log_ratio = statistics.median(math.log((b1 * b2) / (a1 * a2)) / 2 for a1, b1, b2, a2 in quads)
        return step_seconds, step_seconds * max(math.expm1(log_ratio), 1e-9)

    def semantics(self, case: m.CaseSpec, precision: str = "") -> m.Semantics:
        """Return the checks of tier T1, and of T2 for a precision; by this `bench`, so BASE is not asked."""
        names = ("bench.stability.semantics", "bench.stability.precision", "bench.stability.steps")
        semantics, precisions, steps = map(importlib.import_module, names)
        setup = importlib.import_module("bench.workloads.setup")
        self._build(m.CaseSpec("step", case.options, case.environment))
        run = setup.on_digits(self._measured.run)
        checks = list(semantics.semantics(run))
        if precision:
            run, state = steps.fresh(run, run.options.seed)
            checks += precisions.precision_errors(run, state, precision)
        self.drop()
        return m.Semantics(tuple(check.to_json() for check in checks))

    def drop(self) -> None:
        """Let go of a case, so that the next one builds its own Accelerator."""
        self._steps = iter(())
        self._measured = None
        gc.collect()  # or the next case would begin with the memory of this one
        forget_accelerator()


def small_products(device: torch.device) -> Iterator[None]:
    """Multiply small matrices, a product with each `next`."""
    small = torch.rand(PRODUCT_SIZE, PRODUCT_SIZE, device=device)
    while True:
        torch.mm(small, small, out=torch.empty_like(small))
        yield


def with_products(steps: Iterator[object], count: int, device: torch.device) -> Iterator[None]:
    """Take steps with so many products of small matrices in each."""
    products = small_products(device)
    while True:
        next(steps)
        for _ in range(count):
            next(products)
        yield


def machine_facts() -> dict[str, Any]:
    """Return the hardware and versions that both sides must share."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in COMPARED_PACKAGES},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": _num_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def numerical_settings() -> dict[str, Any]:
    """Return the settings of PyTorch that both sides must share."""
    return {
        "threads": torch.get_num_threads(),
        "flush_denormal": float(torch.tensor(1e-39) * 1.0) == 0.0,
        "matmul_precision": torch.get_float32_matmul_precision(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _num_cores() -> int | None:
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count()


if __name__ == "__main__":
    sys.exit(serve(lambda start: MeasuredSide(start).obey))
