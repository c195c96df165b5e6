"""The options of `python -m bench predict`, and how their texts are read."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from bench.predict.model import Algorithm, Cluster, Link
from bench.race.axis_options import AxisTexts, one_value_option, possible_case, with_axes
from bench.results.case_result import CaseResult
from bench.results.file import read
from bench.subjects.load import CORE
from bench.suite.cases import SETTING_AXES, Case, parse_axis
from bench.suite.machine import Machine
from gan.command_line import optional
from gan.errors import UsageError, require_known

HERE = "here"
"""As a link: what processes of this machine have among them, which is measured."""
MOST_PROCESSES = 65_536
MOST_SIZES = 12
BANDWIDTH = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) *([KMGT]?)(b|B|bit|byte)(?:/s|ps)")
POWERSGD = "what it sends is not known before it runs; choose no, bf16 or fp16"
LATENCY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) *(ns|us|µs|μs|ms|s)")
PREFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}
AXES_OF_PREDICT = (
    *("recipe", "device", "precision", "batch_size", "accumulate", "image_shape", "scaling", "set"),
    *("memory_format", "comm_hook", "bucket_size"),
)
UNCHOSEN = tuple(name for name in SETTING_AXES if name not in (*AXES_OF_PREDICT, "shared_memory"))
"""Axes of how a step runs that have no option. Of several steps in a file, that with their defaults is taken."""
ALONE = "solo"
"""The arm of a step in several processes that is one process alone, at the batch that the case names."""
BETWEEN_PROCESSES = ("scaling", "comm_hook", "bucket_size")
"""Axes that say nothing of a single process."""


@dataclass(frozen=True)
class PredictOptions(AxisTexts):
    """How long would a step take on many GPUs? A model of all-reduce, and the real step's buckets.

    The step runs here as rank 0 of so many processes, by PyTorch's fake process group. Everything shown is a
    prediction. Exit code 0: predicted. 1: the step or the link could not be measured. 2: bad input.
    """

    gpus: Annotated[str, optional(str, "COUNTS", "8,64,512; 2,3,4 with --link here")] = ""
    """Numbers of processes, one on each GPU (or CPU)."""
    link: Annotated[str, optional(str, "BANDWIDTH", "here")] = HERE
    """Bandwidth between nodes, in one direction, as 400Gb/s or 50GB/s. here: measure sums between CPU processes of
    this machine."""
    latency: Annotated[str, optional(str, "TIME", "10us")] = ""
    """What a message between nodes takes besides its bytes."""
    gpus_per_node: int = 1
    """Processes of a node, which share the link."""
    node_link: Annotated[str, optional(str, "BANDWIDTH", "none")] = ""
    """Bandwidth between GPUs of one node; needed with more than one --gpus-per-node."""
    node_latency: Annotated[str, optional(str, "TIME", "3us")] = ""
    """What a message inside a node takes besides its bytes."""
    algorithm: Annotated[str, optional(str, "NAME", "best")] = ""
    """How sums are formed: by a ring, a tree, or the faster of them for each message (best). --link here takes
    rings, as gloo does."""
    step: Annotated[Path | None, optional(Path, "PATH", "measure it now")] = None
    """Results file that has the time of the step in one process; of eager and compiled steps, the eager one."""
    against: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """Results file of `-k scaling`: predict its steps in several processes from its step in one, and compare."""
    output: Annotated[Path | None, optional(Path, "PATH", "none")] = None
    """JSON file for the predictions."""
    wide: bool = False
    """Show all columns, however narrow the terminal."""


PREDICT_OPTIONS = with_axes("PredictCommand", PredictOptions, map(one_value_option, AXES_OF_PREDICT))
"""PredictOptions with an option for each axis that is not how a compiler or a graph runs the step."""


@dataclass(frozen=True)
class PredictSettings:
    """What to predict.

    Attributes:
        case: What is trained, and how. Its `num_processes` is 1.
        sizes: Numbers of processes.
        cluster: What joins them; None to measure what joins processes of this machine.
        algorithm: How sums are formed.
        stored: The step in one process that a file has; None to measure it now.
        measured: Steps in several processes that a file has, to compare predictions with.
    """

    case: Case
    sizes: tuple[int, ...]
    cluster: Cluster | None
    algorithm: Algorithm
    stored: CaseResult | None = None
    measured: tuple[CaseResult, ...] = ()

    @property
    def measured_threads(self) -> int | None:
        """The CPU threads of each process of a file that is compared with; None without one, and on GPUs."""
        if self.measured and self.case.device == "cpu":
            return self.measured[-1].first_rank.threads
        return None

    def alone_seconds(self, size: int) -> float | None:
        """Return the step of one process alone that a file has, for a number of processes; None without a file."""
        for result in self.measured:
            if result.case.num_processes == size:
                return result.median(ALONE)
        return self.stored.median() if self.stored else None


def settings_of(options: PredictOptions) -> PredictSettings:
    """Read the options; raise UsageError."""
    cluster = _cluster(options)
    if options.against is not None:
        return _against(options, options.against, cluster)
    sizes = parse_counts("--gpus", options.gpus or ("8,64,512" if cluster else "2,3,4"))
    algorithm = _algorithm(options, cluster)
    chosen = _chosen(options)
    if chosen.get("comm_hook") == "powersgd":
        raise UsageError(f"--comm-hook powersgd: {POWERSGD}")
    stored = None
    if cluster is None and options.step is not None:
        raise UsageError(
            f"--step {options.step}: --link here measures the step too, with the cores that each process gets; "
            "leave it out, or give --link a bandwidth"
        )
    if cluster is None:
        chosen.setdefault("device", "cpu")
    if options.step is None:
        apart = {name: chosen.pop(name) for name in BETWEEN_PROCESSES if name in chosen}
        case = replace(possible_case({"subject": CORE, **chosen}, Machine.here(), "predict"), **apart)
    else:
        stored = _stored(options.step, chosen)
        apart = {name: chosen[name] for name in BETWEEN_PROCESSES if name in chosen}
        case = replace(stored.case, workload="step", **apart)
    if cluster is None and case.device != "cpu":
        raise UsageError(
            f"--link here: joins processes on CPUs, and the step is on {case.device}; give a bandwidth"
        )
    _require_shares(case, sizes)
    return PredictSettings(case, sizes, cluster, algorithm, stored)


def _algorithm(options: PredictOptions, cluster: Cluster | None) -> Algorithm:
    if not options.algorithm:
        return Algorithm.RING if cluster is None else Algorithm.BEST
    require_known("--algorithm", options.algorithm, [*Algorithm])
    if cluster is None and options.algorithm != Algorithm.RING:
        raise UsageError(
            f"--algorithm {options.algorithm}: gloo forms sums by rings; give --link, or leave it out"
        )
    return Algorithm(options.algorithm)


def _chosen(options: PredictOptions) -> dict[str, Any]:
    return {name: _one_value(name, texts) for name in AXES_OF_PREDICT if (texts := options.texts(name))}


def _against(options: PredictOptions, path: Path, cluster: Cluster | None) -> PredictSettings:
    """Read the options where a file has what is to be predicted; raise UsageError."""
    if options.gpus or options.step:
        flag = f"--gpus {options.gpus}" if options.gpus else f"--step {options.step}"
        raise UsageError(f"{flag}: --against {path} has the numbers of processes and the step; leave this out")
    measured = measured_in(path, _chosen(options), cluster)
    case = replace(measured[0].case, workload="step", num_processes=1, num_hosts=1)
    if case.comm_hook == "powersgd":
        raise UsageError(f"--against {path}: {measured[0].case.id}: comm_hook powersgd: {POWERSGD}")
    if cluster is None and case.device != "cpu":
        raise UsageError(
            f"--link here: joins processes on CPUs, and --against {path} is on {case.device}; give a bandwidth"
        )
    sizes = tuple(result.case.num_processes for result in measured)
    return PredictSettings(case, sizes, cluster, _algorithm(options, cluster), measured=measured)


def measured_in(path: Path, chosen: dict[str, Any], cluster: Cluster | None) -> tuple[CaseResult, ...]:
    """Return the steps in several processes that a results file has, alike but for their numbers of processes.

    Args:
        path: The file.
        chosen: Values of axes that they have; the fewest processes come first.
        cluster: Over whose nodes they are spread; None for processes of one machine.

    Raises:
        UsageError: There are none, or they differ in more.
    """
    scaling = [one for one in read(path).cases if one.case.workload == "scaling" and one.case.is_core]
    scaling = [one for one in scaling if one.case.num_processes > 1 and ALONE in one.seconds_per_step]
    if not scaling:
        raise UsageError(
            f"--against {path}: has no step of the core in several processes; pytest bench --benchmark-only "
            "-k scaling measures it"
        )
    sent = [one for one in scaling if not one.first_rank.shares_memory]
    if not sent:
        raise UsageError(
            f"--against {path}: its processes exchanged gradients in shared memory, and what is predicted sends "
            "them; measure with --shared-memory no"
        )
    fitting = _fitting(sent, chosen)
    fitting = fitting and _joined_as_predicted(path, fitting, cluster)
    alike = {replace(one.case, num_processes=1, num_hosts=1, shared_memory=True) for one in fitting}
    if len(alike) == 1 and len({one.case.num_processes for one in fitting}) == len(fitting):
        return tuple(sorted(fitting, key=lambda one: one.case.num_processes))
    wanted = "has steps that differ in more than processes" if fitting else "has no such step"
    names = ", ".join(one.case.id for one in (fitting or sent)[:8])
    raise UsageError(f"--against {path}: {wanted}; choose by --recipe, --scaling and other axes: {names}")


def _joined_as_predicted(path: Path, steps: list[CaseResult], cluster: Cluster | None) -> list[CaseResult]:
    """Return the steps whose processes are spread as the prediction spreads them; raise UsageError.

    A bandwidth is that between hosts if the file has several, and otherwise that between processes of its host.
    """
    most = cluster.processes_per_node if cluster else MOST_PROCESSES
    if most == 1 and all(one.case.num_hosts == 1 for one in steps):
        most = MOST_PROCESSES
    fitting = [
        one
        for one in steps
        if one.case.num_processes == most * one.case.num_hosts
        or (one.case.num_hosts == 1 and one.case.num_processes < most)
    ]
    if fitting:
        return fitting
    case = steps[0].case
    if cluster is None:
        raise UsageError(
            f"--against {path}: {case.id} is of several hosts; give --link their bandwidth, as in 1Gb/s"
        )
    raise UsageError(
        f"--gpus-per-node {most}: --against {path}: {case.id} has {case.num_processes // case.num_hosts} "
        "processes on each host; give that number"
    )


def parse_counts(flag: str, text: str) -> tuple[int, ...]:
    """Return numbers of processes, the least first; raise UsageError.

    >>> parse_counts("--gpus", "8, 64,8")
    (8, 64)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,6}", part) and 1 <= int(part) <= MOST_PROCESSES for part in parts):
        raise UsageError(f"{flag} {text}: must be numbers from 1 to {MOST_PROCESSES:,}, as in 8,64,512")
    counts = tuple(sorted({int(part) for part in parts}))
    if len(counts) > MOST_SIZES:
        raise UsageError(f"{flag} {text}: {len(counts)} numbers; at most {MOST_SIZES}")
    return counts


