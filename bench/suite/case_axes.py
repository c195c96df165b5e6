"""CaseAxes: what can be asked of a measurement, one field an axis."""

from dataclasses import dataclass
from typing import get_args

from accelerate.utils import DynamoBackend

from bench.subjects.load import CORE, FORMS, PLAIN, short_name
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
from gan.data.datasets import DEFAULT_IMAGE_SHAPE
from gan.recipe_files import label_of
from gan.training.execution import COMPILE_MODES, CommHook, Execution, MemoryFormat

COMPILERS = ("no", *sorted(backend.value.lower() for backend in DynamoBackend if backend != DynamoBackend.NO))
DEFAULT_SHAPE = "x".join(map(str, DEFAULT_IMAGE_SHAPE))
PRECISIONS = ("fp32", "bf16", "fp16", "tf32")


@dataclass(frozen=True, kw_only=True)
class CaseAxes:
    """The fields of a case: `workload`, a row of `bench.suite.workloads.WORKLOADS`, and the axes."""

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
