"""Case: one measurement, a frozen dataclass in which one field is one axis.

Command-line options, test ids, launch flags and report columns are read off the fields. An axis is added by adding
its field here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from accelerate.utils import DynamoBackend

from gan.errors import UsageError, require_known
from gan.recipes import RECIPES

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
