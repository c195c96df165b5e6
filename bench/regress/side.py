"""One side of a launch pair: a process that takes steps of its tree's `gan` when it is told to, and says how long.

Run as `python -m bench.regress.side SPEC`. BASE and HEAD both run this file, each over its own `gan`; BASE may be
old. So nothing of `bench` is imported that imports `gan`, and of `gan` only what `SURFACE` names. Commands are
lines on standard input, `[name, argument…]` in JSON; each gets an answer. Times are the monotonic clock's, which
all processes of a machine share, and nobody sets.
"""

import gc
import importlib
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch._dynamo.utils import counters

from bench.harness.processes import end_with

SURFACE = {
    "gan.options": ("TrainOptions",),
    "gan.recipes": ("RECIPES",),
    "gan.run": ("prepare",),
    "gan.inputs": ("epoch_inputs",),
    "gan.loop": ("take_step", "train_until"),
}
PACKAGES = ("torch", "torchvision", "accelerate", "numpy")
NOWHERE = Path(os.devnull, "run")
"""An output directory that cannot come to be."""
EPOCH_STEPS = 8
"""Of the epochs that are measured end to end."""
EXTRA_SIZE = 32


def require_from(tree: Path) -> None:
    """Raise ImportError where this tree's `gan` is not the one that is imported, but an installed one, say."""
    imported = Path(importlib.import_module("gan").__file__ or "").resolve()
    if tree.resolve() not in imported.parents:
        raise ImportError(f"its tree has no gan that can be imported; {imported.parent} would be measured instead")


