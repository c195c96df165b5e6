"""Suites: sweeps over the axes of Case, and how long to measure each case."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.harness.windows import LEAST_ROUNDS, Effort
from bench.subjects.load import CORE, PLAIN
from bench.subjects.subject import Setup
from bench.suite.case_axes import PRECISIONS
from bench.suite.cases import Case
from bench.suite.machine import Machine
from bench.suite.workloads import MOST_WINDOWS, WORKLOADS
from gan.errors import UsageError
from gan.models.mlp import MLP
from gan.recipes import RECIPES
from gan.recipes_small import LARGE, SMALL

Sweep = Mapping[str, Sequence[Any]]
"""Axis (and `workload`) to values. By default, `device` is all there are, the batch is the recipe's, processes are
spread over all hosts, and any other axis has the default of its field."""

NO_RECIPE = ""
"""The recipe of a subject that is beside no plain loop."""
UNKNOWN_OF_SUBJECTS = ("precision", "compile", "num_processes", "scaling", "recipe")
"""The axes along which a suite does not sweep a subject by itself."""
MEASURE_SECONDS_OF_SMALL = 1.0
"""The most that windows of a small row take, which show that it trains, and about what it costs."""
COMMUNICATING_TIMES_ROUNDS = 2
"""How many times the rounds a case of several processes takes: all-reduces spread."""
LEAST_SECONDS_OVER_HOSTS = 0.1
"""Least length of a window over several hosts. Ranks begin a window up to a message's latency apart, and the time
of the slowest counts."""


@dataclass(frozen=True)
class Suite:
    """A selection of cases, and how long to measure each.

    Attributes:
        summary: In one line.
        effort: For each case.
        patience_seconds: The most that all cases together may take of their `effort.patience_seconds`.
        sweeps: Its cases.
        on_request: Further cases, where `-k` names their workload.
        small_on: Devices on which rows of LARGE have their settings of SMALL, unless a recipe or settings are
            chosen.
        convolution_batch: Most images a step on a CPU of a row whose D is no MLP, where no batch is asked for.
            At their own batch such rows take most of a second a step, and few steps make an unsteady median.
        launches: Fresh processes per case as an option asks for them, also of a workload that has a number of its
            own; but one that trains on digits is launched once.
    """

    summary: str
    effort: Effort
    patience_seconds: float
    sweeps: tuple[Sweep, ...]
    on_request: tuple[Sweep, ...] = ()
    small_on: tuple[str, ...] = ("cpu",)
    convolution_batch: int | None = None
    launches: int | None = None

    def effort_of(self, case: Case) -> Effort:
        """Return how long to measure a case."""
        workload = WORKLOADS[case.workload]
        own_launches = workload.launches if workload.on_digits else self.launches or workload.launches
        times_rounds = COMMUNICATING_TIMES_ROUNDS if case.num_processes > 1 else workload.times_rounds
        least_seconds = LEAST_SECONDS_OVER_HOSTS if case.num_hosts > 1 else 0.0
        patient = workload.in_windows and workload.repeats_disturbed
        measure_seconds = self.effort.measure_seconds
        if case.is_small:
            measure_seconds = min(measure_seconds, MEASURE_SECONDS_OF_SMALL)
        return replace(
            self.effort,
            launches=own_launches or self.effort.launches,
            rounds=self.effort.rounds * times_rounds,
            measure_seconds=measure_seconds,
            window_seconds=max(self.effort.window_seconds, least_seconds),
            patience_seconds=self.effort.patience_seconds if patient else 0.0,
            warmup_seconds=0.0 if workload.kind == "facts" else self.effort.warmup_seconds,
        )

    def cases(self, machine: Machine, chosen: Mapping[str, Sequence[Any]], keyword: str = "") -> list[Case]:
        """Return the cases, each once.

        Args:
            machine: Whose devices are measured.
            chosen: Axis to values, which replace the axis's values in every sweep. Of another subject than the
                core, only what is chosen is measured: see `_of_subject`.
            keyword: pytest's `-k`, which may name workloads of `on_request`.
        """
        requested = [sweep for sweep in self.on_request if any(name in keyword for name in sweep["workload"])]
        sweeps = [
            {"device": machine.devices, **of_subject, **chosen, "subject": (subject,)}
            for sweep in (*self.sweeps, *requested)
            for subject in chosen.get("subject", (CORE,))
            if (of_subject := _of_subject(subject, sweep, chosen)) is not None
        ]
        cases = (case for sweep in sweeps for case in self._product(sweep, machine))
        is_asked_for = bool({"recipe", "set"} & chosen.keys())
        return list(dict.fromkeys(case if is_asked_for else self._made_small(case) for case in cases))

    def complaint_of(self, cases: Iterable[Case]) -> str | None:
        """Return which case would have more windows than a results file takes, in one line, or None."""
        for case in cases:
            effort = self.effort_of(case)
            fitting = max(LEAST_ROUNDS, int(effort.measure_seconds / effort.window_seconds))
            num_windows = effort.launches * min(effort.rounds, fitting)
            if WORKLOADS[case.workload].in_windows and num_windows > MOST_WINDOWS:
                return (
                    f"--launches {effort.launches} × --rounds {self.effort.rounds}: {num_windows:,} windows of "
                    f"{case.workload} {case.id}; a file takes at most {MOST_WINDOWS:,}"
                )
        return None

    def _made_small(self, case: Case) -> Case:
        """Return the case with small networks if its row is large for the device, and has settings for that."""
        if case.recipe not in LARGE or case.device not in self.small_on:
            return case
        return replace(case, set=SMALL.get(case.recipe, ()))

    def _product(self, sweep: Sweep, machine: Machine) -> Iterator[Case]:
        for values in itertools.product(*sweep.values()):
            axes = dict(zip(sweep, values, strict=True))
            case = Case(**{"batch_size": self._batch_size(axes), **axes})
            if case.num_processes == 1:
                case = replace(case, num_hosts=1, scaling="weak")
            elif "num_hosts" not in axes:
                case = replace(case, num_hosts=min(case.num_processes, machine.num_hosts))
            if case.is_core and not case.may_share_memory:
                case = replace(case, shared_memory=Case.shared_memory)  # `no` asks for what happens anyway
            yield case

    def _batch_size(self, axes: Mapping[str, Any]) -> int:
        name = axes.get("recipe", Case.recipe)
        if name == NO_RECIPE:
            return Setup.batch_size
        case = Case(recipe=name, set=axes.get("set", ()))
        try:
            recipe = case.row
        except UsageError:  # is not measured
            recipe = replace(case, set=()).row
        most = WORKLOADS[axes["workload"]].most_convolution_batch
        if most is None and axes["device"] == "cpu":
            most = self.convolution_batch
        if most is None or isinstance(recipe.discriminator, MLP):
            return recipe.batch_size
        return min(most, recipe.batch_size)


def _of_subject(subject: str, sweep: Sweep, chosen: Mapping[str, Sequence[Any]]) -> Sweep | None:
    """Return what a sweep asks of a subject; None if it asks for what the subject may not know of.

    What the core can do is known, so a suite asks it for every precision. Nobody knows that of a subject, and one
    that ignores its setup would be measured in fp32 under the name of bf16. So it is asked for fp32, eager, in one
    process, and without a recipe, but for what is chosen. The plain loop does know recipes.
    """
    if subject == CORE:
        return sweep
    if "num_processes" in sweep and "num_processes" not in chosen:
        return None
    asked = {axis: values for axis, values in sweep.items() if axis not in UNKNOWN_OF_SUBJECTS}
    return {**asked, "recipe": sweep.get("recipe", (Case.recipe,)) if subject == PLAIN else (NO_RECIPE,)}


_EVERY = tuple(RECIPES)
_TYPICAL = ("mlp", "mlp-batchnorm")
_UP_TO_EIGHT = (1, 2, 4, 8)
_STABILITY: Sweep = {
    "workload": ("stability",),
    "recipe": _EVERY,
    "precision": PRECISIONS,
    "compile": ("no", "inductor"),
}


_TRAINED: tuple[Sweep, ...] = (
    {"workload": ("time_to_quality",), "recipe": ("quickstart",)},
    {"workload": ("convergence",), "recipe": ("quickstart",)},
)
"""What trains for minutes."""

SUITES: dict[str, Suite] = {
    "smoke": Suite(
        "every recipe, large ones made small, and most workloads, in minutes",
        Effort(
            launches=1,
            rounds=128,
            window_seconds=0.013,
            measure_seconds=4.0,
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
        on_request=({"workload": ("stability",), "recipe": _EVERY}, *_TRAINED),
        small_on=("cpu", "cuda"),
        convolution_batch=8,
    ),
    "standard": Suite(
        "every recipe × precision × compiler, a sweep of batch sizes, scaling, and what surrounds the step",
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
        on_request=_TRAINED,
    ),
    "full": Suite(
        "as standard, with batch sizes and scaling of every recipe, all workloads, more launches and windows",
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
