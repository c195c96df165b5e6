"""Case: one measurement, a frozen dataclass in which one field is one axis.

The options of `pytest bench`, ids of tests, flags of `accelerate launch`, options of the core and columns of
reports are read off the fields. So a new axis is one new field, if the core has the option. CONTRIBUTING.md says
what else names the axes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from accelerate.utils import DynamoBackend

from bench.subjects.load import CORE, FORMS, PLAIN, short_name
from bench.subjects.subject import Setup
from bench.suite.axes import (
    Axis,
    axis_field,
    execution_axis,
    parse_image_shape,
    parse_positive,
    parse_recipe,
    parse_subject,
    sizes_of,
    yes_or_no,
)
from bench.suite.settings import swept_settings
from gan.data.datasets import DEFAULT_IMAGE_SHAPE, SYNTHETIC_NUM_CLASSES
from gan.errors import UsageError, require_known
from gan.recipe_files import label_of, recipe_named
from gan.recipe_settings import with_settings
from gan.recipes import Recipe
from gan.training.execution import COMPILE_MODES, CommHook, Execution, MemoryFormat

COMPILERS = ("no", *sorted(backend.value.lower() for backend in DynamoBackend if backend != DynamoBackend.NO))
DEFAULT_SHAPE = "x".join(map(str, DEFAULT_IMAGE_SHAPE))
PRECISIONS = ("fp32", "bf16", "fp16", "tf32")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement. `workload` is a row of `bench.suite.workloads.WORKLOADS`; every other field is an axis.

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

    workload: str = "step"
    subject: str = axis_field(
        CORE,
        Axis(
            f"whose step: {CORE}, {PLAIN}, {FORMS}, or an installed entry point",
            "subject",
            parse=parse_subject,
            label=short_name,
            short=lambda value: "" if value == CORE else short_name(value),
        ),
    )
    recipe: str = axis_field(
        "mlp",
        Axis(
            "rows of gan/recipes.py, or FILE.py or FILE.py:NAME",
            "recipe",
            parse=parse_recipe,
            label=lambda value: label_of(value) or "–",
            short=label_of,
            train=lambda value: {"recipe": value},
        ),
    )
    device: str = axis_field("cpu", Axis("cpu, cuda (default: all there are)", "device", ("cpu", "cuda")))
    precision: str = axis_field(
        "fp32",
        Axis(
            "fp32, bf16, fp16, tf32",
            "precision",
            PRECISIONS,
            launch=lambda value: {"mixed_precision": value if value in ("bf16", "fp16") else "no"},
            train=lambda value: {"tf32": value == "tf32"},
        ),
    )
    compile: str = axis_field(
        "no",
        Axis(
            "no, inductor, or another backend of torch.compile",
            "compiler",
            COMPILERS,
            label=lambda value: "eager" if value == "no" else value,
            launch=lambda value: {"dynamo_backend": value},
        ),
    )
    batch_size: int = axis_field(
        64,
        Axis(
            "images per micro-batch and process; with strong scaling, of all processes",
            "batch",
            parse=parse_positive,
            short="b{}".format,
        ),
    )
    accumulate: int = axis_field(
        1,
        Axis(
            "micro-batches per update, whose gradients are averaged",
            "micro-batches",
            parse=parse_positive,
            short=lambda value: f"a{value}" if value > 1 else "",
            train=lambda value: {"accumulate": value},
        ),
    )
    image_shape: str = axis_field(
        DEFAULT_SHAPE,
        Axis(
            f"channels, height and width of random images, as 3x64x64 (default: {DEFAULT_SHAPE})",
            "images",
            parse=parse_image_shape,
            short=lambda value: "" if value == DEFAULT_SHAPE else value,
            train=lambda value: {} if value == DEFAULT_SHAPE else {"image_shape": sizes_of(value)},
        ),
    )
    num_processes: int = axis_field(
        1,
        Axis(
            "how many processes share the work",
            "processes",
            parse=parse_positive,
            short="p{}".format,
            launch=lambda value: {"num_processes": value},
        ),
    )
    num_hosts: int = axis_field(
        1,
        Axis(
            "over how many hosts of --hosts the processes are spread (default: as many as there are)",
            "hosts",
            parse=parse_positive,
            short=lambda value: f"h{value}" if value > 1 else "",
            launch=lambda value: {"num_machines": value} if value > 1 else {},
        ),
    )
    scaling: str = axis_field(
        "weak",
        Axis(
            "weak: every process takes the batch; strong: they split it",
            "scaling",
            ("weak", "strong"),
            short=lambda value: "strong" if value == "strong" else "",
        ),
    )
    set: tuple[str, ...] = axis_field(
        (),
        Axis(
            "KEY=VALUE, another value for a field of the recipe, as optimizer.learning_rate=1e-4,2e-4; semicolons "
            "between values that have commas themselves; repeat it for more fields",
            "set",
            label=lambda value: " ".join(value) or "–",
            short="-".join,
            train=lambda value: {"set": value} if value else {},
        ),
    )

    memory_format: str = execution_axis(
        "memory_format",
        "auto",
        Axis(
            "auto, contiguous, channels_last: how weights of convolutions lie in memory",
            "memory format",
            get_args(MemoryFormat),
        ),
    )
    cuda_graph: bool = execution_axis(
        "cuda_graph",
        False,
        yes_or_no("whether a GPU takes a step as one CUDA graph", "CUDA graph", "cudagraph"),
    )
    compile_mode: str = execution_axis(
        "compile_mode",
        "default",
        Axis(
            "default, reduce-overhead, max-autotune: what inductor optimizes",
            "compile mode",
            COMPILE_MODES,
        ),
    )
    comm_hook: str = execution_axis(
        "comm_hook",
        "no",
        Axis(
            "no, bf16, fp16, powersgd: in which form processes exchange gradients",
            "exchange",
            get_args(CommHook),
            short="hook-{}".format,
        ),
    )
    recompute: bool = execution_axis(
        "recompute",
        False,
        yes_or_no(
            "whether activations are computed again in backward passes, and few are kept for them",
            "recompute",
            "recompute",
        ),
    )
    bucket_size: int = execution_axis(
        "bucket_size",
        Execution.bucket_size,
        Axis(
            "most MiB of gradients that processes exchange at once",
            "bucket MiB",
            parse=parse_positive,
            short="bucket{}".format,
        ),
    )
    shared_memory: bool = execution_axis(
        "shared_memory",
        True,
        yes_or_no(
            "whether processes on the CPUs of one host exchange gradients in memory which they share",
            "shared memory",
            "gloo",
            default="yes",
            yes="where possible",
        ),
    )

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

    def labels(self, names: Iterable[str]) -> list[str]:
        """Return the values of some axes in a few letters each, as in the id."""
        texts = ((AXES[name].short or AXES[name].label)(getattr(self, name)) for name in names)
        return [text for text in texts if text]

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