class Side:
    """What the commands work on."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._gan = {
            name: getattr(importlib.import_module(module), name)
            for module, names in SURFACE.items()
            for name in names
        }
        self._steps: Iterator[object] = iter(())
        self._wait: Callable[[], None] = lambda: None
        self._run: Any = None
        self._device = torch.device("cpu")
        self._import_seconds = time.monotonic() - spec["monotonic_seconds"]

    def hello(self) -> dict[str, Any]:
        """Return the rows of this tree's table, and what else must be alike on both sides."""
        return {"recipes": list(self._gan["RECIPES"]), "environment": environment()}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Build a case and take its first step.

        Its `startup_seconds` are those from the command on, without those in which this side waited for the other.
        """
        began = time.monotonic()
        os.environ.update(case["environment"])
        _reset_peak()
        options = {"dataset": "synthetic", "output": NOWHERE, "checkpoint_every": sys.maxsize}
        options |= {"log_every": EPOCH_STEPS // 2} if case["workload"] == "epoch" else {}
        kind = self._gan["TrainOptions"]
        known = {field.name for field in fields(kind)}
        given = kind(**{name: value for name, value in {**options, **case["options"]}.items() if name in known})
        given.validate()
        run, state = self._gan["prepare"](given)
        most = EPOCH_STEPS if case["workload"] == "epoch" else sys.maxsize
        self._run = run = _whole_batches(run, most)
        self._device = torch.device(run.accelerator.device)
        if self._device.type == "cuda":
            self._wait = lambda: torch.cuda.synchronize(self._device)
        self._steps = (self._epochs if case["workload"] == "epoch" else self._training)(run, state)
        next(self._steps)
        self._wait()
        gc.collect()
        gc.disable()
        return {
            "startup_seconds": self._import_seconds + time.monotonic() - began,
            "configuration": {
                "device": self._device.type,
                "processes": run.accelerator.num_processes,
                "threads": torch.get_num_threads(),
                "flush_denormal": _flushes_denormals(),
                "matmul_precision": torch.get_float32_matmul_precision(),
                "batch_size": run.global_batch_size,
                "image_shape": list(run.dataset.image_shape),
                "images": len(run.dataset),
                "precision": str(run.accelerator.mixed_precision),
                "compiler": str(run.accelerator.state.dynamo_plugin.backend.value).lower(),
            },
        }

    def _training(self, run: Any, state: Any) -> Iterator[None]:
        while True:
            for inputs, num_images in self._gan["epoch_inputs"](run, state, run.steps_per_epoch):
                self._gan["take_step"](state, inputs, num_images)
                yield
            state.end_epoch()

    def _epochs(self, run: Any, state: Any) -> Iterator[None]:
        while True:
            last_step = state.progress.step + run.steps_per_epoch
            self._gan["train_until"](run, state, last_step, recorded=False)
            yield

    def calibrate(self, fraction: float, num_quads: int) -> dict[str, Any]:
        """Return how many products of small matrices are a fraction of a step's work.

        Measured in place: steps take turns with steps that do about half as much work more, ABBA, and the median
        of their ratios counts, as in a pair. Several ranks have to be told as many quads.
        """
        products = _products(self._device)
        unit = min(self._seconds(products, 50) for _ in range(num_quads)) / 50
        own = min(self._seconds(self._steps, 1) for _ in range(3))
        many = max(1, round(own / (2 * unit)))
        arms = self._steps, _with_products(self._steps, many, self._device)
        quads = [[self._seconds(arms[arm], 1) for arm in (0, 1, 1, 0)] for _ in range(num_quads)]
        step = statistics.median(seconds for quad in quads for seconds in (quad[0], quad[3]))
        more = statistics.median(math.log((b1 * b2) / (a1 * a2)) / 2 for a1, b1, b2, a2 in quads)
        product = step * max(math.expm1(more), 1e-9) / many
        return {
            "products": max(1, round(fraction * step / product)),
            "product_seconds": product,
            "step_seconds": step,
        }

    def inject(self, count: int) -> None:
        """From now on do products of small matrices in each step."""
        self._steps = _with_products(self._steps, count, self._device)

    def run(self, num_steps: int) -> list[float]:
        """Return the seconds of a window, and how often a compiler ran in it."""
        before = counters["stats"]["unique_graphs"]
        seconds = self._seconds(self._steps, num_steps)
        return [round(seconds, 8), counters["stats"]["unique_graphs"] - before]

    def _seconds(self, steps: Iterator[object], num_steps: int) -> float:
        window = itertools.islice(steps, num_steps)
        began = time.perf_counter()
        for _ in window:
            pass
        self._wait()
        return time.perf_counter() - began

    def memory(self) -> int:
        """Return the most bytes held since `prepare`: allocated on a GPU, resident otherwise."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _peak_resident()

    def drop(self) -> None:
        """Let go of a case."""
        self._steps, self._run = iter(()), None
        for module, name in (("AcceleratorState", "state"), ("GradientState", "state"), ("PartialState", "state")):
            getattr(importlib.import_module(f"accelerate.{name}"), module)._shared_state.clear()
        torch.compiler.reset()
        gc.enable()
        gc.collect()

    def semantics(self, case: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what tier T1 finds: `bench.stability.semantics`."""
        stability, workloads = map(importlib.import_module, ("bench.stability.semantics", "bench.workloads.setup"))
        self.prepare({**case, "workload": "step"})
        found = stability.semantics(workloads.on_digits(self._run))
        self.drop()
        return [check.to_json() for check in found]


def _products(device: torch.device) -> Iterator[None]:
    small = torch.rand(EXTRA_SIZE, EXTRA_SIZE, device=device)
    while True:
        torch.mm(small, small, out=torch.empty_like(small))
        yield


def _with_products(steps: Iterator[object], count: int, device: torch.device) -> Iterator[None]:
    products = _products(device)
    while True:
        next(steps)
        for _ in range(count):
            next(products)
        yield


def _whole_batches(run: Any, most_steps: int) -> Any:
    """Cut the dataset to whole batches, so that every step is alike."""
    data = run.dataset
    steps = min(most_steps, len(data) // run.images_per_step)
    images = data.train[: steps * run.images_per_step]
    labels = None if data.labels is None else data.labels[: len(images)]
    return replace(run, dataset=type(data)(images, labels=labels), steps_per_epoch=steps)


def _flushes_denormals() -> bool:
    return float(torch.tensor(1e-39) * 1.0) == 0.0


def _reset_peak() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak since the process began, then


def _peak_resident() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return int(psutil.Process().memory_info().rss)


def environment() -> dict[str, Any]:
    """Return the hardware and versions that both sides must share."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    """Answer commands until there are no more; return an exit code."""
    spec = json.loads(sys.argv[1])
    end_with(spec["owner"])
    with os.fdopen(spec["answers"], "w", buffering=1, encoding="utf-8") as answers:
        try:
            require_from(Path(spec["tree"]))
            side = Side(spec)
            for line in iter(sys.stdin.readline, ""):
                name, *arguments = json.loads(line)
                answers.write(json.dumps({"ok": getattr(side, name)(*arguments)}) + "\n")
        except Exception as error:
            traceback.print_exc()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            answers.write(json.dumps({"error": reason}) + "\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