def parse_bandwidth(flag: str, text: str) -> float:
    """Return bytes per second; raise UsageError.

    >>> parse_bandwidth("--link", "400Gb/s"), parse_bandwidth("--link", "50 GB/s")
    (50000000000.0, 50000000000.0)
    """
    match = BANDWIDTH.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise UsageError(f"{flag} {text}: no bandwidth; give bits as in 400Gb/s, or bytes as in 50GB/s")
    return float(match[1]) * PREFIXES[match[2]] / (8 if match[3] in ("b", "bit") else 1)


def parse_latency(flag: str, text: str) -> float:
    """Return seconds; raise UsageError.

    >>> parse_latency("--latency", "1ms"), parse_latency("--latency", "0us")
    (0.001, 0.0)
    """
    match = LATENCY.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{flag} {text}: no time; give it as in 5us, 0.1ms or 800ns")
    return float(match[1]) * SECONDS[match[2]]


def _cluster(options: PredictOptions) -> Cluster | None:
    texts = {
        "--latency": options.latency,
        "--node-link": options.node_link,
        "--node-latency": options.node_latency,
    }
    if options.link.strip() == HERE:
        given = [f"{flag} {text}" for flag, text in texts.items() if text]
        given += [f"--gpus-per-node {options.gpus_per_node}"] if options.gpus_per_node != 1 else []
        if given:
            raise UsageError(f"{given[0]}: --link here is measured; give --link a bandwidth, or leave this out")
        return None
    if not 1 <= options.gpus_per_node <= MOST_PROCESSES:
        raise UsageError(f"--gpus-per-node {options.gpus_per_node}: must be from 1 to {MOST_PROCESSES:,}")
    link = Link(parse_bandwidth("--link", options.link), parse_latency("--latency", options.latency or "10us"))
    if options.gpus_per_node == 1:
        for flag in ("--node-link", "--node-latency"):
            if texts[flag]:
                raise UsageError(f"{flag} {texts[flag]}: nodes have one GPU each; add --gpus-per-node, as in 8")
        return Cluster(link)
    if not options.node_link:
        raise UsageError(
            f"--gpus-per-node {options.gpus_per_node}: give --node-link, the bandwidth between GPUs of one node, "
            "as in 450GB/s"
        )
    inside = Link(
        parse_bandwidth("--node-link", options.node_link),
        parse_latency("--node-latency", options.node_latency or "3us"),
    )
    return Cluster(link, options.gpus_per_node, inside)


