"""Case: one measurement, and what follows from the values of its axes.

The options of `pytest bench`, ids of tests, flags of `accelerate launch`, options of the core and columns of
reports are read off the fields of `bench.suite.case_axes.CaseAxes`. So a new axis is one new field there, if the
core has the option. CONTRIBUTING.md says what else names the axes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench.subjects.load import CORE
from bench.subjects.subject import Setup
from bench.suite.axes import Axis, sizes_of
from bench.suite.case_axes import CaseAxes
from bench.suite.settings import swept_settings
from gan.data.datasets import SYNTHETIC_NUM_CLASSES
from gan.errors import UsageError, require_known
from gan.recipe_files import recipe_named
from gan.recipe_settings import with_settings
from gan.recipes import Recipe
from gan.recipes_small import SMALL, SMALL_LABEL
from gan.training.execution import Execution


@dataclass(frozen=True, kw_only=True)
class Case(CaseAxes):
    """One measurement.

    >>> case = Case(precision="bf16", num_processes=2, scaling="strong")
    >>> case.id
    'mlp-cpu-bf16-eager-b64-p2-strong'
    >>> case.batch_per_process, case.global_batch_size
    (32, 64)
    >>> case.launch_flags()
    {'mixed_precision': 'bf16', 'dynamo_backend': 'no', 'num_processes': 2}
    >>> case.train_options()
    {'recipe': 'mlp', 'tf32': False, 'accumulate': 1, 'batch_size': 32}
    """

    @property
    def row(self) -> Recipe:
        """The recipe, with other values where `set` has some; raise UsageError where it does not take them."""
        return with_settings(recipe_named(self.recipe), self.set)

    @property
    def id(self) -> str:
        """The case in one word, without its workload."""
        return "-".join(self.labels(AXES))

    @property
    def setting(self) -> str:
        """How its step runs, in a few words.

        >>> Case(precision="bf16", memory_format="channels_last").setting
        'bf16 eager channels_last'
        """
        return " ".join(self.labels(SETTING_AXES))

    @property
    def is_small(self) -> bool:
        """Whether it has the settings with which a large row trains in moments: another GAN than the row."""
        return bool(self.set) and self.set == SMALL.get(self.recipe)

    def labels(self, names: Iterable[str]) -> list[str]:
        """Return the values of some axes in a few letters each, as in the id."""
        names = list(names)
        texts = {name: self._shown(name, AXES[name].short or AXES[name].label) for name in names}
        if self.is_small and "set" in texts and "recipe" not in texts:
            texts["set"] = SMALL_LABEL
        return [text for text in texts.values() if text]

    def label(self, name: str) -> str:
        """Return the value of an axis as tables show it."""
        return self._shown(name, AXES[name].label)

    def _shown(self, name: str, label: Callable[[Any], str]) -> str:
        if self.is_small and name == "recipe":
            return f"{label(self.recipe)}-{SMALL_LABEL}"
        return label(Case.set if self.is_small and name == "set" else getattr(self, name))

    @property
    def batch_per_process(self) -> int:
        """Images that a process takes per micro-batch, of which an update of D has `accumulate`."""
        return self.batch_size // (self.num_processes if self.scaling == "strong" else 1)

    @property
    def global_batch_size(self) -> int:
        """Images per update of D over all processes."""
        return self.batch_per_process * self.accumulate * self.num_processes

    @property
    def is_core(self) -> bool:
        """Whether the step of `gan/train.py` is measured, and no other subject's."""
        return self.subject == CORE

    @property
    def may_share_memory(self) -> bool:
        """Whether its processes can exchange gradients in memory which they share."""
        several_on_a_host = self.num_processes > 1 and self.num_hosts == 1
        return self.is_core and self.device == "cpu" and several_on_a_host and self.comm_hook == "no"

    def setup(self, rank: int = 0) -> Setup:
        """Return what another subject than the core is asked to be, in one of its processes."""
        conditional = bool(self.recipe) and self.row.conditional
        options = {
            **({"accumulate": self.accumulate} if self.accumulate > 1 else {}),
            **({"set": self.set} if self.set else {}),
        }
        return Setup(
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            batch_size=self.batch_per_process,
            image_shape=sizes_of(self.image_shape),
            num_classes=SYNTHETIC_NUM_CLASSES if conditional else 0,
            rank=rank,
            world_size=self.num_processes,
            recipe=self.recipe,
            options=options or None,
        )

    def launch_flags(self) -> dict[str, Any]:
        """Return flags of `accelerate launch`."""
        return self._merged(lambda axis: axis.launch)

    def train_options(self) -> dict[str, Any]:
        """Return fields of TrainOptions."""
        options = {**self._merged(lambda axis: axis.train), "batch_size": self.batch_per_process}
        # Two hosts may be two names of one machine, whose processes could share memory.
        return {**options, "shared_memory": False} if self.num_hosts > 1 else options

    def _merged(self, part_of: Callable[[Axis], Callable[[Any], dict[str, Any]]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name, axis in AXES.items():
            merged |= part_of(axis)(getattr(self, name))
        return merged

    @property
    def execution(self) -> dict[str, Any]:
        """The axes of how a step runs that do not have their default."""
        values = {name: getattr(self, name) for name in EXECUTION_AXES}
        return {name: value for name, value in values.items() if value != EXECUTION_AXES[name]}

    def to_json(self) -> dict[str, Any]:
        """Return the case as JSON. Axes that older files lack are left out at their default."""
        data = {name: value for name, value in asdict(self).items() if name not in EXECUTION_AXES}
        if not self.set:
            del data["set"]
        if self.num_hosts == 1:
            del data["num_hosts"]
        if self.may_share_memory:
            data["shared_memory"] = self.shared_memory  # a case without it is one from before there was the axis
        return {**data, **self.execution}


AXES: dict[str, Axis] = {item.name: item.metadata["axis"] for item in fields(Case) if "axis" in item.metadata}

EXECUTION_AXES: dict[str, Any] = {item.name: getattr(Case, item.name) for item in fields(Execution)}
"""The axes of how the core's step runs, each with its default. A subject's step runs as it does."""

SETTING_AXES = ("precision", "compile", *EXECUTION_AXES)
"""The axes that change how a step runs."""

HOST_AXES = ("num_hosts",)
"""The axes that `pytest bench` alone has: everything else measures on one host."""

TRAINED_AXES = tuple(name for name in AXES if name not in SETTING_AXES)
"""The axes that say what is trained: with another batch, it is another GAN."""


def parse_axis(name: str, texts: Sequence[str], flag: str = "") -> list[Any]:
    """Return the values of an axis from the command line, where the option is repeated or has commas.

    >>> parse_axis("batch_size", ["16,64", "256"])
    [16, 64, 256]

    Args:
        name: Of the axis.
        texts: What the command line says.
        flag: Begins an error; by default the option that the axis is in `pytest bench`.

    Raises:
        UsageError: A value is not allowed.
    """
    if name == "set":
        return list(swept_settings(texts))
    flag = flag or "--" + name.replace("_", "-")
    axis = AXES[name]
    values = []
    for text in (part.strip() for argument in texts for part in argument.split(",")):
        if axis.known:
            require_known(flag, text, axis.known)
        try:
            values.append(axis.parse(text))
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{flag} {text}: {error}") from None
    return values
