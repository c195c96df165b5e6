"""Suites: sweeps over the axes of Case, and how long to measure each case."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.harness.windows import Effort
from bench.suite.cases import PRECISIONS, Case
from bench.suite.machine import Machine
from gan.models.mlp import MLP
from gan.recipes import RECIPES

Sweep = Mapping[str, Sequence[Any]]
"""Axis (and `workload`) to values. Left out, `device` is all there are, the batch the recipe's, others default."""


@dataclass(frozen=True)
class Suite:
    """A selection of cases, and how long to measure each.

    Attributes:
        summary: In one line.
        effort: For each case.
        patience_seconds: Most that all cases together may take of their `effort.patience_seconds`.
        sweeps: Which cases.
        asked: Which others, where `-k` names their workload.
        convolution_batch: Most images a step where none is given and D is no MLP: at their own batch such rows
            take most of a second a step on a CPU, and few steps make an unsteady median.
    """

    summary: str
    effort: Effort
    patience_seconds: float
    sweeps: tuple[Sweep, ...]
    asked: tuple[Sweep, ...] = ()
    convolution_batch: int | None = None

    def effort_of(self, case: Case) -> Effort:
        """Return how long to measure a case.

        All-reduces spread, and batches of samples are short: they take more rounds. Writing to a disk disturbs
        what comes after it, so that waiting for rest would be in vain.
        """
        return replace(
            self.effort,
            rounds=self.effort.rounds
            * (MORE_ROUNDS if case.num_processes > 1 or case.workload == "sampling" else 1),
            patience_seconds=0.0 if case.workload in (*SINGLE, "checkpoint") else self.effort.patience_seconds,
            **SINGLE.get(case.workload, {}),
        )

    def cases(self, machine: Machine, chosen: Mapping[str, Sequence[Any]], keyword: str = "") -> list[Case]:
        """Return the cases, each once; values of `chosen` replace an axis's in every sweep.

        `keyword` is pytest's `-k`, which may ask for more than the suite's own.
        """
        cases: dict[Case, None] = {}
        asked = [sweep for sweep in self.asked if any(name in keyword for name in sweep["workload"])]
        for sweep in (*self.sweeps, *asked):
            cases |= dict.fromkeys(self._product({"device": machine.devices, **sweep, **chosen}))
        return list(cases)

    def _product(self, sweep: Sweep) -> Iterator[Case]:
        names = list(sweep)
        for values in itertools.product(*sweep.values()):
            given = dict(zip(names, values, strict=True))
            case = Case(**{"batch_size": self._batch_size(given), **given})
            yield replace(case, scaling="weak") if case.num_processes == 1 else case

    def _batch_size(self, given: Mapping[str, Any]) -> int:
        recipe = RECIPES[given.get("recipe", Case.recipe)]
        most = STABILITY_BATCH if given.get("workload") == "stability" else self.convolution_batch
        if most is None or isinstance(recipe.discriminator, MLP):
            return recipe.batch_size
        return min(most, recipe.batch_size)


MORE_ROUNDS = 2
STABILITY_BATCH = 8
"""Most images a step of convolutional rows: what is asked of them does not depend on how many, the time does."""
SINGLE: dict[str, dict[str, Any]] = {
    "startup": {"launches": 3},
    "stability": {"launches": 1, "warmup_seconds": 0.0},
    "convergence": {"launches": 1, "warmup_seconds": 0.0},
    "time_to_quality": {"launches": 1, "warmup_seconds": 0.0},
}
"""Workloads that give one number a launch, or none, and what they take instead of the suite's effort."""
ALONE = ("checkpoint", "startup")
"""Workloads that disturb others, or would be disturbed by processes that wait beside them."""
_EVERY = tuple(RECIPES)
_TYPICAL = ("mlp", "mlp-batchnorm")
_UP_TO_EIGHT = (1, 2, 4, 8)
_STABILITY: Sweep = {
    "workload": ("stability",),
    "recipe": _EVERY,
    "precision": PRECISIONS,
    "compile": ("no", "inductor"),
}

SUITES: dict[str, Suite] = {
    "smoke": Suite(
        "every recipe, and every workload but whole epochs, in minutes",
        Effort(
            launches=1,
            rounds=128,
            window_seconds=0.013,
            measure_seconds=4.5,
            patience_seconds=0,
            warmup_seconds=1.2,
        ),
        0.0,
        (
            {"workload": ("step",), "recipe": _EVERY},
            {"workload": ("step",), "precision": ("bf16",)},
            {"workload": ("step",), "compile": ("inductor",)},
            {"workload": ("phases", "sampling", "checkpoint", "startup")},
            {"workload": ("scaling",), "num_processes": (2,), "scaling": ("weak", "strong")},
            {"workload": ("stability",), "recipe": ("quickstart",), "precision": ("fp32", "bf16")},
        ),
        asked=(
            {"workload": ("stability",), "recipe": _EVERY},
            {"workload": ("time_to_quality",), "recipe": ("quickstart",)},
            {"workload": ("convergence",), "recipe": ("quickstart",)},
        ),
        convolution_batch=8,
    ),
    "standard": Suite(
        "every recipe × precision × compiler, a sweep of batch sizes, scaling, all around the step",
        Effort(launches=2, rounds=60),
        900.0,
        (
            {"workload": ("step",), "recipe": _EVERY, "precision": PRECISIONS, "compile": ("no", "inductor")},
            {"workload": ("step",), "recipe": _TYPICAL, "batch_size": (16, 64, 256, 1024, 4096)},
            {"workload": ("phases", "epoch", "sampling", "checkpoint"), "recipe": _EVERY},
            {"workload": ("startup",), "compile": ("no", "inductor")},
            _STABILITY,
            {"workload": ("stability",), "recipe": _EVERY, "num_processes": (2,)},
            {
                "workload": ("scaling",),
                "recipe": _TYPICAL,
                "num_processes": _UP_TO_EIGHT,
                "scaling": ("weak", "strong"),
            },
        ),
    ),
    "full": Suite(
        "the standard suite for every recipe, with more launches and windows",
        Effort(launches=3, rounds=120),
        3600.0,
        (
            {"workload": ("step",), "recipe": _EVERY, "precision": PRECISIONS, "compile": ("no", "inductor")},
            {
                "workload": ("step",),
                "recipe": _EVERY,
                "precision": PRECISIONS,
                "batch_size": (16, 64, 256, 1024, 4096),
            },
            {"workload": ("phases", "epoch", "sampling", "checkpoint", "startup"), "recipe": _EVERY},
            {"workload": ("phases",), "recipe": _EVERY, "precision": ("bf16", "fp16", "tf32")},
            {
                "workload": ("convergence", "time_to_quality"),
                "recipe": ("quickstart",),
                "precision": PRECISIONS,
                "compile": ("no", "inductor"),
            },
            _STABILITY,
            {"workload": ("stability",), "recipe": _EVERY, "num_processes": (2,)},
            {
                "workload": ("scaling",),
                "recipe": _EVERY,
                "precision": ("fp32", "bf16"),
                "num_processes": _UP_TO_EIGHT,
                "scaling": ("weak", "strong"),
            },
        ),
    ),
}
