"""Case: one measurement, a frozen dataclass in which one field is one axis. Suites are sweeps over the axes.

Command-line options, test ids, launch flags and report columns are read off the fields. An axis is added by adding
its field here.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import psutil
import torch
from accelerate.utils import DynamoBackend

from bench.harness.windows import Effort
from gan.errors import UsageError, require_known
from gan.files.environment import num_available_cores
from gan.models.mlp import MLP
from gan.recipes import RECIPES

BYTES_PER_PROCESS = {"cpu": 3 * 2**28, "cuda": 4 * 2**30}
MOST_PROCESSES = 24
COMPILERS = ("no", *sorted(backend.value.lower() for backend in DynamoBackend if backend != DynamoBackend.NO))
PRECISIONS = ("fp32", "bf16", "fp16", "tf32")


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Axis:
    """What a field of Case means to everything that handles cases.

    Attributes:
        help: For `pytest bench --help`.
        column: Heading in reports.
        known: Values allowed, or empty where `parse` decides.
        parse: Text of the command line to value; raises ValueError.
        label: Value to what tables show.
        short: Value to its part of a case's id, by default `label`; "" leaves it out.
        launch: Value to flags of `accelerate launch`.
        train: Value to fields of TrainOptions.
    """

    help: str
    column: str
    known: tuple[str, ...] = ()
    parse: Callable[[str], Any] = str
    label: Callable[[Any], str] = str
    short: Callable[[Any], str] | None = None
    launch: Callable[[Any], dict[str, Any]] = _nothing
    train: Callable[[Any], dict[str, Any]] = _nothing


def _axis(default: Any, axis: Axis) -> Any:
    return field(default=default, metadata={"axis": axis})


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement. `workload` is the test it belongs to; every other field is an axis."""

    workload: str = "step"
    recipe: str = _axis(
        "mlp", Axis("rows of gan/recipes.py", "recipe", tuple(RECIPES), train=lambda value: {"recipe": value})
    )
    device: str = _axis("cpu", Axis("cpu, cuda (default: all there are)", "device", ("cpu", "cuda")))
    precision: str = _axis(
        "fp32",
        Axis(
            "fp32, bf16, fp16, tf32",
            "precision",
            PRECISIONS,
            launch=lambda value: {"mixed_precision": value if value in ("bf16", "fp16") else "no"},
            train=lambda value: {"tf32": value == "tf32"},
        ),
    )
    compile: str = _axis(
        "no",
        Axis(
            "no, inductor, or another backend of torch.compile",
            "compiler",
            COMPILERS,
            label=lambda value: "eager" if value == "no" else value,
            launch=lambda value: {"dynamo_backend": value},
        ),
    )
    batch_size: int = _axis(
        64,
        Axis(
            "images per step and process; with strong scaling, of all",
            "batch",
            parse=_positive,
            short="b{}".format,
        ),
    )
    num_processes: int = _axis(
        1,
        Axis(
            "how many processes share the work",
            "processes",
            parse=_positive,
            short="p{}".format,
            launch=lambda value: {"num_processes": value},
        ),
    )
    scaling: str = _axis(
        "weak",
        Axis(
            "weak: every process takes the batch; strong: they split it",
            "scaling",
            ("weak", "strong"),
            short=lambda value: "strong" if value == "strong" else "",
        ),
    )

    @property
    def id(self) -> str:
        """The case in one word, without its workload."""
        return "-".join(self.labels(AXES))

    def labels(self, names: Iterable[str]) -> list[str]:
        """Return what tells values of some axes in a few letters; defaults that need no word are left out."""
        axes = ((AXES[name].short or AXES[name].label, getattr(self, name)) for name in names)
        return [label for short, value in axes if (label := short(value))]

    @property
    def batch_per_process(self) -> int:
        """Images a process takes per step."""
        return self.batch_size // (self.num_processes if self.scaling == "strong" else 1)

    @property
    def global_batch_size(self) -> int:
        """Images per step over all processes."""
        return self.batch_per_process * self.num_processes

    def launch_flags(self) -> dict[str, Any]:
        """Return flags of `accelerate launch`."""
        return self._collect("launch")

    def train_options(self) -> dict[str, Any]:
        """Return fields of TrainOptions."""
        return {**self._collect("train"), "batch_size": self.batch_per_process}

    def _collect(self, what: str) -> dict[str, Any]:
        parts = (getattr(axis, what)(getattr(self, name)) for name, axis in AXES.items())
        return {key: value for part in parts for key, value in part.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the whole case."""
        return asdict(self)


AXES: dict[str, Axis] = {item.name: item.metadata["axis"] for item in fields(Case) if "axis" in item.metadata}


@dataclass(frozen=True)
class Machine:
    """What decides which cases are possible here."""

    num_cores: int
    num_gpus: int
    gpu_capability: tuple[int, int] = (0, 0)
    cpp_compiler: bool = True
    processes_at_once: int = 1

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine."""
        num_gpus = torch.cuda.device_count()
        return cls(
            num_cores=num_available_cores(),
            num_gpus=num_gpus,
            gpu_capability=torch.cuda.get_device_capability() if num_gpus else (0, 0),
            processes_at_once=_processes_at_once(num_gpus),
            cpp_compiler=any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))),
        )

    @property
    def devices(self) -> tuple[str, ...]:
        """The CPU, and CUDA where it is."""
        return ("cpu", "cuda") if self.num_gpus else ("cpu",)

    def parallel(self, device: str) -> int:
        """Return how many processes can each have a GPU or core of their own."""
        return self.num_gpus if device == "cuda" else self.num_cores