def _one_value(name: str, texts: tuple[str, ...]) -> Any:
    values = parse_axis(name, texts)
    if len(values) != 1:
        flag = f"--{name.replace('_', '-')} {','.join(texts)}"
        raise UsageError(f"{flag}: {len(values)} values; a prediction is of one: give one")
    return values[0]


def _stored(path: Path, chosen: dict[str, Any]) -> CaseResult:
    """Return the one step of a results file that has the values chosen; raise UsageError."""
    steps = [
        result
        for result in read(path).cases
        if result.case.workload == "step" and result.case.is_core and result.case.num_processes == 1
    ]
    steps = [result for result in steps if not result.case.cuda_graph]  # several processes cannot run as one
    if not steps:
        raise UsageError(f"--step {path}: has no step of the core in one process, without a CUDA graph")
    asked = {name: value for name, value in chosen.items() if name not in BETWEEN_PROCESSES}
    fitting = _fitting(steps, asked)
    if len(fitting) == 1:
        return fitting[0]
    wanted = "has several steps" if fitting else "has no such step"
    names = ", ".join(result.case.id for result in (fitting or steps)[:8])
    raise UsageError(f"--step {path}: {wanted}; choose one by --recipe, --precision and --batch-size: {names}")


def _fitting(steps: list[CaseResult], chosen: dict[str, Any]) -> list[CaseResult]:
    """Return the steps that have these values; of them those that run as by default otherwise, if any does."""
    fitting = [one for one in steps if all(getattr(one.case, name) == value for name, value in chosen.items())]
    usual = [one for one in fitting if all(getattr(one.case, name) == getattr(Case, name) for name in UNCHOSEN)]
    return usual or fitting


def _require_shares(case: Case, sizes: tuple[int, ...]) -> None:
    """Raise UsageError where a batch cannot be split among so many processes."""
    for size in sizes:
        if case.scaling == "strong" and case.batch_size % size:
            raise UsageError(
                f"--scaling strong: a batch of {case.batch_size} cannot be split over {size} processes; "
                "give --batch-size a multiple, or --scaling weak"
            )