def _processes_at_once(num_gpus: int) -> int:
    """Return how many processes, each with a model and its data, fit into memory beside one another."""
    fit = [int(psutil.virtual_memory().available) // BYTES_PER_PROCESS["cpu"]]
    if num_gpus:
        fit.append(torch.cuda.get_device_properties(0).total_memory // BYTES_PER_PROCESS["cuda"])
    return max(1, min(MOST_PROCESSES, *fit))


def impossible(case: Case, machine: Machine) -> str | None:
    """Return why a case cannot run on a machine, or None."""
    on_cpu = case.device == "cpu"
    batchnorm = RECIPES[case.recipe].batchnorm
    reasons = {
        "no CUDA device on this machine": not on_cpu and not machine.num_gpus,
        f"{case.precision} needs a GPU": on_cpu and case.precision in ("fp16", "tf32"),
        "tf32 needs a GPU of compute capability 8.0 or newer": case.precision == "tf32"
        and machine.gpu_capability < (8, 0),
        "inductor on a CPU needs a C++ compiler": on_cpu
        and case.compile == "inductor"
        and not machine.cpp_compiler,
        f"{case.workload} is measured in one process": case.workload in _ONE_PROCESS and case.num_processes > 1,
        f"{case.num_processes} processes, but {machine.parallel(case.device)} "
        f"{'cores' if on_cpu else 'GPUs'}": case.num_processes > machine.parallel(case.device),
        f"a batch of {case.batch_size} cannot be split over {case.num_processes} processes": case.scaling
        == "strong"
        and case.batch_size % case.num_processes != 0,
        f"{case.precision} in several processes is not judged": case.workload == "stability"
        and case.num_processes > 1
        and case.precision != "fp32",
        f"{case.workload} is judged on {STABILITY_IMAGES} images": case.workload in ON_DIGITS
        and case.global_batch_size * RECIPES[case.recipe].discriminator_steps > STABILITY_IMAGES,
        "BatchNorm needs a batch of at least 2 images": batchnorm
        and min(case.batch_size, case.global_batch_size) < 2,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


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
STABILITY_IMAGES = 1797
"""Of the bundled digits."""
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
_ONE_PROCESS = ("phases", "epoch", "sampling", "checkpoint", "convergence", "time_to_quality")
ON_DIGITS = ("stability", "convergence", "time_to_quality")
"""Workloads that train on digits until something is known, however long that takes."""
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


def parse_axis(name: str, texts: Sequence[str]) -> list[Any]:
    """Parse the values of an axis as the command line gives them: repeated, or with commas.

    Raises:
        UsageError: A value is not allowed; in one line.
    """
    flag, axis = "--" + name.replace("_", "-"), AXES[name]
    values = []
    for text in (part.strip() for given in texts for part in given.split(",")):
        if axis.known:
            require_known(flag, text, axis.known)
        try:
            values.append(axis.parse(text))
        except ValueError as error:
            raise UsageError(f"{flag} {text}: {error}") from None
    return values
